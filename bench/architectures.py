"""Export published architectures with random weights, and compare them with ONNX Runtime on the original file.

    python bench/architectures.py --size 224 --out bench/results/architectures.json

Each network of torchvision and timm is written by `torch.onnx.export`, exported with `shrinkserve export --to fp16`,
and run in batches of 1, 3 and 8. The table has the largest difference of a logit, relative to the largest logit, and
the time of the file as it came divided by the time of the exported one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch
from torch import nn

from shrinkserve.api import exporting
from shrinkserve.errors import ShrinkServeError
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.tune import interleaved
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Images, Logits
from shrinkserve.terminal import print_table

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


class Original:
    """A `Predictor` that runs the file as it came in ONNX Runtime, with its default options."""

    classes = CLASSES

    def __init__(self, path: Path, size: int) -> None:
        self.name, self.size = str(path), size
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(self, images: Images) -> Logits:
        pixels = ((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
        logits: Logits = self.session.run(None, {"input": np.ascontiguousarray(pixels, np.float32)})[0]
        return logits


def build(name: str, size: int) -> nn.Module:
    """Return a network with random weights and batch norms that do something."""
    torch.manual_seed(0)
    if name in TORCHVISION:
        from torchvision import models

        options = {"image_size": size} if name.startswith("vit") else {}
        options |= {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        network: nn.Module = models.get_model(name, weights=None, num_classes=len(CLASSES), **options)
    else:
        import timm

        fixed = {"img_size": size} if name.startswith(("deit", "levit")) else {}
        network = timm.create_model(name, pretrained=False, num_classes=len(CLASSES), **fixed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.8, 1.2)
                nn.init.normal_(part.running_mean, std=0.1)
                nn.init.uniform_(part.running_var, 0.8, 1.2)
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


def measure(name: str, size: int, to: str, *, dynamo: bool = True) -> dict[str, object]:
    """Return one row: differences, flips and the ratio of the times."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "p.toml").write_text(TOML.format(size=size))
        (folder / "labels.txt").write_text("\n".join(CLASSES))
        path = write(name, size, folder, dynamo=dynamo)
        described = {"preprocess": folder / "p.toml", "labels": folder / "labels.txt"}
        try:
            version = exporting.export(onnx=path, repository=folder / "models", max_batch=8, to=to, **described)
        except ShrinkServeError as exc:
            return {"network": name, "refused": str(exc).replace(str(folder), "")[:200]}
        original, exported = Original(path, size), OnnxModel(version.folder / "model.onnx")
        images = synthetic(size, 24).images
        right = original.predict(images)
        parts = {n: [exported.predict(images[i : i + n]) for i in range(0, len(images), n)] for n in (1, 3, 8)}
        rows = {n: np.concatenate(found) for n, found in parts.items()}
        scale = max(1.0, float(np.abs(right).max()))
        worst = max(float(np.abs(found - right).max()) for found in rows.values()) / scale
        flips = int((rows[8].argmax(1) != right.argmax(1)).sum())
        ratios = {}
        for batch in (1, 8):
            before, after = interleaved([original, exported], images[:batch], 6, 2)
            ratios[f"batch {batch}"] = round(before / after, 2)
        engines = {engine.name: engine.record["steps"][-1]["parity"]["worst"] for engine in version.engines}
        return {"network": name, "worst": worst, "flips": flips, **ratios, "engines": engines}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--to", default="fp16")
    parser.add_argument("--only", default="")
    parser.add_argument("--torchscript", action="store_true", help="write the files with torch's old exporter")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.only.split(",") if options.only else [*TORCHVISION, *TIMM]:
        try:
            rows.append(measure(name, options.size, options.to, dynamo=not options.torchscript))
        except Exception as exc:  # noqa: BLE001 - torch cannot write some networks at some sizes
            rows.append({"network": name, "refused": f"{type(exc).__name__}: {str(exc)[:150]}"})
        print(rows[-1], flush=True)
    columns = ["network", "worst", "flips", "batch 1", "batch 8", "engines", "refused"]
    print_table(columns, [[row.get(column, "") for column in columns] for row in rows], left=["engines", "refused"])
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any("refused" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
