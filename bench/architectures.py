"""Export published architectures with random weights, serve them, and compare them with the original files.

    python bench/architectures.py --out bench/results/architectures.json [--seconds 200] [--only NAME,NAME]

Each network of torchvision and timm is written by `torch.onnx.export`, exported with float16 and, at a smaller size,
with int8, and each engine is served by a tritonserver. The original file in ONNX Runtime is the reference for
predictions and speed. Networks that are in the result file are skipped. With --seconds no further network begins after
that time; repeat the command to continue.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from geometry import crops, write_photos

from shrinkserve.api import exporting
from shrinkserve.api.exporting import ExportResult
from shrinkserve.artifact import MODEL
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.errors import GateError, ShrinkServeError
from shrinkserve.exporting.parity import Tolerance, compare_outputs
from shrinkserve.exporting.samples import Samples, synthetic
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Images, Logits, Predictor
from shrinkserve.serving.client.served_model import ServedModel
from shrinkserve.serving.server.server import ServerOptions, TritonServer

warnings.filterwarnings("ignore", category=FutureWarning)
# The compiled operators of PyPI's torchvision do not load with the CPU build of torch; networks do not need them.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))

# fmt: off
TORCHVISION = (
    "resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0", "squeezenet1_1", "densenet121",
    "resnext50_32x4d", "googlenet", "regnet_y_400mf", "mobilenet_v2", "mnasnet0_5", "vit_b_16", "swin_t",
)
TIMM = (
    "convnext_atto", "mobilenetv4_conv_small", "ghostnet_100", "repvgg_a0", "fastvit_t8", "efficientformerv2_s0",
    "nfnet_l0", "resnest14d", "tf_efficientnet_lite0", "deit_tiny_patch16_224", "mobilevit_xxs", "levit_128s",
    "edgenext_xx_small", "tinynet_e",
)
# fmt: on
CLASSES = [f"class {index}" for index in range(10)]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
TOML = """
size = {size}
geometry = "resize_crop"
resize_size = {size}
interpolation = "bilinear"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


TOLERANCES = {"float32": 1e-4, "float16": 0.01, "int8": 0.25}
TURNS, SECONDS = 9, 4.0
"""Turns of each contestant, fewer if they would take longer than this."""
INT8_SIZE, IMAGES = 96, 16
LAST = ("vit_b_16", "swin_t")
"""The slowest, measured last."""


class Original:
    """A `Predictor` that runs the original file in ONNX Runtime, with its default options."""

    classes = CLASSES

    def __init__(self, path: Path, size: int) -> None:
        self.name, self.size = path.name, size
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(self, images: Images) -> Logits:
        return self.run(normalised(images))

    def run(self, pixels: npt.NDArray[np.float32]) -> Logits:
        """Return the logits of float pixels [N, 3, S, S]."""
        logits: Logits = self.session.run(None, {"input": pixels})[0]
        return logits


def normalised(images: Images) -> npt.NDArray[np.float32]:
    """Return uint8 [N, S, S, 3] as the float input [N, 3, S, S] of the original file."""
    return np.ascontiguousarray(((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2), np.float32)


def build(name: str, size: int) -> nn.Module:
    """Return a network with random weights and batch norms that change their input."""
    torch.manual_seed(0)
    if name in TORCHVISION:
        from torchvision import models

        options = {"image_size": size} if name.startswith("vit") else {}
        options |= {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network: nn.Module = models.get_model(name, weights=None, num_classes=len(CLASSES), **options)
    else:
        import timm

        fixed = {"img_size": size} if name.startswith(("deit", "levit", "efficientformer")) else {}
        network = timm.create_model(name, pretrained=False, num_classes=len(CLASSES), **fixed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.8, 1.2)
                nn.init.normal_(part.running_mean, std=0.1)
                nn.init.uniform_(part.running_var, 0.8, 1.2)
            elif isinstance(part, nn.Linear) and not part.weight.any():  # torchvision's vision transformer
                nn.init.normal_(part.weight, std=0.02)
    return network.eval()


def write(name: str, size: int, folder: Path, *, dynamo: bool = True) -> Path:
    """Write a network as an ONNX file and return its path."""
    path = folder / f"{name}.onnx"
    example = torch.zeros(2, 3, size, size)
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            build(name, size), (example,), dynamo=True, input_names=["input"], dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        program.save(path)
    else:
        axes = {"input": {0: "batch"}}
        torch.onnx.export(
            build(name, size), (example,), str(path), dynamo=False, input_names=["input"], dynamic_axes=axes
        )
    return path


def measure(name: str, size: int, *, dynamo: bool = True, serve: bool = True) -> dict[str, Any]:
    """Return one row: differences and flips of each engine, and the times of the original file and of ours."""
    row: dict[str, Any] = {"network": name}
    with tempfile.TemporaryDirectory() as scratch:
        folder, models = Path(scratch), Path(scratch) / "models"
        original = Original(write(name, size, folder, dynamo=dynamo), size)
        try:
            version = exported(folder, name, size, models, "fp16")
        except ShrinkServeError as exc:
            return row | {"refused": str(exc).replace(str(folder), "")[:200]}
        samples = synthetic(size, 8)
        row |= speed(original, OnnxModel(version.folder / "model.onnx"), samples.images)
        row["passes"] = next((one["kept"] for one in version.card.details["tuning"]), "none")
        for engine, file in (("float32", MODEL), ("float16", "float16.onnx")):
            if serve:
                row |= served(original, models, engine, samples)
            else:
                row |= differences(original, OnnxModel(version.folder / file), engine, samples)
    return row


def measure_int8(name: str, size: int) -> dict[str, Any]:
    """Return how far the served int8 engine is from a file of torch's old exporter, or why there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, models = Path(scratch), Path(scratch) / "models"
        original = Original(write(name, size, folder, dynamo=False), size)
        try:
            version = exported(folder, name, size, models, "fp32")
            exporting.export(version.folder, to="int8")
        except GateError as exc:
            return {"int8": "not faster" if "faster" in exc.what else f"{str(exc.found).split(' below')[0]} lower"}
        return served(original, models, "int8", synthetic(size, 8))


def exported(folder: Path, name: str, size: int, models: Path, to: str) -> ExportResult:
    """Export the file that `write` wrote into a repository."""
    (folder / "p.toml").write_text(TOML.format(size=size))
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    described = {"preprocess": folder / "p.toml", "labels": folder / "labels.txt", "data": photographs(folder / "data")}
    return exporting.export(onnx=folder / f"{name}.onnx", repository=models, max_batch=8, to=to, **described)


def photographs(folder: Path) -> Path:
    """Write a dataset of crops of photographs, whose classes are not those of the network."""
    write_photos(folder, list(crops(2 * IMAGES)))
    return folder


def speed(original: Original, ours: OnnxModel, images: Images) -> dict[str, float]:
    """Return milliseconds of a batch of the file and of ours, the smallest of turns.

    The file is timed with and without the normalisation of its pixels in numpy; ours normalises in the graph.
    """
    row: dict[str, float] = {}
    for batch in (1, 8):
        pixels, part = normalised(images[:batch]), images[:batch]
        runs = {
            "file": lambda part=part: original.predict(part),
            "file_alone": lambda pixels=pixels: original.run(pixels),
            "ours": lambda part=part: ours.predict(part),
        }
        taken: dict[str, list[float]] = {name: [] for name in runs}
        began, turn = time.perf_counter(), 0
        while turn <= TURNS and (turn < 3 or time.perf_counter() - began < SECONDS):
            for name, run in runs.items():
                run()
                started = time.perf_counter()
                run()
                if turn:
                    taken[name].append(1e3 * (time.perf_counter() - started))
            turn += 1
        best = {name: min(times) for name, times in taken.items()}
        row |= {f"{name}_ms_{batch}": round(value, 2) for name, value in best.items()}
        row[f"times_as_fast_{batch}"] = round(best["file"] / best["ours"], 2)
        row[f"of_file_alone_{batch}"] = round(best["file_alone"] / best["ours"], 2)
    return row


def served(original: Original, models: Path, engine: str, samples: Samples) -> dict[str, Any]:
    """Return the differences of a served engine."""
    options = ServerOptions(engine=None if engine == "float32" else engine)
    with TritonServer(models, options) as server, ServedModel(server.grpc_url) as model:
        return differences(original, model, engine, samples)


def differences(original: Original, model: Predictor, engine: str, samples: Samples) -> dict[str, Any]:
    """Return how far an engine's logits are from the file's, in units of the largest logit, and the flips."""
    outcome = compare_outputs(original, model, samples, Tolerance(TOLERANCES[engine]), 8)
    worst = outcome.worst / outcome.scale
    return {engine: float(f"{worst:.2g}"), f"{engine}_flips": outcome.flips}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--only", default="", help="networks to measure, again if they are in the results")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no network after this time")
    parser.add_argument("--torchscript", action="store_true", help="write the files with torch's old exporter")
    parser.add_argument("--quick", action="store_true", help="two networks at a small size")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    everything = sorted([*TORCHVISION, *TIMM], key=lambda name: name in LAST)
    size, names = options.size, options.only.split(",") if options.only else everything
    if options.quick:
        size, names = 64, ["resnet18", "mobilenet_v3_small"]
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = [row for row in known if "refused" not in row]
    rows = {row["network"]: row for row in done if not options.only or row["network"] not in names}
    started = time.monotonic()
    work = [(name, part) for part in ("floats", "int8") for name in names]
    for name, part in work:
        row = rows.get(name, {})
        known_part = name in rows if part == "floats" else "int8" in row or "refused" in row
        if known_part or time.monotonic() - started > options.seconds:
            continue
        try:
            if part == "floats":
                rows[name] = measure(name, size, dynamo=not options.torchscript)
            else:
                rows[name] |= measure_int8(name, min(size, INT8_SIZE))
        except Exception as exc:  # noqa: BLE001 - torch cannot write some networks at some sizes
            why = f"{type(exc).__name__}: {str(exc)[:150]}"
            rows[name] = {"network": name, **row, ("refused" if part == "floats" else "int8"): why}
        print(rows[name], flush=True)
        write_atomic(options.out, (json.dumps(record(list(rows.values()), size), indent=1) + "\n").encode())
    print(f"{len(rows)} of {len({*TORCHVISION, *TIMM} | set(names))} networks")
    return int(any("refused" in row for row in rows.values()))


def record(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Return the results in the form of the other programs."""
    about: Any = plain(environment("timm", "torchvision"))
    order = {name: position for position, name in enumerate([*TORCHVISION, *TIMM])}
    return {
        "title": f"Architectures: {len(rows)} networks of torchvision and timm at {size}x{size}, exported and served",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": sorted(rows, key=lambda row: order.get(row["network"], len(order))),
        "notes": [
            f"random weights; {os.cpu_count()} cores; times: batches of 1 and 8, the smallest of up to {TURNS} turns",
            "ours normalises uint8 pixels in the graph; the original file is timed with normalisation in NumPy "
            "(times_as_fast) and without (of_file_alone); figures above 1 mean that ours is faster",
            "float32, float16, int8: largest difference of a served logit, in units of the largest logit",
            f"int8 at {INT8_SIZE}x{INT8_SIZE}: written if faster and if none of {IMAGES} photographs changes its class",
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
