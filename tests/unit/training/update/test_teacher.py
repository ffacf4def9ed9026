from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from shrinkserve.artifact import read_card
from shrinkserve.config import Recipe
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.predictor import Images, Logits
from shrinkserve.training.train import profile_training, train
from shrinkserve.training.update.prefetch import DeviceBatch
from shrinkserve.training.update.teacher import Teacher, distillation_loss

Make = Callable[..., Recipe]
CPU = torch.device("cpu")


class Mean:
    """A predictor whose logits are the mean red and blue of its images."""

    def __init__(self, size: int, classes: Sequence[str] = ("blue", "red")) -> None:
        self.name, self.size, self.classes = "mean", size, classes
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, images: Images) -> Logits:
        self.shapes.append(images.shape)
        return images.mean((1, 2), dtype=np.float32)[:, [2, 0]] / 50


def test_distillation_loss_is_the_scaled_divergence() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    expected = (
        kl_div(torch.log(torch.softmax(student / 3, 1)), torch.softmax(teacher / 3, 1), reduction="batchmean") * 9
    )
    assert distillation_loss(student, teacher, 3.0) == pytest.approx(float(expected), rel=1e-5)
    assert distillation_loss(teacher, teacher, 3.0) == pytest.approx(0.0, abs=1e-6)


def test_teacher_from_a_run_gives_the_runs_logits(run: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = Teacher(run, ["blue", "red"], CPU).logits(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), Checkpoint(run).predict(images), rtol=1e-5, atol=1e-5)


def test_teacher_of_another_size_gets_resized_pixels() -> None:
    teacher = Mean(48)
    flat = torch.full((2, 32, 32, 3), 100, dtype=torch.uint8)
    found = Teacher(teacher, ["blue", "red"], CPU).logits(flat)
    assert teacher.shapes == [(2, 48, 48, 3)]
    assert found.tolist() == [[2.0, 2.0]] * 2


def test_unsuitable_teacher_is_refused_and_leaves_nothing(tmp_path: Path, run: Path, colours: Path, tiny: Make) -> None:
    with pytest.raises(ConfigError, match="other classes"):
        Teacher(run, ["red", "blue"], CPU)
    with pytest.raises(ConfigError, match="other classes"):
        train(tiny(), colours, tmp_path / "run", teacher=Mean(32, ["a", "b", "c"]))
    with pytest.raises(ArtifactError):
        train(tiny(), colours, tmp_path / "run", teacher=tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"distill\.weight"):
        train(tiny(distill={"weight": 0}), colours, tmp_path / "run", teacher=run)
    assert not (tmp_path / "run").exists()


def test_taught_batches_are_in_order() -> None:
    teacher = Teacher(Mean(8), ["blue", "red"], CPU)
    images = [torch.full((2, 8, 8, 3), value, dtype=torch.uint8) for value in (50, 100, 150)]
    batches = iter([DeviceBatch(one, torch.zeros(2, dtype=torch.int64)) for one in images])
    found = [batch.teacher for batch in teacher.taught(batches)]
    assert [float(logits[0, 0]) for logits in found if logits is not None] == [1.0, 2.0, 3.0]


def test_distilled_run_records_and_needs_its_teacher(
    tmp_path: Path, run: Path, colours: Path, tiny: Make, interrupt_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    recipe = tiny(train={"checkpoint_steps": 2}, distill={"weight": 1.0}, augment={"mixup": 0.2})
    whole = train(recipe, colours, tmp_path / "whole", teacher=run)
    assert list(whole.card.parents.values()) == [read_card(run).weights_sha256]
    with interrupt_at(5):
        train(recipe, colours, tmp_path / "broken", teacher=run)
    with pytest.raises(ConfigError, match="another teacher"):
        train(recipe, colours, tmp_path / "broken", resume=True)
    broken = train(recipe, colours, tmp_path / "broken", teacher=run, resume=True)
    assert broken.card.weights_sha256 == whole.card.weights_sha256


def test_profile_has_the_time_of_the_teacher(run: Path, colours: Path, tiny: Make) -> None:
    assert any("teacher" in part for part in profile_training(tiny(), colours, teacher=run).seconds)
    assert not any("teacher" in part for part in profile_training(tiny(), colours).seconds)
