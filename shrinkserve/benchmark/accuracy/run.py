"""Accuracy pass: the same images through every stage, batch by batch, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import cast
from zlib import crc32

from shrinkserve.benchmark.accuracy.agreement import Agreement, ComparisonRecord
from shrinkserve.benchmark.accuracy.score import Score, ScoreRecord, confusion_cells
from shrinkserve.benchmark.plain import OPTIONAL
from shrinkserve.benchmark.targets.target import Logits, Target
from shrinkserve.confusion import ConfusionCell, merge_cells
from shrinkserve.data import Batch, Dataset, evaluation_batches
from shrinkserve.errors import RequestError
from shrinkserve.preprocess import Preprocess

Link = tuple[int, int]
"""Positions of two stages to compare: the earlier, the later."""


@dataclass(frozen=True)
class AccuracyPlan:
    """Pass over a dataset.

    Attributes:
        dataset: the images.
        preprocess: preprocessing of all stages.
        targets: stages in the order of the pipeline.
        links: pairs of stages to compare.
        batch_size: images in a request; no stage may refuse it.
        limit: number of images, spread evenly over the dataset; None for all.
        served: identity of the served model; the address of a server may change.
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
        """Number of images of a complete pass."""
        return len(self.dataset) if self.limit is None else min(self.limit, len(self.dataset))

    @property
    def identity(self) -> dict[str, object]:
        """Properties that must be equal to resume a pass."""
        return {
            "data": str(self.dataset.root.resolve()),
            "dataset_images": len(self.dataset),
            "contract": self.preprocess.fingerprint,
            "stages": [[target.name, self.served if target.remote else target.identity] for target in self.targets],
            "links": [list(link) for link in self.links],
            "limit": self.limit,
        }


@dataclass(frozen=True)
class AccuracyRecord:
    """Result of a pass.

    Attributes:
        images: number of images that went through every stage.
        fingerprint: checksum of the images, see `AccuracyResult`.
        order: checksum of their order.
        stages: accuracy of each stage.
        comparisons: agreement of each pair of stages.
        planned: number of images of a complete pass.
        batch: images in a request.
        confusion: confusion matrix of the last stage; None in records of older versions.
    """

    images: int
    fingerprint: str
    order: str
    stages: list[ScoreRecord]
    comparisons: list[ComparisonRecord]
    planned: int
    batch: int
    confusion: list[ConfusionCell] | None = field(default=None, metadata=OPTIONAL)

    def against(self, stage: str) -> dict[str, ComparisonRecord]:
        """Return the comparisons with an earlier stage, by the name of the later one."""
        return {one.after: one for one in self.comparisons if one.before == stage}


@dataclass
class AccuracyResult:
    """Result of a part of a pass.

    Attributes:
        scores: one for each stage.
        comparisons: one for each link.
        done: number of images that went through every stage, from the first on.
        fingerprint: sum of a checksum of each image's pixels and label. It depends on the images and their
            preprocessing, and not on their order.
        order: sum of those checksums times the image's position; it depends on the order as well.
        confusion: confusion matrix of the last stage.
    """

    scores: list[Score] = field(default_factory=list)
    comparisons: list[Agreement] = field(default_factory=list)
    done: int = 0
    fingerprint: int = 0
    order: int = 0
    confusion: list[ConfusionCell] = field(default_factory=list)

    @classmethod
    def empty(cls, plan: AccuracyPlan) -> AccuracyResult:
        """Return the result before the first image."""
        pairs = [(plan.targets[before], plan.targets[after]) for before, after in plan.links]
        return cls(
            scores=[Score(target.name, temperature=target.temperature) for target in plan.targets],
            comparisons=[Agreement(a.name, b.name, gated=a.exact and b.exact) for a, b in pairs],
        )

    def merge(self, more: AccuracyResult) -> None:
        """Add the result of another part of the same pass."""
        for score, part in zip(self.scores, more.scores, strict=True):
            score.merge(part)
        for comparison, other in zip(self.comparisons, more.comparisons, strict=True):
            comparison.merge(other)
        self.done += more.done
        self.fingerprint += more.fingerprint
        self.order += more.order
        self.confusion = merge_cells(self.confusion, more.confusion)

    def to_record(self, plan: AccuracyPlan) -> AccuracyRecord:
        """Return the figures of the images so far."""
        return AccuracyRecord(
            images=self.done,
            fingerprint=f"{self.fingerprint:x}",
            order=f"{self.order:x}",
            stages=[score.to_record() for score in self.scores],
            comparisons=[comparison.to_record() for comparison in self.comparisons],
            planned=plan.images,
            batch=plan.batch_size,
            confusion=self.confusion,
        )


def measure_accuracy(plan: AccuracyPlan, result: AccuracyResult, on_batch: Callable[[AccuracyResult], None]) -> None:
    """Send the remaining images of a pass through every stage.

    Args:
        plan: the pass.
        result: `AccuracyResult.empty`, or a restored one. It grows during the pass, so that the caller has the measured
            part if a stage fails.
        on_batch: receives the result of each batch after it was added to `result`.

    Raises:
        DataError: an image cannot be read.
        RequestError: a server does not respond; the message has the number of images so far.
    """
    batches = evaluation_batches(plan.dataset, plan.preprocess, plan.batch_size, limit=plan.limit, start=result.done)
    with ExitStack() as stack:
        stack.callback(cast("Generator[object, None, None]", batches).close)  # stops the decoding threads
        predictors = [stack.enter_context(target.open()) for target in plan.targets]
        for batch in batches:
            part = AccuracyResult.empty(plan)
            logits = []
            encoded = _encoded(plan, batch)
            for target, predict in zip(plan.targets, predictors, strict=True):
                try:
                    logits.append(predict(encoded if target.encoded else batch.images))
                except RequestError as exc:
                    progress = f"{target.name}: failed after {result.done} of {plan.images} images"
                    raise RequestError(f"{progress} ({exc})") from exc
            _count(part, plan, batch, logits)
            result.merge(part)
            on_batch(part)


def _count(part: AccuracyResult, plan: AccuracyPlan, batch: Batch, logits: Sequence[Logits]) -> None:
    def name(index: int) -> str:
        return plan.dataset.record(index).name

    for score, one in zip(part.scores, logits, strict=True):
        score.add(one, batch.labels)
    for comparison, (before, after) in zip(part.comparisons, plan.links, strict=True):
        comparison.add(logits[before], logits[after], batch.labels, batch.indices, name)
    part.done = len(batch)
    part.confusion = confusion_cells(logits[-1], batch.labels)
    checksums = [crc32(image.tobytes(), int(label)) for image, label in zip(batch.images, batch.labels, strict=True)]
    part.fingerprint = sum(checksums)
    part.order = sum((int(index) + 1) * one for index, one in zip(batch.indices, checksums, strict=True))


def _encoded(plan: AccuracyPlan, batch: Batch) -> list[bytes]:
    """Return the images of a batch as they are in the dataset, if a stage takes them."""
    if not any(target.encoded for target in plan.targets):
        return []
    return [plan.dataset.record(int(index)).encoded for index in batch.indices]
