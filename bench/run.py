"""Run the comparisons of this folder and write the report of their results: `make bench`.

    python bench/run.py [--quick] [--only NAME ...] [--results DIR]

Each program writes RESULTS/NAME.json. The report is made from all these files, also those of an earlier run on another
machine. With --quick and without --results everything is written to a temporary folder: such a run tests the programs,
and its figures have no meaning.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.report.environment import LIBRARIES
from shrinkserve.benchmark.report.table import table

HERE = Path(__file__).parent
KEPT = HERE / "results"
ABOUT = (
    "`make bench` writes this file from `bench/results/*.json`; do not edit it. *Ours* is ShrinkServe, *flips* are "
    "changed predictions, and differences of logits are in units of the largest logit. Compare figures of one section "
    "only: sections can be from different machines."
)
"""Introduction of the report."""
PROGRAMS = (
    "export",
    "operators",
    "precisions",
    "loader",
    "training",
    "transfer",
    "distillation",
    "serving",
    "jpeg",
    "abuse",
    "soak",
    "capacity",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report-only", action="store_true", help="make the report from the results that are there")
    options = parser.parse_args()
    results = options.results or (Path(tempfile.mkdtemp(prefix="shrinkserve-bench-")) if options.quick else KEPT)
    failed = [] if options.report_only else [name for name in options.only if not run(name, results, options.quick)]
    report = results.parent / "REPORT.md" if results == KEPT else results / "REPORT.md"
    write_atomic(report, to_markdown(results).encode())
    print(f"wrote {report}")
    for name in failed:
        print(f"error: bench/{name}.py failed; its own message is above", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, results: Path, quick: bool) -> bool:
    """Run a program from the root of the repository, so that the command in a result works everywhere."""
    results.mkdir(parents=True, exist_ok=True)
    out, root = (results / f"{name}.json").resolve(), HERE.resolve().parent
    place = out.relative_to(root) if out.is_relative_to(root) else out
    command = [f"bench/{name}.py", "--out", str(place), *(["--quick"] if quick else [])]
    print(f"$ python {' '.join(command)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], cwd=root, check=False)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return done.returncode == 0


def to_markdown(results: Path) -> str:
    """Return the report with one section for each result file."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    lines = ["# Comparisons", "", ABOUT, ""]
    lines += [f"* {result['title']}" for result in found]
    return "\n".join(lines + [line for result in found for line in section(result)]) + "\n"


def section(result: dict[str, Any]) -> list[str]:
    """Return the section of a result. Consecutive rows are in one table unless a row has other columns."""
    lines = ["", f"## {result['title']}", "", f"{result['date']}, {machine(result['environment'])}", ""]
    lines += [f"    {result['command']}", ""]
    for keys, rows in tables(result["rows"]):
        words = {0, *(n for n, key in enumerate(keys) if isinstance(rows[0].get(key), str))}
        head = [key.replace("_", " ") for key in keys]
        lines += [*table(head, ([shown(row.get(key)) for key in keys] for row in rows), words), ""]
    return lines + [f"* {note}" for note in result.get("notes", ())]


def tables(rows: list[dict[str, Any]]) -> list[tuple[list[str], list[dict[str, Any]]]]:
    """Return rows with their columns; lists and nested figures are in the result file only."""
    found: list[tuple[list[str], list[dict[str, Any]]]] = []
    for row in rows:
        keys = [key for key, value in row.items() if not isinstance(value, dict | list)]
        known = found[-1][0] if found else []
        if known and (set(keys) <= set(known) or set(known) <= set(keys)):
            found[-1] = (max(known, keys, key=len), [*found[-1][1], row])
        else:
            found.append((keys, [row]))
    return found


def machine(environment: dict[str, Any]) -> str:
    """Return the processor, its cores and memory, GPUs, and versions of the libraries."""
    words = [environment["cpu"], f"{environment['cores_usable']} cores", f"{environment['memory_gib']:.0f} GiB"]
    words += environment["gpus"] or ["no GPU"]
    known = environment["versions"]
    return ", ".join(words + [f"{name} {known[name]}" for name in ("python", *LIBRARIES) if name in known])


def shown(value: object) -> str:
    """Return a cell: three digits, or all digits before the point; empty for None."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
