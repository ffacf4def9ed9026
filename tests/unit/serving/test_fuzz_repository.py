"""Fuzz the files of a repository that come from anywhere: cards, their engines, and configurations.

Whatever they contain, reading them ends with a result or with one line, and writes nothing outside the repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shrinkserve.artifact import Card, read_card
from shrinkserve.engines import check_files, engines_of
from shrinkserve.errors import ShrinkServeError
from shrinkserve.serving import config_text
from shrinkserve.serving.repository.trust import runs_code
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository

MakeModel = Callable[..., tuple[Path, Card]]
FIXTURE = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["../x", "/etc/passwd", "a/../../b", "$(id)", "\0", "\ud800", ""])
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
engines = st.fixed_dictionaries(
    {
        "backend": st.one_of(st.sampled_from(["onnxruntime", "openvino", "tensorrt", "python"]), values),
        "file": st.one_of(st.sampled_from(["model.onnx", "model.plan", "model.py"]), values),
    },
    optional={
        "precision": st.one_of(st.sampled_from(["float32", "int8"]), values),
        "capabilities": st.one_of(st.dictionaries(texts, texts, max_size=2), values),
        "parameters": st.one_of(st.dictionaries(texts, texts, max_size=2), values),
        "record": values,
    },
)
FIELDS = ["kind", "name", "files", "parents", "preprocess", "classes", "metrics", "checks", "details", "versions"]


def error_of(action: Callable[[], object]) -> str:
    """Run an action and return its error, "" if there is none."""
    try:
        action()
    except ShrinkServeError as exc:
        return str(exc)
    return ""


def is_short_line(text: str) -> bool:
    return len(text.splitlines()) <= 1 and len(text) < 2000


@FIXTURE
@given(content=st.one_of(st.binary(max_size=200), values.map(lambda value: json.dumps(value).encode())))
@example(content=b"[" * 100_000)
@example(content=b'{"kind": "onnx", "name": "m", "metrics": {"a": ' + b"9" * 5000 + b"}}")
@example(content='{"kind": "onnx", "name": "m"}'.encode("utf-16"))
def test_read_card_accepts_or_rejects_any_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    assert is_short_line(error_of(lambda: read_card(tmp_path)))


@FIXTURE
@given(changes=st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3))
def test_list_and_verify_survive_any_card(tmp_path: Path, make_model: MakeModel, changes: dict[str, object]) -> None:
    root = tmp_path / "models"
    if not root.exists():
        Repository(root).add("tiny", *make_model(0))
        (tmp_path / "card").write_bytes((root / "tiny/1/card.json").read_bytes())
    card = json.loads((tmp_path / "card").read_text()) | changes
    (root / "tiny/1/card.json").write_text(json.dumps(card))
    lines = list(problems(Repository(root), "tiny"))
    assert all(len(line.splitlines()) == 1 for line in lines)


@FIXTURE
@given(entries=st.dictionaries(texts, engines, min_size=1, max_size=2))
@example(entries={"../config": {"backend": "python", "file": "model.py"}})
def test_engines_of_any_card_stay_inside_the_version(
    tmp_path: Path, make_model: MakeModel, entries: dict[str, dict[str, object]]
) -> None:
    model_file, card = make_model(0)
    (tmp_path / "card.json").write_text(
        json.dumps({"kind": "onnx", "name": "m", "files": card.files, "details": {"engines": entries}})
    )

    def add() -> None:
        found = read_card(tmp_path, verify=False)
        for engine in engines_of(found):
            assert engine.files <= card.files.keys()
            assert Path(engine.name).name == engine.name
        check_files(found)
        Repository(tmp_path / "models").add("tiny", model_file, replace(card, details=found.details))

    assert is_short_line(error_of(add))
    assert {path.name for path in tmp_path.iterdir()} <= {"card.json", "models"}


@FIXTURE
@given(
    text=st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    "name",
                    ":",
                    '"a"',
                    "{",
                    "}",
                    "input",
                    "dims",
                    "1",
                    "-1",
                    "max_batch_size",
                    "99999999999",
                    "[",
                    "]",
                    ",",
                ]
            ),
            max_size=30,
        ).map(" ".join),
    )
)
@example(text="input {" * 20_000)
@example(text='name: "' + "a" * 1_000_000 + '"')
def test_read_config_accepts_or_rejects_any_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert is_short_line(error_of(lambda: config_text.read_config(path)))
    assert is_short_line(error_of(lambda: runs_code(tmp_path)))


@pytest.mark.parametrize("text", ["input { dims: [" + "1," * 1_000_000 + "1] }", "input {} " * 500_000])
def test_read_config_rejects_endless_fields(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(ShrinkServeError, match="too many fields"):
        config_text.read_config(tmp_path / "config.pbtxt")


@pytest.mark.parametrize("size", [(64 << 20) + 1])
def test_read_config_rejects_huge_file(tmp_path: Path, size: int) -> None:
    with (tmp_path / "config.pbtxt").open("wb") as stream:
        stream.truncate(size)
    with pytest.raises(ShrinkServeError, match="more than"):
        config_text.read_config(tmp_path / "config.pbtxt")
