"""The metrics of a run: ``metrics.jsonl``, one JSON object per line, and TensorBoard event files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypedDict

from shrinkserve.atomic import unwritable, write_atomic
from shrinkserve.errors import ArtifactError
from shrinkserve.training.run_folder.trackers import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"

LineKind = Literal["train", "epoch", "validation", "data"]


class MetricsRecord(TypedDict, total=False):
    """Line of ``metrics.jsonl``. `kind`, `step` and `epoch` are always there.

    ``train``: since the last record of this kind; ``epoch``: all updates of an epoch; ``validation``: the averaged
    weights; ``data``: images left out in an epoch.
    """

    kind: LineKind
    step: int
    epoch: int
    loss: float
    top1: float
    top5: float
    images: int
    learning_rate: float
    images_per_second: float
    bad_images: int


class MetricsLog:
    """Write the metrics.

    Args:
        run: the run's folder.
        step: updates so far. Records of later updates, which an interrupted process wrote, are dropped.
        epoch: the current epoch. Its evaluation, at the same step as its last update, is dropped too.
        enabled: False for ranks that write nothing.
        tracker: gets a copy of all figures.
    """

    def __init__(self, run: Path, step: int, epoch: int, *, enabled: bool, tracker: Tracker | None = None) -> None:
        self._path, self._tracker = run / METRICS, tracker
        self._board: SummaryWriter | None = None
        if enabled:
            _keep_tensorflow_out()
            from torch.utils.tensorboard.writer import SummaryWriter

            kept = [r for r in read_metrics(self._path) if r["step"] <= step] if step else []
            kept = [r for r in kept if r["kind"] in {"train", "data"} or r["epoch"] < epoch]
            write_atomic(self._path, "".join(f"{json.dumps(record)}\n" for record in kept).encode())
            self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1)

    def write(self, kind: LineKind, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Append one record.

        Raises:
            ArtifactError: cannot write the file.
            ValueError: a figure is not finite.
        """
        if self._board is None:
            return
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **figures}, allow_nan=False)
        with unwritable(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._tracker is not None:
            self._tracker.write({f"{kind}/{name}": value for name, value in figures.items()}, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush the event file, and end the tracker's run."""
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.close(failed=kind is not None)


def _keep_tensorflow_out() -> None:
    """Make TensorBoard write its files without TensorFlow, which is slow to load and prints warnings."""
    name = "tensorboard.compat.notf"  # TensorBoard's own switch: it uses its stub if this module can be imported
    sys.modules.setdefault(name, ModuleType(name))


def read_metrics(path: Path) -> list[MetricsRecord]:
    """Return the records of a ``metrics.jsonl``. A truncated last line, as a killed process leaves it, is skipped.

    Raises:
        ArtifactError: no such file, or a line that is not a record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise ArtifactError(f"{path}: no curves ({exc.strerror})", hint="name a folder that `train` wrote") from exc
    records: list[MetricsRecord] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["kind"], record["step"], record["epoch"] = record["kind"], int(record["step"]), int(record["epoch"])
            records.append(record)
        except (ValueError, KeyError, TypeError) as exc:
            if number < len(lines):
                raise ArtifactError(f"{path}:{number}: not a record of a run ({exc})") from exc
    return records
