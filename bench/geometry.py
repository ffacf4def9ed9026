"""Count predictions of EfficientNet-Lite0 that change with the preprocessing: ours, timm's, torchvision's, Google's.

    python bench/geometry.py --google google.npy --out bench/results/geometry.json
    python bench/geometry.py --write-google google.npy     # where TensorFlow is installed
    python bench/geometry.py --write-photos DIR --crops 512    # the crops as a dataset

504 crops of the 21 photographs that scikit-learn and scikit-image carry. They have no labels, so changed predictions
are counted and not accuracy. Needs the packages of `bench/lite0.py`, timm and torchvision. Google's pixels come from
--google or from an installed TensorFlow; without both they are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 224
SURE = 0.5
Pixels = npt.NDArray[np.uint8]
GREY = {"brick", "camera", "clock_motion", "coins", "grass", "gravel", "moon", "page", "cell", "text"}
COLOUR = {
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "ihc",
    "motorcycle_left",
    "motorcycle_right",
    "retina",
    "rocket",
}


def photographs() -> list[Pixels]:
    """Return the photographs, uint8 [H, W, 3]."""
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    files = sorted(p for p in Path(skimage.data.__file__).parent.iterdir() if p.stem in GREY | COLOUR)
    return [*load_sample_images().images, *(np.asarray(Image.open(path).convert("RGB")) for path in files)]


def crops(count: int) -> Iterator[Pixels]:
    """Yield random crops of the photographs, in turn."""
    photos = photographs()
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        width = int(rng.integers(120, photo.shape[1] + 1))
        height = int(np.clip(width * rng.uniform(0.6, 1.6), 100, photo.shape[0]))
        left, top = int(rng.integers(photo.shape[1] - width + 1)), int(rng.integers(photo.shape[0] - height + 1))
        yield photo[top : top + height, left : left + width]


def write_photos(folder: Path, images: list[Pixels]) -> None:
    """Write a dataset, half of it for training; its only class is none of a network's."""
    from PIL import Image

    for number, image in enumerate(images):
        place = folder / ("train" if number < len(images) // 2 else "val") / "photo"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.jpg", quality=90)


def google_pixels(images: list[Pixels]) -> npt.NDArray[np.float32]:
    """Return the float pixels of tensorflow/tpu, models/official/efficientnet/preprocessing.py."""
    import tensorflow as tf

    found = []
    for image in images:
        height, width = image.shape[:2]
        side = tf.cast((SIZE / (SIZE + 32)) * tf.cast(min(height, width), tf.float32), tf.int32)
        top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
        crop = tf.image.crop_to_bounding_box(tf.cast(image[None], tf.float32), top, left, side, side)
        found.append(tf.raw_ops.ResizeBicubic(images=crop, size=[SIZE, SIZE], half_pixel_centers=False).numpy()[0])
    return np.stack(found)


def peer_pixels(images: list[Pixels]) -> dict[str, Pixels]:
    """Return the pixels of timm's and torchvision's own transforms."""
    from loader import import_torchvision_transforms
    from PIL import Image

    t = import_torchvision_transforms()
    from timm.data import create_transform

    def timm(fraction: float, interpolation: str, mode: str | None = None) -> Any:
        options = {} if mode is None else {"crop_mode": mode}
        return create_transform(
            SIZE, crop_pct=fraction, interpolation=interpolation, is_training=False, normalize=False, **options
        )

    resize = t.InterpolationMode
    transforms = {
        "timm, center 0.875, bicubic": timm(0.875, "bicubic"),
        "timm, center 0.95, bilinear": timm(0.95, "bilinear"),
        "timm, squash, bicubic": timm(1.0, "bicubic", "squash"),
        "torchvision, 256, bilinear": t.Compose([t.Resize(256, resize.BILINEAR), t.CenterCrop(SIZE), t.PILToTensor()]),
        "torchvision, 232, bicubic": t.Compose([t.Resize(232, resize.BICUBIC), t.CenterCrop(SIZE), t.PILToTensor()]),
    }
    opened = [Image.fromarray(image) for image in images]
    return {
        name: np.stack([np.asarray(transform(image)).transpose(1, 2, 0) for image in opened])
        for name, transform in transforms.items()
    }


class Network:
    """EfficientNet-Lite0 in ONNX Runtime. Equal pixels are computed once."""

    def __init__(self, folder: Path) -> None:
        import lite0
        import onnxruntime

        self._session = onnxruntime.InferenceSession(lite0.write(folder, SIZE), providers=["CPUExecutionProvider"])
        self._known: dict[bytes, npt.NDArray[np.float32]] = {}

    def probabilities(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the probabilities for pixels [N, S, S, 3] of 0 to 255."""
        key = hashlib.sha256(np.ascontiguousarray(pixels, np.float32).tobytes()).digest()
        if key not in self._known:
            parts = [self._run(pixels[start : start + 32]) for start in range(0, len(pixels), 32)]
            self._known[key] = np.concatenate(parts)
        return self._known[key]

    def _run(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        images = np.ascontiguousarray((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
        (logits,) = self._session.run(None, {"input": np.ascontiguousarray(images)})
        powers: npt.NDArray[np.float32] = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def pairs() -> list[tuple[str, Any, str]]:
    """Return each comparison: the name of ours, its contract, and the reference."""
    from shrinkserve.preprocess import Preprocess

    return [
        ("center 0.875, bicubic", Preprocess(SIZE, geometry="center"), "timm, center 0.875, bicubic"),
        (
            "center 0.95, bilinear",
            Preprocess(SIZE, 0.95, "bilinear", geometry="center"),
            "timm, center 0.95, bilinear",
        ),
        ("stretch, bicubic", Preprocess(SIZE, 1.0, geometry="stretch"), "timm, squash, bicubic"),
        (
            "resize_crop 256, bilinear",
            Preprocess(SIZE, interpolation="bilinear", geometry="resize_crop", resize_size=256),
            "torchvision, 256, bilinear",
        ),
        (
            "resize_crop 232, bicubic",
            Preprocess(SIZE, geometry="resize_crop", resize_size=232),
            "torchvision, 232, bicubic",
        ),
        ("tpu, bicubic_tf1", Preprocess(SIZE, geometry="tpu", interpolation="bicubic_tf1"), "Google"),
        ("tpu, bicubic", Preprocess(SIZE, geometry="tpu"), "Google"),
        ("center 0.875, bicubic", Preprocess(SIZE, geometry="center"), "Google"),
        ("squash 0.875, bicubic", Preprocess(SIZE), "Google"),
        ("squash 0.875, bicubic", Preprocess(SIZE), "timm, center 0.875, bicubic"),
    ]


def compare(images: list[Pixels], google: npt.NDArray[np.float32] | None) -> list[dict[str, Any]]:
    """Return a row for each comparison: pixels, changed predictions, and those where the reference was sure."""
    from PIL import Image

    references: dict[str, npt.NDArray[Any]] = {**peer_pixels(images)}
    if google is not None:
        references["Google"] = google
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
    sure = {name: network.probabilities(pixels) for name, pixels in references.items()}
    known: dict[str, tuple[Pixels, npt.NDArray[np.intp]]] = {}
    rows = []
    for name, contract, reference in pairs():
        if reference not in references:
            continue
        if name not in known:
            pixels = np.stack([contract.evaluate(Image.fromarray(image)) for image in images])
            known[name] = pixels, network.probabilities(pixels).argmax(1)
        pixels, classes = known[name]
        right = sure[reference]
        changed, certain = classes != right.argmax(1), right.max(1) > SURE
        apart = np.abs(pixels - references[reference].astype(np.float32))
        rows.append(
            {
                "ours": name,
                "reference": reference,
                "largest_pixel_difference": round(float(apart.max()), 2),
                "mean_pixel_difference": round(float(apart.mean()), 3),
                "changed_predictions": int(changed.sum()),
                "changed_percent": round(100 * float(changed.mean()), 1),
                "sure_images": int(certain.sum()),
                "changed_of_sure": int((changed & certain).sum()),
            }
        )
        sys.stdout.write("  ".join(f"{key}={value}" for key, value in rows[-1].items()) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=504)
    parser.add_argument("--quick", action="store_true", help="few crops")
    parser.add_argument("--google", type=Path, help="file with Google's pixels")
    parser.add_argument("--write-google", type=Path, help="only write this file; needs TensorFlow")
    parser.add_argument("--write-photos", type=Path, help="only write the crops as a dataset into this folder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images = list(crops(21 if options.quick else options.crops))
    if options.write_google:
        np.save(options.write_google, google_pixels(images))
        return
    if options.write_photos:
        write_photos(options.write_photos, images)
        return
    google = np.load(options.google) if options.google else None
    if google is None and find_spec("tensorflow") is not None:
        google = google_pixels(images)
    rows = compare(images, google)
    if options.out:
        from shrinkserve.atomic import write_atomic
        from shrinkserve.benchmark.plain import plain
        from shrinkserve.benchmark.report.environment import environment

        about: Any = plain(environment("timm", "torchvision"))
        record = {
            "title": f"Preprocessing: ours against timm, torchvision and Google, {len(images)} crops",
            "date": about["date"],
            "command": about["command"],
            "environment": about,
            "rows": rows,
            "notes": [
                f"EfficientNet-Lite0 with its published weights; crops of {len(photographs())} photographs",
                f"sure_images: the reference's largest probability is above {SURE}",
                "Google: tensorflow/tpu, models/official/efficientnet/preprocessing.py, run by TensorFlow in float; "
                "ours rounds to uint8, as a server takes it",
            ],
        }
        write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
