"""Journal of an accuracy pass, to resume it after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

from shrinkserve.atomic import unwritable
from shrinkserve.benchmark.accuracy.run import AccuracyPlan, AccuracyResult
from shrinkserve.benchmark.plain import to_json
from shrinkserve.errors import ArtifactError
from shrinkserve.toml import validate


class Journal:
    """Result of each batch, one line each, after a line that identifies the pass.

    The file only grows at its end. A crash can therefore leave one incomplete line: it is dropped, and its batch is
    measured again.

    Args:
        path: the file.
        plan: the pass; the file of another pass is refused.
    """

    def __init__(self, path: Path, plan: AccuracyPlan) -> None:
        self._path, self._plan = path, plan
        self._identity = json.loads(json.dumps(plan.identity))  # tuples become lists, as in the file

    def restore(self) -> AccuracyResult:
        """Return the result in the file. Without a file, create it and return an empty result.

        Raises:
            ArtifactError: the file belongs to another pass or is damaged, or its folder cannot be written.
        """
        result = AccuracyResult.empty(self._plan)
        try:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._write([json.dumps(self._identity) + "\n"])
                return result
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            complete = [line for line in lines if line.endswith("\n")]
            if len(complete) < len(lines):
                self._write(complete)
        except (OSError, UnicodeDecodeError) as exc:
            raise ArtifactError(f"{self._path}: cannot be used ({exc})", hint="choose another --out") from exc
        self._replay(complete, result)
        return result

    def append(self, part: AccuracyResult) -> None:
        """Add the result of a batch.

        Raises:
            ArtifactError: the file cannot be written.
        """
        with unwritable(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(to_json(part, indent=None))

    def _write(self, lines: list[str]) -> None:
        self._path.write_text("".join(lines), encoding="utf-8")

    def _replay(self, lines: list[str], result: AccuracyResult) -> None:
        try:
            identity, *records = [json.loads(line) for line in lines] or [None]
            if identity != self._identity:
                differing = sorted(key for key in self._identity if identity[key] != self._identity[key])
                raise ArtifactError(
                    f"{self._path}: journal of another measurement (different: {', '.join(differing)})",
                    hint="delete it, or choose another --out",
                )
            for record in records:
                result.merge(validate(AccuracyResult, record, str(self._path), error=ArtifactError, hint="delete it"))
        except (ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"{self._path}: not a journal of this program ({exc})", hint="delete it") from exc
