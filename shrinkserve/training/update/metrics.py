"""Loss and accuracy, over every image exactly once, for any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shrinkserve.data import Dataset, evaluation_batches
from shrinkserve.errors import ShrinkServeError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import normalise
from shrinkserve.training.processes.distributed import DistContext


@dataclass(frozen=True)
class Evaluation:
    """Figures over all images of a split.

    Attributes:
        images: number of images.
        loss: mean cross-entropy, without label smoothing.
        top1: fraction whose label has the largest logit.
        top5: fraction whose label is among the five largest logits.
        confusion: int64 [classes, classes], images by label (row) and prediction (column).
    """

    images: int
    loss: float
    top1: float
    top5: float
    confusion: Tensor = field(repr=False)

    @property
    def figures(self) -> dict[str, float]:
        """The figures as plain data, without the confusion matrix."""
        return {"images": self.images, "loss": self.loss, "top1": self.top1, "top5": self.top5}


@torch.inference_mode()
def evaluate_network(
    network: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    ranks: DistContext,
    *,
    batch_size: int = 128,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Evaluate a network in float32. Collective; every rank gets the figures over all ranks.

    Args:
        network: in evaluation mode, on the rank's device, with the same weights on every rank.
        dataset: each rank evaluates its part.
        preprocess: what the network expects.
        ranks: the processes of the run.
        batch_size: images per batch.
        workers: decoding threads per process. Default: one per core.
        progress: called after each batch.

    Raises:
        DataError: an image cannot be read.
        ShrinkServeError: the loss is not finite.
    """
    classes, device = len(dataset.classes), ranks.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    batches = evaluation_batches(dataset, preprocess, batch_size, rank=ranks.rank, world=ranks.world, workers=workers)
    for batch in batches:
        images, labels = (torch.as_tensor(part).to(device, non_blocking=True) for part in (batch.images, batch.labels))
        logits = network(normalise(images, preprocess)).float()
        sums += torch.stack(
            [cross_entropy(logits, labels, reduction="sum"), *(hits(logits, labels, k) for k in (1, 5))]
        )
        confusion.index_put_((labels, logits.argmax(1)), torch.ones_like(labels), accumulate=True)
        progress("a batch of the evaluation")
    sums, confusion = ranks.total(sums), ranks.total(confusion)
    count = int(confusion.sum())
    loss, top1, top5 = (sums / count).tolist()
    if not math.isfinite(loss):
        hint = "train again with a lower optimizer.lr, or from an earlier checkpoint"
        raise ShrinkServeError(f"{dataset.root}: the validation loss is not finite", found=loss, hint=hint)
    return Evaluation(count, loss, top1, top5, confusion.cpu())


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the number of labels that are among the `k` largest logits.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        k: how many; at most C count.
    """
    best = logits.topk(min(k, logits.shape[1])).indices
    return (best == labels[:, None]).any(1).sum()


NEVER = 1 << 62
"""Number of an update that never comes: no loss was bad."""


class RunningFigures:
    """Loss and accuracy of training updates, summed on the device so that no update waits for it.

    Attributes:
        sums: float64 [2, 3]: loss, hits and images, since the last report (row 0) and in the epoch (row 1).
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, 3, dtype=torch.float64, device=device)
        self._bad = torch.full((), NEVER, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            step: number of the update.
            loss: mean loss of the batch.
            logits: float [N, C].
            labels: int64 [N].
        """
        count = len(labels)
        images = torch.full_like(loss, count, dtype=torch.float64)
        self.sums += torch.stack([loss.double() * count, hits(logits, labels, 1).double(), images])
        self._bad = torch.where(loss.isfinite(), self._bad, self._bad.clamp(max=step))

    def report(self, ranks: DistContext) -> tuple[float, float]:
        """Return mean loss and top-1 of all ranks since the last report. Collective."""
        found = _means(ranks.total(self.sums[0]))
        self.sums[0].zero_()
        return found

    def report_epoch(self, ranks: DistContext) -> tuple[float, float]:
        """Return mean loss and top-1 of all ranks in this epoch, and begin the next one. Collective."""
        found = _means(ranks.total(self.sums[1]))
        self.sums.zero_()
        return found

    def first_bad_step(self, ranks: DistContext) -> int | None:
        """Return the first update with a loss that is not finite, on any rank. Collective."""
        step = -ranks.highest(-int(self._bad))
        return None if step == NEVER else step


def _means(sums: Tensor) -> tuple[float, float]:
    loss, right, count = sums.tolist()
    return loss / max(1, count), right / max(1, count)
