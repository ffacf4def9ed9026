"""Compare the pixels of a served JPEG with those that a client makes, and count predictions that differ.

    python bench/served_pixels.py --out bench/results/served_pixels.json [--crops 504] [--quick]

For each geometry EfficientNet-Lite0 is served with its ensemble for JPEG by the server from PyPI. DALI decodes and
resizes in the server, Pillow in the client. Needs the packages of `bench/lite0.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
import lite0
from geometry import SIZE, crops
from PIL import Image

from shrinkserve.api import exporting
from shrinkserve.artifact import INPUT, MODEL
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import ServingConfig
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.operations import InferRequest
from shrinkserve.serving.names import model_names
from shrinkserve.serving.repository.dali_definition import PIPELINE_INPUT
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

Pixels = npt.NDArray[np.uint8]
QUALITY, BATCH = 90, 32
CHECKED = 8
"""JPEGs that are also sent to the ensemble, whose prediction must be that of the two models."""
CONTRACTS: dict[str, dict[str, Any]] = {
    "squash": {},
    "stretch": {"geometry": "stretch", "crop_fraction": 1.0},
    "center": {"geometry": "center"},
    "resize_crop": {"geometry": "resize_crop", "resize_size": 256},
    "tpu": {"geometry": "tpu"},
    "letterbox": {"geometry": "letterbox", "fill": (114, 114, 114)},
    "resize_crop, bilinear": {"geometry": "resize_crop", "resize_size": 256, "interpolation": "bilinear"},
    "resize_crop, lanczos": {"geometry": "resize_crop", "resize_size": 256, "interpolation": "lanczos"},
    "resize_crop, nearest": {"geometry": "resize_crop", "resize_size": 256, "interpolation": "nearest"},
}


def publish(root: Path, scratch: Path) -> dict[str, Preprocess]:
    """Write one model for each contract; they differ in the geometry only, so that the graph is the same."""
    lite0.write(scratch, SIZE)
    made = exporting.export(
        onnx=scratch / "lite0.onnx",
        preprocess=scratch / "lite0.toml",
        labels=scratch / "labels.txt",
        out=scratch / "exported",
        max_batch=BATCH,
    )
    known = Preprocess.from_dict(made.card.preprocess)
    base = replace(known, geometry="squash", interpolation="bicubic")
    contracts = {}
    for number, (name, changes) in enumerate(CONTRACTS.items()):
        contract = replace(base, **changes)
        model = f"m{number}_classifier"
        card = replace(made.card, name=model, preprocess=contract.to_dict())
        options = ServingConfig(max_batch_size=BATCH, warmup=False)
        Repository(root).add(model, made.folder / MODEL, card, options=options, encoded=True)
        contracts[name] = contract
    return contracts


def compare(client: Client, model: str, contract: Preprocess, images: list[bytes]) -> dict[str, Any]:
    """Return the differences of the pixels, and the number of predictions that change."""
    _, pipeline, ensemble, *_ = model_names(model)
    ours = np.stack([contract.evaluate_bytes(image) for image in images])
    encoded = [np.frombuffer(image, np.uint8)[None] for image in images]
    served = np.concatenate(
        [client.send(InferRequest(pipeline, one, {INPUT: 0}, tensor=PIPELINE_INPUT)).tensors[INPUT] for one in encoded]
    )
    right, found = (logits(client, model, pixels) for pixels in (ours, served))
    whole = [result.predictions[0].label for result in client.stream_encoded(images[:CHECKED], ensemble)]
    if whole != [f"class {index}" for index in found.argmax(1)[:CHECKED]]:
        raise SystemExit(f"{ensemble}: the ensemble predicts differently from its two models")
    apart = np.abs(ours.astype(np.int16) - served)
    return {
        "largest_pixel_difference": int(apart.max()),
        "mean_pixel_difference": round(float(apart.mean()), 3),
        "percent_within_one": round(100 * float((apart <= 1).mean()), 2),
        "changed_predictions": int((right.argmax(1) != found.argmax(1)).sum()),
        "images": len(images),
        "largest_probability_difference": round(float(np.abs(softmax(right) - softmax(found)).max()), 3),
    }


def logits(client: Client, model: str, pixels: Pixels) -> npt.NDArray[np.float32]:
    return np.concatenate([client.infer(model, pixels[i : i + BATCH])[0] for i in range(0, len(pixels), BATCH)])


def softmax(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def jpeg(image: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=504)
    parser.add_argument("--quick", action="store_true", help="few images")
    options = parser.parse_args()
    images = [jpeg(image) for image in crops(CHECKED if options.quick else options.crops)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as folder:
        root, scratch = Path(folder) / "models", Path(folder)
        contracts = publish(root, scratch)
        with (
            TritonServer(root, ServerOptions(log_file=scratch / "triton.log")) as server,
            Client(server.grpc_url) as client,
        ):
            for number, (name, contract) in enumerate(contracts.items()):
                rows.append({"preprocessing": name, **compare(client, f"m{number}_classifier", contract, images)})
                print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    about: Any = plain(environment("nvidia-dali-cuda120", "nvidia-dali-cuda130"))
    record = {
        "title": f"Served JPEG against pixels of the client, {len(images)} images",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"EfficientNet-Lite0 with its published weights; crops of photographs as JPEG of quality {QUALITY}",
            "bicubic unless another filter is named; pixels of 0 to 255",
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
