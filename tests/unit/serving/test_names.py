from __future__ import annotations

import pytest

from shrinkserve.serving import names


@pytest.mark.parametrize(
    ("known", "called"),
    [
        (["a", "a_classifier", "a_preprocess", "b_classifier", "c"], ["a", "b", "c"]),
        (["c", "c_preprocess"], ["c", "c_preprocess"]),
        ([], []),
    ],
)
def test_what_people_call_them(known: list[str], called: list[str]) -> None:
    assert names.known_models(known) == called


def test_the_classifier_of_a_name() -> None:
    known = ["a", "a_classifier", "c"]
    assert [names.known_classifier(name, known) for name in ("a", "a_classifier", "c", "d")] == [
        "a_classifier",
        "a_classifier",
        "c",
        "d",
    ]
    assert names.whole("a_classifier") == ["a_classifier", "a_preprocess", "a"]
    assert names.whole("c") == ["c"]
    assert names.parts("a") == names.parts("a_classifier") == ["a_classifier", "a_preprocess", "a"]
