"""Loss and accuracy, over every image exactly once, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shrinkserve.data import Dataset, evaluation_batches
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import normalise
from shrinkserve.training.distributed import DistContext


@dataclass(frozen=True)
class Evaluation:
    """Figures over a whole split.

    Attributes:
        images: how many there were.
        loss: mean cross-entropy, without label smoothing.
        top1: fraction whose label has the largest logit.
        top5: fraction whose label is among the five largest logits.
        confusion: int64 [classes, classes], images by label (row) and answer (column).
    """

    images: int
    loss: float
    top1: float
    top5: float
    confusion: Tensor = field(repr=False)

    @property
    def figures(self) -> dict[str, float]:
        """As plain data, without the confusion."""
        return {"images": self.images, "loss": self.loss, "top1": self.top1, "top5": self.top5}


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    ranks: DistContext,
    *,
    batch_size: int = 128,
    workers: int | None = None,
) -> Evaluation:
    """Evaluate in float32; every rank must call it and gets the figures over all ranks.

    Args:
        network: in evaluation mode, on the rank's device, the same weights on every rank.
        dataset: what to evaluate on; each rank takes its part.
        preprocess: what the network expects.
        ranks: the processes of the run.
        batch_size: images a batch.
        workers: decoding threads a process; None for one a core.

    Raises:
        DataError: an image that cannot be read.
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
    sums, confusion = ranks.total(sums), ranks.total(confusion)
    images_seen = int(confusion.sum())
    loss, top1, top5 = (sums / images_seen).tolist()
    return Evaluation(images_seen, loss, top1, top5, confusion.cpu())


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many labels are among the `k` largest logits.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        k: at most C count.
    """
    best = logits.topk(min(k, logits.shape[1])).indices
    return (best == labels[:, None]).any(1).sum()


class Running:
    """Loss and accuracy of the training steps since the last report, kept on the device so that no step waits."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._bad = torch.full((), NEVER, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: its mean loss and its right answers."""
        count = torch.full_like(self._sums[0], len(labels))
        self._sums += torch.stack([loss.double() * count, hits(logits, labels, 1).double(), count])
        self._bad = torch.where(loss.isfinite(), self._bad, self._bad.clamp(max=step))

    def report(self, ranks: DistContext) -> tuple[float, float]:
        """Mean loss and top-1 over all ranks since the last report; every rank must call it."""
        loss, right, count = ranks.total(self._sums).tolist()
        self._sums.zero_()
        return loss / max(1, count), right / max(1, count)

    def first_bad_step(self, ranks: DistContext) -> int | None:
        """The first step at which a rank's loss was not finite; every rank must call it."""
        step = -ranks.highest(-int(self._bad))
        return None if step == NEVER else step


NEVER = 1 << 62
