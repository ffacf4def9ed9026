from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.cli import main
from shrinkserve.data import open_dataset

Mistake = Callable[[Path, Path, Path], list[object]]


def truncated_shard(tmp: Path, digits: Path, _run: Path) -> list[object]:
    shutil.copytree(digits, tmp / "data")
    shard = next((tmp / "data/train_tfrecord").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    return ["train", "smoke", "--data", tmp / "data", "--out", tmp / "out"]


def damaged_weights(tmp: Path, _digits: Path, run: Path) -> list[object]:
    shutil.copytree(run, tmp / "run")
    weights = tmp / "run/ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    return ["export", tmp / "run", "--repository", tmp / "out"]


def recipe_with_a_typo(tmp: Path, digits: Path, _run: Path) -> list[object]:
    (tmp / "r.toml").write_text('name = "r"\n[trian]\nseed = 1\n')
    return ["train", tmp / "r.toml", "--data", digits, "--out", tmp / "out"]


def empty_folder(tmp: Path, _digits: Path, _run: Path) -> list[object]:
    (tmp / "empty").mkdir()
    return ["train", "smoke", "--data", tmp / "empty", "--out", tmp / "out"]


def unwritable_repository(tmp: Path, _digits: Path, run: Path) -> list[object]:
    (tmp / "file").write_text("")
    return ["export", run, "--repository", tmp / "file" / "repository"]


def image(tmp: Path, digits: Path) -> Path:
    (tmp / "digit.jpg").write_bytes(open_dataset(digits, "validation").record(0).encoded)
    return tmp / "digit.jpg"


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "missing data": (lambda t, _d, _r: ["train", "smoke", "--data", t / "gone", "--out", t / "out"], "gone"),
    "missing recipe": (lambda t, d, _r: ["train", t / "x.toml", "--data", d, "--out", t / "out"], "x.toml"),
    "missing run": (lambda t, _d, _r: ["export", t / "gone", "--repository", t / "out"], "gone"),
    "truncated records": (truncated_shard, "train-0000"),
    "damaged weights": (damaged_weights, "ema.safetensors"),
    "recipe key": (recipe_with_a_typo, "did you mean train?"),
    "network": (
        lambda t, d, _r: ["train", "smoke", "--data", d, "--out", t / "out", "--set", "model.network=shrinkcnn-c"],
        "did you mean shrinkcnn-",
    ),
    "training precision": (
        lambda t, d, _r: ["train", "smoke", "--data", d, "--out", t / "out", "--set", "train.precision=fp8"],
        "train.precision",
    ),
    "shipped precision": (lambda t, _d, r: ["export", r, "--repository", t / "out", "--to", "fp8"], "fp8"),
    "no such image": (lambda t, _d, _r: ["predict", t / "gone.jpg"], "gone.jpg"),
    "empty folder": (empty_folder, "empty"),
    "unwritable repository": (unwritable_repository, "repository"),
    "model name that is a path": (
        lambda t, _d, r: ["export", r, "--repository", t / "out", "--name", "../x"],
        "model name",
    ),
    "empty model name": (lambda t, _d, r: ["export", r, "--repository", t / "out", "--name", ""], "model name"),
    "no precision": (lambda t, _d, r: ["export", r, "--repository", t / "out", "--to", ","], "--to"),
    "version 0": (lambda t, _d, r: ["export", r, "--repository", t / "out", "--version", 0], "version"),
    "labels of a run": (
        lambda t, _d, r: ["export", r, "--repository", t / "out", "--labels", r / "card.json"],
        "--onnx",
    ),
    "loss of nan points": (
        lambda t, _d, r: ["export", r, "--repository", t / "out", "--to", "int8", "--max-top1-drop", "nan"],
        "nan",
    ),
    "tolerance below zero": (lambda _t, d, r: ["compare", r, r, "--data", d, "--tolerance", -1], "-1"),
    "rate without end": (
        lambda t, d, _r: ["train", "smoke", "--data", d, "--out", t / "out", "--set", "optimizer.lr=inf"],
        "optimizer.lr",
    ),
    "file for a run": (lambda _t, d, r: ["export", r / "card.json", "--data", d], "card.json"),
    "empty repository": (lambda t, _d, _r: ["serve", "--repository", t], "no model"),
    "no server": (lambda t, d, _r: ["predict", image(t, d), "--url", "grpc://127.0.0.1:1"], "127.0.0.1:1"),
    "no server to measure": (
        lambda t, d, r: ["bench", "--data", d, "--url", "http://127.0.0.1:1", "--checkpoint", r, "--out", t / "out"],
        "127.0.0.1:1",
    ),
    "no repository to clean up": (lambda t, *_: ["repo", "gc", "--repository", t / "out"], "/out"),
    "no repository to roll back": (
        lambda t, *_: ["repo", "rollback", "m", "--repository", t / "out"],
        "/out",
    ),
    "network to describe": (lambda *_: ["describe", "shrinkcnn-z"], "shrinkcnn-z"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, digits: Path, smoke_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mistake, says = MISTAKES[name]
    words = [str(word) for word in mistake(tmp_path, digits, smoke_run)]
    assert main(words) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert says in error[0]
    left = [path for path in (tmp_path / "out").rglob("*") if not path.name.startswith(".")]
    assert not left, "incomplete files"
