from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shrinkserve.cli import main
from shrinkserve.config import Recipe
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.metrics_log import METRICS, read_metrics
from shrinkserve.training.train import train


def weights(run: Path) -> dict[str, bytes]:
    return {name: (run / f"{name}.safetensors").read_bytes() for name in ("ema", "raw")}


def steps(run: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_metrics(run / METRICS)]


MORE = {
    "optimizer": {"name": "adamw", "lr": 1e-3, "epsilon": 1e-8},
    "model": {"dropout": 0.3, "stochastic_depth": 0.3},
    "train": {"precision": "float16", "accumulate": 2, "ema_buffers": True},
}


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        pytest.param(2, {}, id="2-rmsprop"),
        pytest.param(2, MORE, id="2-adamw-random-depth-float16-accumulated"),
        pytest.param(3, {}, id="3-rmsprop"),  # from three on, the order of a sum depends on how gradients are grouped
    ],
)
def test_resume_is_bit_identical_after_kills_at_random_steps(
    tmp_path: Path,
    colours: Path,
    tiny: Callable[..., Recipe],
    run_ranks: Callable[..., str],
    world: int,
    sections: dict[str, Any],
) -> None:
    keys = {"batch_size": 4, "checkpoint_steps": 2, "keep_checkpoints": 2, **sections.get("train", {})}
    recipe = tiny(**{**sections, "train": keys, "schedule": {"epochs": 2}})
    last = 2 * (48 // (4 * world * recipe.train.accumulate))
    run_ranks(recipe, colours, tmp_path / "unbroken", world)
    rng = random.Random()  # other steps in each run of the test; they are in the message
    kills = [(rng.randrange(world), step) for step in sorted(rng.sample(range(1, last), 2))]
    output = run_ranks(recipe, colours, tmp_path / "killed", world, kills)
    assert output.count("resuming ") >= sum(step > 2 for _, step in kills), kills
    assert weights(tmp_path / "killed") == weights(tmp_path / "unbroken"), kills
    assert steps(tmp_path / "killed") == steps(tmp_path / "unbroken"), kills


def test_resume_continues_with_another_number_of_processes(
    tmp_path: Path,
    colours: Path,
    tiny: Callable[..., Recipe],
    run_ranks: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two updates of 8 images are kept; of what is left of the epoch one process makes updates of 4."""
    keys = {"batch_size": 4, "checkpoint_steps": 2, "keep_checkpoints": 9}
    recipe, out = tiny(train=keys, schedule={"epochs": 1}), tmp_path / "run"
    run_ranks(recipe, colours, out, 2)
    (out / "card.json").unlink()
    for path in checkpoints.listed(out / checkpoints.FOLDER)[1:]:
        path.unlink()
    capsys.readouterr()
    train(recipe, colours, out, resume=True)
    assert "another total batch (2 -> 1 processes): not bit-identical" in capsys.readouterr().out
    training = [record for record in read_metrics(out / METRICS) if record["kind"] == "train"]
    assert training[-1]["step"] == 2 + (48 - 2 * 8) // 4


@pytest.fixture
def unfinished(tmp_path: Path, colours: Path, tiny: Callable[..., Recipe]) -> tuple[Path, Path, Recipe]:
    """Return a folder with an unfinished run, its data and its recipe."""
    data, out, recipe = tmp_path / "data", tmp_path / "run", tiny(schedule={"epochs": 2})
    shutil.copytree(colours, data)
    train(recipe, data, out)
    (out / "card.json").unlink()
    checkpoints.listed(out / checkpoints.FOLDER)[-1].unlink()
    return out, data, recipe


def test_resume_rejects_exchanged_classes(unfinished: tuple[Path, Path, Recipe]) -> None:
    """The names of the classes and the number of images are the same."""
    out, data, recipe = unfinished
    for split in ("train", "val"):
        (data / split / "red" / "0.png").rename(data / split / "red" / "first.png")
        (data / split / "blue" / "0.png").rename(data / split / "red" / "0.png")
        (data / split / "red" / "first.png").rename(data / split / "blue" / "first.png")
    with pytest.raises(ConfigError, match="other training data"):
        train(recipe, data, out, resume=True)


def test_resume_rejects_another_validation_split(unfinished: tuple[Path, Path, Recipe]) -> None:
    out, data, recipe = unfinished
    (data / "val" / "red" / "0.png").rename(data / "val" / "red" / "other.png")
    with pytest.raises(ConfigError, match="different: validation"):
        train(recipe, data, out, resume=True)


def test_resume_after_quarantine_goes_on(
    unfinished: tuple[Path, Path, Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    """The message about a bad image advises to quarantine it, and that must not end the run."""
    out, data, recipe = unfinished
    (data / "train" / "red" / "3.png").write_text("no image")
    with pytest.raises(DataError, match="--quarantine"):
        train(recipe, data, out, resume=True)
    assert main(["data", "verify", str(data), "--quarantine"]) in {0, 1, 2}
    assert train(recipe, data, out, resume=True).trained
    assert "47 instead of 48 training images" in capsys.readouterr().out


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "bfloat16")])
def test_resume_continues_with_another_precision(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], before: str, after: str
) -> None:
    """Only float16 has a loss scaler, whose state is then missing or not needed."""
    train(tiny(schedule={"epochs": 1}, train={"precision": before}), colours, tmp_path / "run")
    more = tiny(schedule={"epochs": 2}, train={"precision": after})
    found = train(more, colours, tmp_path / "run", resume=True, allow_recipe_change=True)
    assert found.card.metrics["epochs"] == 2
