"""Count the predictions of EfficientNet-Lite0 that change with the preprocessing, against Google's and timm's pixels.

    python bench/geometry.py --crops 504

Needs the packages of `bench/lite0.py`, timm and torchvision. With TensorFlow installed, or with `--google FILE` that
`--write-google FILE` wrote where TensorFlow is installed, the reference is Google's own preprocessing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZE = 224


def crops(count: int) -> Iterator[np.ndarray]:
    """Yield random crops of the pictures that scikit-learn and scikit-image carry, uint8 [H, W, 3]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photos = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        width = int(rng.integers(120, photo.shape[1] + 1))
        height = int(np.clip(width * rng.uniform(0.6, 1.6), 100, photo.shape[0]))
        left, top = int(rng.integers(photo.shape[1] - width + 1)), int(rng.integers(photo.shape[0] - height + 1))
        yield photo[top : top + height, left : left + width]


def google_pixels(images: list[np.ndarray]) -> np.ndarray:
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


def timm_pixels(images: list[np.ndarray]) -> np.ndarray:
    """Return the pixels of timm's own transform for this network."""
    from loader import import_torchvision_transforms
    from PIL import Image

    import_torchvision_transforms()
    from timm.data import create_transform

    transform = create_transform(SIZE, crop_pct=0.875, interpolation="bicubic", is_training=False, normalize=False)
    return np.stack([np.asarray(transform(Image.fromarray(image))).transpose(1, 2, 0) for image in images])


def predictions(pixels: np.ndarray) -> np.ndarray:
    """Return the top-1 class of each image."""
    import torch
    from lite0 import network

    model = network()
    images = (torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)) - 127) / 128
    with torch.inference_mode():
        return torch.cat([model(part.permute(0, 3, 1, 2)) for part in images.split(32)]).argmax(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=504)
    parser.add_argument("--google", type=Path, help="file with Google's pixels")
    parser.add_argument("--write-google", type=Path, help="only write this file; needs TensorFlow")
    options = parser.parse_args()
    images = list(crops(options.crops))
    if options.write_google:
        np.save(options.write_google, google_pixels(images))
        return
    from PIL import Image

    from shrinkserve.preprocess import Preprocess

    ours = {
        "squash, bicubic": Preprocess(SIZE),
        "center, bicubic": Preprocess(SIZE, geometry="center"),
        "tpu, bicubic": Preprocess(SIZE, geometry="tpu"),
        "tpu, bicubic_tf1": Preprocess(SIZE, geometry="tpu", interpolation="bicubic_tf1"),
    }
    found = {
        name: predictions(np.stack([one.evaluate(Image.fromarray(image)) for image in images]))
        for name, one in ours.items()
    }
    references = {"timm": predictions(timm_pixels(images))}
    google = np.load(options.google) if options.google else google_pixels(images)
    references["Google"] = predictions(google)
    for name, classes in found.items():
        differ = ", ".join(f"{np.mean(classes != other):.1%} from {of}'s" for of, other in references.items())
        sys.stdout.write(f"{name}: {differ}\n")


if __name__ == "__main__":
    main()
