from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shrinkserve.config import Recipe
from shrinkserve.training import checkpoints
from shrinkserve.training.logs import METRICS, read_metrics
from shrinkserve.training.loop import train


def weights(run: Path) -> dict[str, bytes]:
    return {name: (run / f"{name}.safetensors").read_bytes() for name in ("ema", "raw")}


def steps(run: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_metrics(run / METRICS)]


MORE = {
    "optimizer": {"name": "adamw", "lr": 1e-3, "epsilon": 1e-8},
    "model": {"dropout": 0.3},
    "train": {"precision": "float16", "accumulate": 2, "ema_buffers": True},
}


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        pytest.param(2, {}, id="2-rmsprop"),
        pytest.param(2, MORE, id="2-adamw-dropout-float16-accumulated"),
        pytest.param(3, {}, id="3-rmsprop"),  # from three on, the order of a sum depends on how gradients are grouped
    ],
)
def test_killed_at_random_steps_it_ends_bit_identical(
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


def test_another_number_of_processes_goes_on_and_says_so(
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
