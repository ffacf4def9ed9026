"""Files of a measurement: the record and the reports."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import to_json
from shrinkserve.benchmark.report.html import to_html
from shrinkserve.benchmark.report.markdown import to_markdown
from shrinkserve.benchmark.report.record import BenchRecord
from shrinkserve.data import Dataset

RECORD, MARKDOWN, HTML, JOURNAL = "bench.json", "report.md", "report.html", "accuracy.jsonl"
"""Files of an output folder. The last one is there until the measurement is complete, to resume it."""


def write_record(record: BenchRecord, json_file: Path | None, out: Path | None, dataset: Dataset) -> None:
    """Write the record and the reports. The journal of a complete measurement is removed.

    Args:
        record: the measurement.
        json_file: file of the record alone; None for none.
        out: folder of the record and the reports; None for none.
        dataset: source of the thumbnails.

    Raises:
        ArtifactError: a file cannot be written.
    """
    text = to_json(record).encode()
    if json_file:
        write_atomic(json_file, text)
    if out:
        write_atomic(out / RECORD, text)
        write_atomic(out / MARKDOWN, to_markdown(record).encode())
        write_atomic(out / HTML, to_html(record, dataset).encode())
        if record.partial is None:
            (out / JOURNAL).unlink(missing_ok=True)
