"""Write tensorflow_golden.npz: TensorFlow's own evaluation preprocessing. Run it with tensorflow 2.21 installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

IMAGES = {"landscape": (61, 90), "portrait": (75, 40), "small": (9, 13)}
SIZE = 32


def picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 100 * np.sin(x / 7 + c) * np.cos(y / (5 + c)) for c in range(3)], -1)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def main() -> None:
    import tensorflow as tf

    def bicubic(images: object) -> np.ndarray:
        resized = tf.raw_ops.ResizeBicubic(images=images, size=[SIZE, SIZE], half_pixel_centers=False)
        return np.clip(np.rint(resized.numpy()[0]), 0, 255).astype(np.uint8)

    def tpu_side(height: int, width: int, size: int) -> object:  # _decode_and_center_crop of tensorflow/tpu
        return tf.cast((size / (size + 32)) * tf.cast(min(height, width), tf.float32), tf.int32)

    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, (height, width) in IMAGES.items():
        image = found[name] = picture(height, width, rng)
        images = tf.cast(image[None], tf.float32)
        found[f"{name}.squash"] = bicubic(tf.image.central_crop(images, 0.875))
        side = tpu_side(height, width, SIZE)
        top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
        found[f"{name}.tpu"] = bicubic(tf.image.crop_to_bounding_box(images, top, left, side, side))
        bilinear = tf.image.resize(images, [SIZE, SIZE], method="bilinear", antialias=False).numpy()[0]
        found[f"{name}.stretch"] = np.clip(np.rint(bilinear), 0, 255).astype(np.uint8)

    sizes = [(h, w) for h in (1, 2, 3, 7, 100, 333, 375, 500, 501) for w in (1, 5, 64, 224, 375, 500, 1023)]
    boxes = []
    for height, width in sizes:
        numbers = tf.reshape(tf.range(height * width, dtype=tf.float32), [1, height, width, 1])
        crop = tf.image.central_crop(numbers, 0.875).numpy()[0, ..., 0]
        top, left = divmod(int(crop[0, 0]), width)
        boxes.append((left, top, left + crop.shape[1], top + crop.shape[0]))
    found["central_crop"] = np.hstack([sizes, boxes]).astype(np.int32)
    found["tpu_side"] = np.array(
        [(h, w, size, int(tpu_side(h, w, size))) for h, w in sizes for size in (224, 260, 300)], np.int32
    )
    np.savez_compressed(Path(__file__).with_name("tensorflow_golden.npz"), **found)


if __name__ == "__main__":
    main()
