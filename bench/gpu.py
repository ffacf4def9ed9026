"""Prove training and inference on one NVIDIA GPU: correctness, speed, and where the time goes.

    python bench/gpu.py --out DIR [--batch 128] [--minutes 20]

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
from gpu_onnxruntime import measure_onnxruntime
from gpu_updates import measure_updates

from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment

ROOT = Path(__file__).parents[1]
FASTER_THAN_TIMM = 1.3
"""Aim: images/s of our fastest update, in multiples of timm's with the same options."""
KERNEL_SHARE = 0.7
"""Aim: part of an update's time in which the GPU's kernels run."""

Section = dict[str, Any]


def run_tests(smoke: bool) -> Section:
    """Run tests/gpu; they compare updates, resume, evaluation, compiled and captured updates with the CPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-rfEs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    found = {
        "result": lines[-1] if lines else "",
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
    }
    failures = found["failed"] or ([] if done.returncode in {0, 5} else [done.stderr[-500:]])
    return {**found, "failures": [] if smoke else failures}


def measure_loader(smoke: bool) -> Section:
    """Measure the portable loader, and DALI where it is installed, with all cores."""
    command = [sys.executable, str(ROOT / "bench" / "loader.py"), "--quick", "--out"]
    out = Path("/tmp/shrinkserve-gpu-loader.json")
    if smoke:
        return {"rows": [], "failures": []}
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"rows": [], "failures": [f"bench/loader.py: {done.stderr[-500:]}"]}
    return {"rows": json.loads(out.read_text(encoding="utf-8"))["rows"], "failures": []}


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
    for name in ("tests", "loader", "onnxruntime"):
        section = record["sections"].get(name, {})
        lines += ["", f"## {name}", "", "```", json.dumps(section, indent=1), "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print("error: no GPU that torch can see; --smoke runs the programs on the CPU", file=sys.stderr)
        return 2
    began = time.monotonic()
    parts: dict[str, Callable[[], Section]] = {
        "updates": lambda: measure_updates(options.batch, smoke=options.smoke),
        "tests": lambda: run_tests(options.smoke),
        "onnxruntime": lambda: measure_onnxruntime(smoke=options.smoke),
        "loader": lambda: measure_loader(options.smoke),
    }
    sections: dict[str, Section] = {}
    for name, part in parts.items():
        if time.monotonic() - began > 60 * options.minutes:
            sections[name] = {"failures": [f"no time left after {options.minutes} minutes"]}
            continue
        try:
            sections[name] = part()
        except Exception:  # noqa: BLE001 - the other parts still run
            sections[name] = {"failures": [traceback.format_exc()[-2000:]]}
    record = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "environment": plain(environment()),
        "seconds": time.monotonic() - began,
        "sections": sections,
        "failures": judge(sections),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    (options.out / "gpu.md").write_text(page(record), encoding="utf-8")
    for failure in record["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"wrote {options.out}/gpu.json and gpu.md")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
