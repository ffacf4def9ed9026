"""The record of a measurement: plain data with units and the place it was made in, and the files it becomes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.targets.discover import BenchStages
from shrinkserve.data import Dataset
from shrinkserve.errors import ArtifactError

FORMAT = 2
"""Grows when a reader of the old one would be misled."""
RECORD, MARKDOWN, HTML, JOURNAL = "bench.json", "report.md", "report.html", "accuracy.jsonl"
"""Files of an output folder; the last is what a measurement that was cut off goes on from."""


def begin(stages: BenchStages, dataset: Dataset, gates: Gates) -> dict[str, Any]:
    """What a record holds before anything was measured; it is partial until someone says otherwise."""
    columns = zip(stages.targets, stages.parents, strict=True)
    return {
        "format": FORMAT,
        "model": stages.model,
        "version": stages.contract.version if stages.contract else None,
        "weights_sha256": stages.weights_sha256,
        "preprocess": {"contract": stages.preprocess.fingerprint, **stages.preprocess.to_dict()},
        "classes": stages.classes,
        "dataset": {"root": str(dataset.root), "split": dataset.split, "images": len(dataset)},
        "stages": [
            {
                "name": target.name,
                "kind": target.kind,
                "precision": target.precision,
                "identity": target.identity,
                "exact": target.exact,
                "payload": target.payload if target.remote else None,
                "parent": parent,
            }
            for target, parent in columns
        ],
        "reference": stages.reference,
        "left_out": stages.left_out,
        "environment": environment(),
        "gates": asdict(gates),
        "accuracy": None,
        "loads": [],
        "slo": [],
        "perf_analyzer": [],
        "baseline": None,
        "partial": "not finished",
        "misses": [],
    }


def write(record: dict[str, Any], json_file: Path | None, out: Path | None, dataset: Dataset) -> None:
    """Write the record and, into `out`, the reports too; a finished measurement needs its journal no more.

    Raises:
        ArtifactError: a place that cannot be written.
    """
    text = (json.dumps(record, indent=1) + "\n").encode()
    if json_file:
        write_atomic(json_file, text)
    if out:
        from shrinkserve.benchmark.report.html import to_html
        from shrinkserve.benchmark.report.markdown import to_markdown

        write_atomic(out / RECORD, text)
        write_atomic(out / MARKDOWN, to_markdown(record).encode())
        write_atomic(out / HTML, to_html(record, dataset).encode())
        if record["partial"] is None:
            (out / JOURNAL).unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read what `bench --json` or `--out` wrote.

    Raises:
        ArtifactError: not such a file, or one of another version of this package.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["format"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(f"{path}: not a record of `bench` ({exc})", hint="name a bench.json") from exc
    if found != FORMAT:
        raise ArtifactError(f"{path}: a record of another format", expected=FORMAT, found=found, hint="measure again")
    return dict(record)
