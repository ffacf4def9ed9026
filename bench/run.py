"""Every comparison of this folder, and the report of their results: `make bench`.

    python bench/run.py [--quick] [--only NAME ...] [--results DIR]

Each program writes RESULTS/NAME.json; the report beside them is made from those files alone, so it also holds what
an earlier run on another machine wrote. With --quick, and no --results, everything goes to a scratch folder: such a
run shows that the programs work, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shrinkserve.artifact import write_atomic
from shrinkserve.benchmark.report.markdown import table

HERE = Path(__file__).parent
PROGRAMS = ("export", "loader", "training", "serving", "capacity")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report-only", action="store_true", help="make the report from the results that are there")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="shrinkserve-bench-")) if options.quick else HERE / "results"
    results = options.results or scratch
    failed = [] if options.report_only else [name for name in options.only if not run(name, results, options.quick)]
    report = results.parent / "REPORT.md" if results == HERE / "results" else results / "REPORT.md"
    write_atomic(report, to_markdown(results).encode())
    print(f"wrote {report}")
    for name in failed:
        print(f"error: bench/{name}.py failed; its own message is above", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, results: Path, quick: bool) -> bool:
    results.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(results / f"{name}.json")]
    command += ["--quick"] if quick else []
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode == 0


def to_markdown(results: Path) -> str:
    """One section a result file: what, when, where, with which command, the rows, the notes."""
    lines = ["# Comparisons", "", "Made by `make bench` from the files in `results/`; do not edit."]
    for path in sorted(results.glob("*.json")):
        lines += section(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> list[str]:
    lines = ["", f"## {result['title']}", "", f"{result['date']}, {machine(result['environment'])}", ""]
    lines += [f"    {result['command']}", ""]
    rows = result["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], dict | list)))
    lines += table(keys, ([shown(row.get(key, "")) for key in keys] for row in rows)) if rows else []
    notes = [f"* {note}" for note in result.get("notes", ())]
    return [*lines, "", *notes] if notes else lines


def machine(environment: dict[str, Any]) -> str:
    cores = environment.get("cores_usable", environment.get("cores", "?"))
    return f"{environment.get('cpu', 'unknown CPU')}, {cores} cores"


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
