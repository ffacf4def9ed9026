from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.serving.repository.reader import labels_problem
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository


@pytest.fixture
def repository(tmp_path: Path, make_model: Callable[..., tuple[Path, Card]]) -> Repository:
    repository = Repository(tmp_path / "models")
    for seed in range(2):
        repository.add("tiny", *make_model(seed))
    return repository


def test_problems_of_valid_repository_are_none(repository: Repository) -> None:
    assert list(problems(repository, "tiny")) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dims: 8\n  dims: 8", "dims: 9\n  dims: 9", r"input images: the file has TYPE_UINT8 \[8, 8, 3\], the config "),
        ("TYPE_UINT8", "TYPE_FP32", r"TYPE_UINT8 \[8, 8, 3\], the config TYPE_FP32 \[8, 8, 3\]"),
        ('name: "logits"', 'name: "scores"', "output logits: the file has .*, the config none"),
        ('name: "tiny"', 'name: "other"', "the config is of a model named 'other'"),
        ("versions: 2", "versions: 3", "no such version: expected one of 1, 2, found 3"),
        ("max_batch_size", "max_batch_sise", "not a Triton model configuration"),
    ],
)
def test_problems_reports_config_that_misfits_the_file(
    repository: Repository, old: str, new: str, message: str
) -> None:
    path = repository.root / "tiny" / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert any(re.search(message, line) for line in problems(repository, "tiny"))


def test_problems_reports_graph_of_fixed_batch(tmp_path: Path, make_model: Callable[..., tuple[Path, Card]]) -> None:
    model_file, card = make_model()
    model = onnx.load(model_file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, model_file)
    repository = Repository(tmp_path / "fixed")
    repository.add("tiny", model_file, replace(card, files={"model.onnx": sha256_file(model_file)}))
    assert any("batch: the file has 1 images, the config up to 32" in line for line in problems(repository, "tiny"))


def test_problems_reports_weights_of_another_version(repository: Repository) -> None:
    path = repository.root / "tiny" / "config.pbtxt"
    other = repository.card("tiny", 1).weights_sha256
    path.write_text(path.read_text().replace(repository.card("tiny", 2).weights_sha256, other))
    (line,) = problems(repository, "tiny")
    assert "weights_sha256: the card has" in line


def test_problems_reports_labels_of_another_model(repository: Repository) -> None:
    (repository.root / "tiny" / "labels.txt").write_text("a\nb\nc\nd\n")
    (line,) = problems(repository, "tiny")
    assert line.endswith("labels.txt: not the classes of the card")


def test_problems_checks_every_version(repository: Repository) -> None:
    for version in ("1", "2"):
        path = repository.root / "tiny" / version / "model.onnx"
        path.write_bytes(path.read_bytes() + b"\0")
    first, second = problems(repository, "tiny")
    assert ["tiny/2/model.onnx: sha256" in first, "tiny/1/model.onnx: sha256" in second] == [True, True]


def test_problems_reports_card_with_files_outside(repository: Repository) -> None:
    replace(repository.card("tiny", 1), files={"../../../secret": "0" * 64}).write(repository.root / "tiny" / "1")
    (line,) = problems(repository, "tiny")
    assert "names a file outside itself" in line


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: text.partition("\n")[0]])
def test_problems_reports_labels_with_other_line_ends_or_too_few(
    repository: Repository, change: Callable[[str], str]
) -> None:
    path = repository.root / "tiny" / "labels.txt"
    path.write_bytes(change(path.read_text()).encode())
    (line,) = problems(repository, "tiny")
    assert line.endswith("labels.txt: not the classes of the card")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\r\nb\r\nc\r\nd\r\n", "carriage returns"),
        (b"a\nb\n", "expected 4 class names, found 2"),
        (b"a\nb\nc\n\xe4\n", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_labels_problem_needs_no_card(repository: Repository, content: bytes | None, problem: str) -> None:
    folder = repository.root / "tiny"
    assert labels_problem(folder) is None
    (folder / "labels.txt").unlink()
    if content is not None:
        (folder / "labels.txt").write_bytes(content)
    assert problem in (labels_problem(folder) or "")
