from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from shrinkserve.artifact import read_card
from shrinkserve.config import Recipe
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.preprocess import Preprocess
from shrinkserve.training.evaluation import evaluate
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.update.metrics import RunningFigures, evaluate_network, hits

PREPROCESS = Preprocess(size=32)


class Average(nn.Module):
    """Computes logits from the mean red and blue."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means[:, [2, 0]] * 3 + torch.tensor([0.0, 0.4])


def test_evaluate_network_matches_scikit_learn(colours: Path) -> None:
    dataset = open_dataset(colours, "validation")
    with join() as ranks:
        found = evaluate_network(Average(), dataset, PREPROCESS, ranks, batch_size=5, workers=0)
    batches = list(evaluation_batches(dataset, PREPROCESS, 100, workers=0))
    labels = np.concatenate([batch.labels for batch in batches])
    pixels = np.concatenate([batch.images for batch in batches]).transpose(0, 3, 1, 2)
    logits = Average()(torch.from_numpy(pixels).float() / 127.5 - 1).double()
    predictions = logits.argmax(1).numpy()
    assert found.images == len(dataset) == 22
    assert found.top1 == pytest.approx(accuracy_score(labels, predictions))
    assert found.loss == pytest.approx(log_loss(labels, logits.softmax(1).numpy()), rel=1e-5)
    assert found.confusion.tolist() == confusion_matrix(labels, predictions).tolist()
    assert found.top5 == 1.0


def test_hits_match_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(12), normalize=False)
        assert int(hits(torch.from_numpy(logits), torch.from_numpy(labels), k)) == expected


def test_running_figures_report_means_and_first_bad_step() -> None:
    with join() as ranks:
        running = RunningFigures(ranks.device)
        logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
        running.add(1, torch.tensor(2.0), logits, labels)
        running.add(2, torch.tensor(4.0), logits[:1], labels[:1])
        assert running.first_bad_step(ranks) is None
        assert running.report(ranks) == pytest.approx((8 / 3, 2 / 3))
        running.add(3, torch.tensor(math.inf), logits, labels)
        running.add(4, torch.tensor(math.nan), logits, labels)
        running.add(5, torch.tensor(1.0), logits, labels)
        assert running.first_bad_step(ranks) == 3


def test_evaluation_with_more_processes_than_images(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], run_ranks: Callable[..., str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(colours / "train", data / "train")
    for name in ("blue", "red"):
        (data / "val" / name).mkdir(parents=True)
        shutil.copy(colours / "val" / name / "0.png", data / "val" / name)
    run_ranks(tiny(schedule={"epochs": 1}), data, tmp_path / "run", 3)
    metrics = read_card(tmp_path / "run").metrics
    assert metrics["images"] == 2
    alone = evaluate(tmp_path / "run", data)
    assert metrics["loss"] == pytest.approx(alone.loss, rel=1e-5)
    assert (metrics["top1"], metrics["top5"]) == pytest.approx((alone.top1, alone.top5))
