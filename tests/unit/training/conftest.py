"""A dataset of small images on disk, and recipes that train on it in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.training.train import train
from shrinkserve.training.update.train_state import TrainState


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder of two classes that are easy to separate: reddish and bluish noise. Read only."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(7)
    for split, count in (("train", 24), ("val", 11)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (36, 40, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def recipe(**sections: dict[str, Any]) -> Recipe:
    """Return a recipe for `colours`; keywords are sections with the keys to change."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "model": {"network": "shrinkcnn-tiny", "input_size": 32, "width": 0.25, "batch_norm_decay": 0.8},
        "augment": {"random_interpolation": False, "hue": 0.0, "brightness": 0.05, "erase_probability": 0.0},
        "schedule": {"epochs": 2, "warmup_epochs": 0, "per_step": True},
        "train": {"batch_size": 8, "ema_decay": 0.5, "deterministic": True, "threads": 1},
        "data": {"loader": "portable", "workers": 0},
    }
    for name, keys in sections.items():
        raw[name] = {**raw.get(name, {}), **keys}
    return parse_recipe(raw)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Return a function that makes a recipe for `colours`; keywords are sections with the keys to change."""
    return recipe


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """Return a complete run of four epochs on `colours`. Read only."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(recipe(schedule={"epochs": 4}), colours, out)
    return out


@pytest.fixture
def run_ranks() -> Callable[..., str]:
    """Return a function that trains in several processes (ranks.py) and returns their output."""

    def run(recipe: Recipe, data: Path, out: Path, world: int, kills: Sequence[tuple[int, int]] = ()) -> str:
        job = {"data": str(data), "out": str(out), "recipe": recipe.to_dict(), "world": world, "kills": kills}
        command = [sys.executable, str(Path(__file__).with_name("ranks.py")), json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Return a context in which training is interrupted before an update, and which expects it."""

    @contextmanager
    def interrupt(step: int) -> Iterator[None]:
        update = TrainState.update

        def killed(self: TrainState, batches: Any, number: int, rate: float) -> None:
            if number == step:
                raise KeyboardInterrupt
            update(self, batches, number, rate)

        with monkeypatch.context() as patch:
            patch.setattr(TrainState, "update", killed)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupt
