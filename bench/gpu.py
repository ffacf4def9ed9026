"""Test training and inference on one NVIDIA GPU: correctness, speed, and where the time goes.

    python bench/gpu.py --out DIR [--batch 128] [--minutes 20] [--photos FOLDER] [--parts updates ...]

Needs no network: `bench/gpu_wheels.py` installs a folder of wheels first. Each part runs in a process with a limit of
time, and what it has measured by then is written: DIR/gpu.json and DIR/gpu.md. Ends with exit code 1 and the names of
what failed. On a machine without a GPU, --smoke runs the programs with tiny sizes on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from gpu_loader import measure_loaders
from gpu_onnxruntime import measure_onnxruntime
from gpu_updates import measure_updates

from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment

ROOT = Path(__file__).parents[1]
FASTER_THAN_TIMM = 1.3
"""Aim: images/s of our fastest update, in multiples of timm's with the same options."""
KERNEL_SHARE = 0.7
"""Aim: part of an update's time in which the GPU's kernels run."""

LIMITS = {"updates": 420, "tests": 380, "onnxruntime": 180, "loader": 220}
"""Seconds of each part; together 20 minutes."""
TABLES = {"onnxruntime": "ONNX Runtime's CUDA provider", "loader": "Loaders"}

Section = dict[str, Any]
Keep = Callable[[Section], None]
"""Writes what a part has measured so far."""


def run_tests(smoke: bool, keep: Keep) -> None:
    """Run tests/gpu; they compare updates, resume, evaluation, compiled and captured updates with the CPU."""
    command = [sys.executable, "-u", "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-rfEs", "--tb=short"]
    command += ["-p", "no:cacheprovider", "--color=no"]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if "::" in line:  # a test has ended
                keep(tests_section(lines, smoke, complete=False))
    section = tests_section(lines, smoke, complete=True)
    if process.returncode not in {0, 1, 5}:
        section["failures"].append(f"pytest ended with exit code {process.returncode}")
    keep(section)


def tests_section(lines: list[str], smoke: bool, *, complete: bool) -> Section:
    """Return the results in pytest's verbose output, complete or not."""
    ended = [line for line in lines if " PASSED" in line or " FAILED" in line or " SKIPPED" in line or " ERROR" in line]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))] if complete else []
    failed = failed or [line for line in ended if " FAILED" in line or " ERROR" in line]
    passed = sum(" PASSED" in line for line in ended)
    return {
        "result": lines[-1] if complete and lines else f"{passed} passed of {len(ended)}, then stopped",
        "failed": failed,
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
        "output": "\n".join(lines)[-6000:] if failed else "",
        "failures": [] if smoke else list(failed),
    }


def judge(sections: dict[str, Section]) -> list[str]:
    """Return the names of what failed or misses its goal."""
    found = [f"{name}: {failure}" for name, section in sections.items() for failure in section["failures"]]
    rows = sections.get("updates", {}).get("rows", [])
    ours = [row for row in rows if row["who"] == "ours"]
    found += [f"update waits for the GPU: {row['variant']}: {wait}" for row in ours for wait in row.get("waits", [])]
    timm = max((row["images_per_second"] for row in rows if row["who"] == "timm"), default=None)
    if ours and timm and torch.cuda.is_available():
        best = max(ours, key=lambda row: row["images_per_second"])
        if best["images_per_second"] < FASTER_THAN_TIMM * timm:
            ratio = best["images_per_second"] / timm
            found.append(f"update: {ratio:.2f} times timm's images/s, the goal is {FASTER_THAN_TIMM}")
        busy = best.get("kernels_ms", 0) / best["span_ms"]
        if busy < KERNEL_SHARE:
            found.append(f"update: kernels run {busy:.0%} of its time, the goal is {KERNEL_SHARE:.0%}")
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows with the same keys as a Markdown table."""
    if not rows:
        return ["Not measured."]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [" | ".join(str(row.get(key, "")) for key in keys) for row in rows]
    return [f"| {' | '.join(keys)} |", "|---" * len(keys) + "|", *(f"| {line} |" for line in cells)]


def page(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    lines = [f"# {record['device']}", "", f"torch {record['torch']}, {record['seconds']:.0f} s", "", "## Result", ""]
    lines += [f"* {failure}" for failure in record["failures"]] or ["All checks passed."]
    lines += ["", "## Updates of ShrinkCNN-A", "", "| who | variant | batch | images/s | host ms | ms | kernels ms |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in record["sections"].get("updates", {}).get("rows", []):
        cells = (f"{row[key]:.1f}" if key in row else "" for key in ("images_per_second", "host_ms", "span_ms"))
        kernels = f"{row['kernels_ms']:.1f}" if "kernels_ms" in row else ""
        lines.append(f"| {row['who']} | {row['variant']} | {row['batch']} | {' | '.join(cells)} | {kernels} |")
    tests = record["sections"].get("tests", {})
    lines += ["", "## tests/gpu", "", f"`{tests.get('result', 'not run')}`", ""]
    lines += [f"* `{line}`" for line in (*tests.get("failed", []), *tests.get("skipped", []))]
    for name, title in TABLES.items():
        lines += ["", f"## {title}", "", *table(record["sections"].get(name, {}).get("rows", []))]
    return "\n".join(lines) + "\n"


def write(out: Path, sections: dict[str, Section], seconds: float) -> dict[str, Any]:
    """Write the measured sections, and return the record."""
    record = {
        "device": device(),
        "torch": torch.__version__,
        "environment": plain(environment()),
        "seconds": seconds,
        "sections": sections,
        "failures": judge(sections),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    (out / "gpu.md").write_text(page(record), encoding="utf-8")
    return record


def earlier(path: Path) -> dict[str, Section]:
    """Return the sections of an earlier record of the same GPU and torch."""
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["sections"] if (record["device"], record["torch"]) == (device(), torch.__version__) else {}


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def measure_part(name: str, options: argparse.Namespace, file: Path) -> None:
    """Measure a part in this process; `file` has what was measured so far."""
    part = file.with_suffix(".new")

    def keep(section: Section) -> None:
        part.write_text(json.dumps(section, default=str), encoding="utf-8")
        part.replace(file)

    try:
        if name == "updates":
            measure_updates(options.batch, smoke=options.smoke, keep=keep)
        elif name == "tests":
            run_tests(options.smoke, keep)
        elif name == "onnxruntime":
            measure_onnxruntime(smoke=options.smoke, keep=keep)
        else:
            measure_loaders(smoke=options.smoke, photos=options.photos, keep=keep)
    except Exception:  # noqa: BLE001 - the other parts still run
        section = read_section(file)
        keep({**section, "failures": [*section["failures"], traceback.format_exc()[-2000:]]})


def read_section(file: Path) -> Section:
    """Return what a part has measured so far."""
    empty: Section = {"rows": [], "failures": []}
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else empty


def run_part(name: str, arguments: list[str], out: Path, seconds: float) -> Section:
    """Measure a part in a process, which is ended after some seconds."""
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, __file__, *arguments, "--part", name]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        failure = f"ended with exit code {code}" if (code := process.wait(timeout=seconds)) else ""
    except subprocess.TimeoutExpired:
        failure = f"stopped after {seconds:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    section = read_section(file)
    file.unlink(missing_ok=True)
    return {**section, "failures": [*section["failures"], failure]} if failure else section


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files in class folders, instead of scikit-image's")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=[*LIMITS], help="others are kept from gpu.json")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measure_part(options.part, options, options.out / f"{options.part}.json")
        sys.stdout.flush()
        os._exit(0)  # threads of a loader must not delay the end
    if not options.smoke and not torch.cuda.is_available():
        print("error: no GPU that torch can see; --smoke runs the programs on the CPU", file=sys.stderr)
        return 2
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    sections = earlier(options.out / "gpu.json")
    for name in options.parts:
        left = began + 60 * options.minutes - time.monotonic()
        if left > 0:
            sections[name] = run_part(name, sys.argv[1:], options.out, min(LIMITS[name], left))
        else:
            sections[name] = {"failures": [f"no time left of {options.minutes} minutes"]}
        # After each part: the machine may be taken away.
        record = write(options.out, sections, time.monotonic() - began)
        print(f"{name}: {'failed' if sections[name]['failures'] else 'done'}", flush=True)
    for failure in record["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"wrote {options.out}/gpu.json and gpu.md")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
