"""Measure top-1 and flips of every precision with networks trained on handwritten digits.

    python bench/precisions.py --out bench/results/precisions.json [--quick] [--data DIGITS] [--runs RUN_A RUN_B]

Trains ShrinkCNN-A (ReLU) and ShrinkCNN-B (Swish) with the recipe `digits`, and exports them for each runtime. Then it
runs the steps of `--to fp16`, `bf16` and `int8` without the rule that int8 must be faster; for these small networks it
is not, so `export` would refuse it. Every file is compared with the checkpoint on all validation images.
Without --data and --runs this takes five minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from network import QUICK

import shrinkserve as ss
from shrinkserve.artifact import MODEL
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.data.digits import write_digits
from shrinkserve.errors import GateError
from shrinkserve.exporting.optimise import PassTarget
from shrinkserve.exporting.parity import predict_all
from shrinkserve.exporting.precision import Lower
from shrinkserve.exporting.quantise.step import INT8, Int8, open_graph
from shrinkserve.exporting.samples import Samples, load_samples
from shrinkserve.exporting.steps import ONNX
from shrinkserve.exporting.variants import CALIBRATION_IMAGES
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import HINTS, OpenVinoModel
from shrinkserve.runtimes.predictor import Images, Predictor

TARGETS: tuple[PassTarget, ...] = ("onnxruntime-cpu", "openvino")
NETWORKS = {"A, ReLU": "shrinkcnn-a", "B, Swish": "shrinkcnn-b"}


def trained(recipe: str, folder: Path, data: Path, *settings: str) -> Path:
    run = ss.train(recipe, data, folder / f"run-{len(list(folder.glob('run-*')))}", overrides=settings)
    return run.folder


def rows_of(network: str, run: Path, data: Path, folder: Path, max_drop: float) -> Iterator[dict[str, Any]]:
    """Return a row for each precision and runtime, the checkpoint's first."""
    checkpoint = Checkpoint(run)
    samples = load_samples(data, checkpoint.preprocess, checkpoint.classes, limit=10_000)
    batches = evaluation_batches(open_dataset(data, "train"), checkpoint.preprocess, 64, limit=CALIBRATION_IMAGES)
    calibration = np.concatenate([batch.images for batch in batches])
    right = predict_all(checkpoint, samples.images, 32)
    yield {"network": network, "runtime": "torch", "precision": "float32", **judged(right, right, samples)}
    for target in TARGETS:
        repository = folder / f"{run.name}-{target}"
        model = ss.export(run, data=data, repository=repository, target=target, say=print).folder / MODEL
        runtime = target.removesuffix("-cpu")
        for precision, predictor, details in variants(model, runtime, calibration, samples, folder, max_drop):
            row = {"network": network, "runtime": runtime, "precision": precision}
            figures = judged(right, predict_all(predictor, samples.images, 32), samples) if predictor else {}
            yield {**row, **figures, **details}


def variants(
    model: Path, runtime: Any, calibration: Images, samples: Samples, folder: Path, max_drop: float
) -> Iterator[tuple[str, Predictor | None, dict[str, Any]]]:
    """Return each precision with its predictor, or None if it is refused, and details."""
    yield "float32", open_graph(model, runtime, ONNX), {}
    if runtime == "onnxruntime":
        Lower("float16", calibration).run(model, folder / "float16.onnx", samples)
        yield "float16", OnnxModel(folder / "float16.onnx"), {}
    else:
        yield "bfloat16", OpenVinoModel(model, precision=HINTS["bfloat16"]), {}
    try:
        record = Int8(runtime, calibration, max_drop, demand_faster=False).run(model, folder / "int8.onnx", samples)
    except GateError as exc:
        yield "int8", None, {"refused": str(exc)}
        return
    details = {"ranges": record["method"], "float_layers": len(record["float_layers"])}
    yield "int8", open_graph(folder / "int8.onnx", runtime, INT8), details


def judged(right: np.ndarray[Any, Any], found: np.ndarray[Any, Any], samples: Samples) -> dict[str, Any]:
    predictions = found.argmax(1)
    return {
        "top1_percent": round(100 * float(np.mean(predictions == samples.labels)), 2),
        "flips": int((predictions != right.argmax(1)).sum()),
        "images": len(samples),
        "worst_difference": float(np.abs(found - right).max() / max(1.0, np.abs(right).max())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one small network, one epoch of it")
    parser.add_argument("--data", type=Path, help="what `shrinkserve data digits` wrote")
    parser.add_argument("--runs", type=Path, nargs=2, help="trained runs of A and B")
    arguments = parser.parse_args()
    about = plain(environment())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = arguments.data or folder / "digits"
        if not arguments.data:
            write_digits(data)
        if arguments.quick:
            runs = {QUICK.title: trained("smoke", folder, data)}
        else:
            found = arguments.runs or [trained("digits", folder, data, f"model.network={n}") for n in NETWORKS.values()]
            runs = dict(zip(NETWORKS, found, strict=True))
        max_drop = 100.0 if arguments.quick else 0.5
        for network, run in runs.items():
            for row in rows_of(network, run, data, folder, max_drop):
                rows.append(row)
                print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    report = {
        "title": "Precisions on handwritten digits",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": ["worst_difference is that of a logit from the checkpoint's, in units of the largest logit"],
    }
    write_atomic(arguments.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
