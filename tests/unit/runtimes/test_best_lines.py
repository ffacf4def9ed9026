from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.best_lines import MAX_NAME, hash_in_file, line_table, lines_model, table_hash


def texts(classes: list[str], probabilities: np.ndarray) -> list[str]:  # type: ignore[type-arg]
    session = ort.InferenceSession(lines_model(classes), providers=["CPUExecutionProvider"])
    (found,) = session.run(["text"], {"probabilities": probabilities.astype(np.float32)})
    return [bytes(row).decode() for row in found]


NAMES = ["tench", 'a "quoted" name', "naïve 狗", "back\\slash", "e", "f", "a, b: c"]


def test_lines_are_the_best_classes_with_rounded_probabilities() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(NAMES)), 20)
    for text, row in zip(texts(NAMES, probabilities), probabilities, strict=True):
        assert text[0] == text[-1] == "\n"
        lines = [json.loads(line) for line in text.split("\n")[1:-1]]
        order = np.argsort(-row)[:5]
        assert [line["index"] for line in lines] == list(order)
        assert [line["name"] for line in lines] == [NAMES[index] for index in order]
        assert [line["probability"] for line in lines] == pytest.approx(list(row[order]), abs=5.1e-5)


def test_certain_class_has_probability_one() -> None:
    (text,) = texts(["a", "b"], np.array([[0.0, 1.0]]))
    assert text.split("\n")[1:-1] == [
        '{"probability": 1.0000, "index": 1, "name": "b"}',
        '{"probability": 0.0000, "index": 0, "name": "a"}',
    ]


def test_line_has_no_control_characters_and_is_not_endless() -> None:
    text, *_ = texts(["\u202ename", "x" * 10_000], np.array([[0.6, 0.4]]))
    first, second = (json.loads(line) for line in text.split("\n")[1:-1])
    assert "\u202e" not in text
    assert first["name"] == "\u202ename"
    assert len(second["name"]) == MAX_NAME


def test_invalid_probabilities_give_valid_lines() -> None:
    for text in texts(["a", "b"], np.array([[np.nan, np.nan], [-1.0, 12345.0]])):
        assert {json.loads(line)["name"] for line in text.split("\n")[1:-1]} <= {"a", "b"}


def test_hash_identifies_the_classes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(lines_model(NAMES))
    assert hash_in_file(path) == table_hash(line_table(NAMES))
    assert hash_in_file(path) != table_hash(line_table(NAMES[::-1]))
    for damage in (b"no graph", b""):
        path.write_bytes(damage)
        with pytest.raises(ArtifactError):
            hash_in_file(path)
