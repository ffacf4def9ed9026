"""A pass over the data that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shrinkserve.benchmark.accuracy.run import AccuracyPlan, ChainResult
from shrinkserve.benchmark.accuracy.score import Agreement, Flip, Score
from shrinkserve.errors import ArtifactError


class Journal:
    """What each batch added, one line a batch, after a line that says which pass it is.

    Appending is the one way in which the file grows, so the worst that a crash leaves is a last line that was cut
    off: it is dropped, and its batch is measured again.

    Args:
        path: the file.
        plan: the pass; a file of another one is refused.
    """

    def __init__(self, path: Path, plan: AccuracyPlan) -> None:
        self._path, self._plan = path, plan
        self._identity = json.loads(json.dumps(plan.identity))  # tuples become lists, as they are read back

    def restore(self) -> ChainResult:
        """What the file holds; nothing, and a new file, where there is none.

        Raises:
            ArtifactError: the journal of another pass, a damaged one, or a place that cannot be written.
        """
        chain = ChainResult.empty(self._plan)
        try:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._write([json.dumps(self._identity) + "\n"])
                return chain
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            if len(whole) < len(lines):
                self._write(whole)
        except (OSError, UnicodeDecodeError) as exc:
            raise ArtifactError(f"{self._path}: cannot be used ({exc})", hint="choose another --out") from exc
        self._replay(whole, chain)
        return chain

    def append(self, part: ChainResult) -> None:
        """Add what one batch found."""
        record = {
            "done": part.done,
            "fingerprint": part.fingerprint,
            "order": part.order,
            "scores": [asdict(score) for score in part.scores],
            "comparisons": [asdict(comparison) for comparison in part.comparisons],
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _write(self, lines: list[str]) -> None:
        self._path.write_text("".join(lines), encoding="utf-8")

    def _replay(self, lines: list[str], chain: ChainResult) -> None:
        try:
            identity, *records = [json.loads(line) for line in lines] or [None]
            if identity != self._identity:
                differing = sorted(key for key in self._identity if identity[key] != self._identity[key])
                raise ArtifactError(
                    f"{self._path}: of another measurement ({', '.join(differing)} differ)",
                    hint="delete it, or choose another --out",
                )
            for record in records:
                chain.merge(_read_part(record))
        except (ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"{self._path}: not a journal of this tool ({exc})", hint="delete it") from exc


def _read_part(record: dict[str, Any]) -> ChainResult:
    comparisons = [
        Agreement(**{**raw, "listed": [Flip(**flip) for flip in raw["listed"]]}) for raw in record["comparisons"]
    ]
    scores = [Score(**raw) for raw in record["scores"]]
    return ChainResult(scores, comparisons, record["done"], record["fingerprint"], record["order"])
