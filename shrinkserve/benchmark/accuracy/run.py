"""The same images through every stage, batch by batch, with bounded memory, from where it was cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, cast
from zlib import crc32

from shrinkserve.benchmark.accuracy.score import Agreement, Score
from shrinkserve.benchmark.targets.target import Logits, Target
from shrinkserve.data import Batch, Dataset, evaluation_batches
from shrinkserve.errors import RequestError
from shrinkserve.preprocess import Preprocess

Link = tuple[int, int]
"""Positions of two stages that are compared: the earlier, the later."""


@dataclass(frozen=True)
class AccuracyPlan:
    """A pass over a dataset.

    Attributes:
        dataset: what `shrinkserve.data.open_dataset` gave.
        preprocess: what all the stages expect.
        targets: the stages, in the order of the chain.
        links: which of them are compared.
        batch_size: images a request, which no stage refuses.
        limit: only so many images, spread evenly over the dataset.
        served: what the servers among the stages serve; their addresses may change.
    """

    dataset: Dataset
    preprocess: Preprocess
    targets: Sequence[Target]
    links: Sequence[Link]
    batch_size: int
    limit: int | None = None
    served: str = ""

    @property
    def images(self) -> int:
        """How many images a whole pass has."""
        return len(self.dataset) if self.limit is None else min(self.limit, len(self.dataset))

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a pass to go on where another one stopped."""
        return {
            "data": str(self.dataset.root.resolve()),
            "dataset_images": len(self.dataset),
            "contract": self.preprocess.fingerprint,
            "stages": [[target.name, self.served if target.remote else target.identity] for target in self.targets],
            "links": [list(link) for link in self.links],
            "limit": self.limit,
        }


@dataclass
class ChainResult:
    """What a pass found so far.

    Attributes:
        scores: one a stage.
        comparisons: one a link.
        done: images that went through every stage, from the first on.
        fingerprint: sum of a checksum of every image's pixels and label: the same images, prepared alike, have the
            same one in whatever order they come.
        order: the same, each times its position in the dataset: alike only when the order is, too.
    """

    scores: list[Score] = field(default_factory=list)
    comparisons: list[Agreement] = field(default_factory=list)
    done: int = 0
    fingerprint: int = 0
    order: int = 0

    @classmethod
    def empty(cls, plan: AccuracyPlan) -> ChainResult:
        """Before the first image."""
        pairs = [(plan.targets[before], plan.targets[after]) for before, after in plan.links]
        return cls(
            scores=[Score(target.name) for target in plan.targets],
            comparisons=[Agreement(a.name, b.name, gated=a.exact and b.exact) for a, b in pairs],
        )

    def merge(self, more: ChainResult) -> None:
        """Add what another part of the same pass found."""
        for score, part in zip(self.scores, more.scores, strict=True):
            score.merge(part)
        for comparison, other in zip(self.comparisons, more.comparisons, strict=True):
            comparison.merge(other)
        self.done += more.done
        self.fingerprint += more.fingerprint
        self.order += more.order

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "images": self.done,
            "fingerprint": f"{self.fingerprint:x}",
            "order": f"{self.order:x}",
            "stages": [score.to_dict() for score in self.scores],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }


def measure_accuracy(plan: AccuracyPlan, done: ChainResult, on_batch: Callable[[ChainResult], None]) -> None:
    """Send the images that `done` does not hold yet through every stage.

    Args:
        plan: the pass.
        done: `Chain.empty`, or what a journal restored; grows while the pass runs, so that a caller has the part
            that was measured when a stage fails.
        on_batch: called with what each batch adds, after it was added.

    Raises:
        DataError: an image cannot be read.
        RequestError: a server stopped answering; says after how many images.
    """
    batches = evaluation_batches(plan.dataset, plan.preprocess, plan.batch_size, limit=plan.limit, start=done.done)
    with ExitStack() as stack:
        stack.enter_context(closing(cast("Any", batches)))  # stops the decoding threads
        answers = [stack.enter_context(target.open()) for target in plan.targets]
        for batch in batches:
            part = ChainResult.empty(plan)
            logits = []
            encoded = _encoded(plan, batch)
            for target, answer in zip(plan.targets, answers, strict=True):
                try:
                    logits.append(answer(encoded if target.encoded else batch.images))
                except RequestError as exc:
                    progress = f"{target.name}: failed after {done.done} of {plan.images} images"
                    raise RequestError(f"{progress} ({exc})") from exc
            _count(part, plan, batch, logits)
            done.merge(part)
            on_batch(part)


def _count(part: ChainResult, plan: AccuracyPlan, batch: Batch, logits: Sequence[Logits]) -> None:
    for score, answers in zip(part.scores, logits, strict=True):
        score.add(answers, batch.labels)
    for comparison, (before, after) in zip(part.comparisons, plan.links, strict=True):
        comparison.add(logits[before], logits[after], batch.labels, batch.indices, _namer(plan.dataset))
    part.done = len(batch)
    checksums = [crc32(image.tobytes(), int(label)) for image, label in zip(batch.images, batch.labels, strict=True)]
    part.fingerprint = sum(checksums)
    part.order = sum((int(index) + 1) * one for index, one in zip(batch.indices, checksums, strict=True))


def _encoded(plan: AccuracyPlan, batch: Batch) -> list[bytes]:
    """The images of a batch as the dataset holds them, where a stage wants them so."""
    if not any(target.encoded for target in plan.targets):
        return []
    return [plan.dataset.record(int(index)).encoded for index in batch.indices]


def _namer(dataset: Dataset) -> Callable[[int], str]:
    return lambda index: dataset.record(index).name
