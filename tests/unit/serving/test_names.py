from __future__ import annotations

import pytest

from shrinkserve.serving import names


@pytest.mark.parametrize(
    ("known", "called"),
    [
        (
            ["a", "a_classifier", "a_lines", "a_preprocess", "a_text", "b_classifier", "c", "c_text"],
            ["a", "b", "c", "c_text"],
        ),
        (["c", "c_preprocess"], ["c", "c_preprocess"]),
        ([], []),
    ],
)
def test_public_names_hide_parts_of_ensembles(known: list[str], called: list[str]) -> None:
    assert names.public_names(known) == called


def test_resolve_classifier_and_model_names() -> None:
    known = ["a", "a_classifier", "c"]
    assert [names.resolve_classifier(name, known) for name in ("a", "a_classifier", "c", "d")] == [
        "a_classifier",
        "a_classifier",
        "c",
        "d",
    ]
    assert names.models_behind("a_classifier") == ["a_classifier", "a_preprocess", "a", "a_lines", "a_text"]
    assert names.models_behind("c") == ["c"]
    assert (
        list(names.model_names("a")) == list(names.model_names("a_classifier")) == names.models_behind("a_classifier")
    )
