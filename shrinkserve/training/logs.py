"""The curves of a run: ``metrics.jsonl``, one JSON object a line, and TensorBoard's event files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


class Log:
    """Writes both.

    A record of ``metrics.jsonl`` has ``kind`` ("train", "validation" or "data"), ``step`` (updates so far), ``epoch``
    (from 0) and figures: loss, top-1 and top-5 as fractions, learning rate, images a second, bad images.

    Args:
        run: the run's folder.
        step: the step that the run goes on from; what an interrupted process logged after it is dropped.
        epoch: the epoch that is worked on: its evaluation, at the same step as its last update, is still to come.
        enabled: False for ranks that write nothing.
    """

    def __init__(self, run: Path, step: int, epoch: int, *, enabled: bool) -> None:
        self._path = run / METRICS
        self._board: SummaryWriter | None = None
        if enabled:
            from torch.utils.tensorboard.writer import SummaryWriter

            kept = [r for r in read_metrics(self._path) if r["step"] <= step] if step else []
            kept = [r for r in kept if r["kind"] != "validation" or r["epoch"] < epoch]
            write_atomic(self._path, "".join(f"{json.dumps(record)}\n" for record in kept).encode())
            self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1)

    def write(self, kind: str, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Add one record."""
        if self._board is None:
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **figures}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush the event file."""
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line that a killed process cut short is left out.

    Raises:
        ArtifactError: no such file, or a line that is not a record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise ArtifactError(f"{path}: no curves ({exc.strerror})", hint="name a folder that `train` wrote") from exc
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append({**record, "kind": str(record["kind"]), "step": int(record["step"])})
        except (ValueError, KeyError, TypeError) as exc:
            if number < len(lines):
                raise ArtifactError(f"{path}:{number}: not a record of a run ({exc})") from exc
    return records
