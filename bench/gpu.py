"""Prove training and inference on one NVIDIA GPU: correctness, speed, and where the time goes.

    python bench/gpu.py --out DIR [--batch 128] [--minutes 20] [--photos FOLDER] [--parts updates ...]

Needs no network. Writes DIR/gpu.json and DIR/gpu.md. Ends with exit code 1 and the names of what failed. On a machine
without a GPU, --smoke runs the programs with tiny sizes on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
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
TESTS_SECONDS = 400
KERNEL_SHARE = 0.7
"""Aim: part of an update's time in which the GPU's kernels run."""

PARTS = ("updates", "tests", "onnxruntime", "loader")
TABLES = {"onnxruntime": "ONNX Runtime's CUDA provider", "loader": "Loaders"}

Section = dict[str, Any]


def run_tests(smoke: bool) -> Section:
    """Run tests/gpu; they compare updates, resume, evaluation, compiled and captured updates with the CPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-rfEs", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TESTS_SECONDS)
    except subprocess.TimeoutExpired as exc:
        seen = (exc.stdout or b"").decode()[-500:] if isinstance(exc.stdout, bytes) else ""
        return {"result": "", "failures": [f"no end after {TESTS_SECONDS} s; last output: {seen}"]}
    lines = done.stdout.splitlines()
    found = {
        "result": lines[-1] if lines else "",
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
    }
    failures = found["failed"] or ([] if done.returncode in {0, 5} else [done.stderr[-500:]])
    return {**found, "failures": [] if smoke else failures}


def judge(sections: dict[str, Section]) -> list[str]:
    """Return the names of what failed or misses its aim."""
    found = [f"{name}: {failure}" for name, section in sections.items() for failure in section["failures"]]
    rows = sections.get("updates", {}).get("rows", [])
    ours = [row for row in rows if row["who"] == "ours"]
    found += [f"update waits for the GPU: {row['variant']}: {wait}" for row in ours for wait in row.get("waits", [])]
    timm = max((row["images_per_second"] for row in rows if row["who"] == "timm"), default=None)
    if ours and timm and torch.cuda.is_available():
        best = max(ours, key=lambda row: row["images_per_second"])
        if best["images_per_second"] < FASTER_THAN_TIMM * timm:
            ratio = best["images_per_second"] / timm
            found.append(f"update: {ratio:.2f} times timm's images/s, the aim is {FASTER_THAN_TIMM}")
        busy = best.get("kernels_ms", 0) / best["span_ms"]
        if busy < KERNEL_SHARE:
            found.append(f"update: kernels run {busy:.0%} of its time, the aim is {KERNEL_SHARE:.0%}")
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
    """Write the sections that are there, and return the record."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files in class folders, instead of scikit-image's")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="others are kept from DIR/gpu.json")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print("error: no GPU that torch can see; --smoke runs the programs on the CPU", file=sys.stderr)
        return 2
    began = time.monotonic()
    parts: dict[str, Callable[[], Section]] = {
        "updates": lambda: measure_updates(options.batch, smoke=options.smoke),
        "tests": lambda: run_tests(options.smoke),
        "onnxruntime": lambda: measure_onnxruntime(smoke=options.smoke),
        "loader": lambda: measure_loaders(smoke=options.smoke, photos=options.photos),
    }
    sections = earlier(options.out / "gpu.json")
    for name in options.parts:
        late = time.monotonic() - began > 60 * options.minutes
        try:
            sections[name] = {"failures": [f"no time left of {options.minutes} minutes"]} if late else parts[name]()
        except Exception:  # noqa: BLE001 - the other parts still run
            sections[name] = {"failures": [traceback.format_exc()[-2000:]]}
        record = write(
            options.out, sections, time.monotonic() - began
        )  # after each part: the machine may be taken away
        print(f"{name}: {'failed' if sections[name]['failures'] else 'done'}", flush=True)
    for failure in record["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"wrote {options.out}/gpu.json and gpu.md")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
