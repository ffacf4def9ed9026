"""The serialised DALI pipeline that does to encoded images what `Preprocess.evaluate_bytes` does.

The same central crop to the pixel, the same filter with antialiasing, no EXIF rotation. DALI and Pillow round a little
differently: pixels differ by 0.1 of 255 on average.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess

PIPELINE_INPUT = "DALI_INPUT_0"


def dali_version() -> str:
    """Return the version of DALI; an older one may not load its pipelines.

    Raises:
        ConfigError: DALI is not installed.
    """
    return str(_import_dali().__version__)


def _import_dali() -> Any:
    try:
        return import_module("nvidia.dali")
    except ImportError:
        raise ConfigError("DALI is not installed", hint="pip install 'shrinkserve[dali]'") from None


def serialise_pipeline(preprocess: Preprocess, max_batch: int) -> bytes:
    """Return the pipeline for batches of up to `max_batch` images as the content of a ``model.dali``.

    Raises:
        ConfigError: DALI is not installed.
    """
    dali = _import_dali()
    fn, types = dali.fn, dali.types
    filters = {
        "nearest": types.INTERP_NN,
        "bilinear": types.INTERP_LINEAR,
        "bicubic": types.INTERP_CUBIC,
        "lanczos": types.INTERP_LANCZOS3,
    }
    pipeline = dali.Pipeline(batch_size=max_batch, num_threads=1, device_id=None)
    with pipeline:
        encoded = fn.external_source(name=PIPELINE_INPUT, ndim=1, dtype=types.UINT8)
        image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
        start, end = _crop_box(dali, encoded, preprocess.crop_fraction)
        pixels = fn.resize(
            image,
            size=[preprocess.size, preprocess.size],
            interp_type=filters[preprocess.interpolation],
            antialias=True,
            roi_start=start,
            roi_end=end,
            roi_relative=False,
        )
        pipeline.set_outputs(pixels)
    return bytes(pipeline.serialize())


def _crop_box(dali: Any, encoded: Any, fraction: float) -> tuple[Any, Any]:
    """`Preprocess.crop_box` in DALI's arithmetic: top left and bottom right, rows before columns."""
    fn, math, types = dali.fn, dali.math, dali.types
    size = fn.peek_image_shape(encoded, adjust_orientation=False)
    shape = fn.cast(fn.slice(size, 0, 2, axes=[0]), dtype=types.FLOAT64)
    parts = [shape * types.Constant(part, dtype=types.FLOAT64) for part in _single_precision_parts(fraction)]
    exact = (parts[2] + parts[1]) + parts[0]
    floor = math.floor(exact)
    # Python rounds halves to the even neighbour.
    odd = floor - 2.0 * math.floor(floor / 2.0)
    up = (exact - floor > 0.5) | ((exact - floor == 0.5) & (odd == 1.0))
    kept = math.max(floor + up, 1.0)
    start = math.floor((shape - kept) / 2.0)
    return fn.cast(start, dtype=types.FLOAT), fn.cast(start + kept, dtype=types.FLOAT)


def _single_precision_parts(value: float) -> list[float]:
    """Three numbers whose sum is `value`: DALI keeps constants in single precision, where 0.9 is another number."""
    parts: list[float] = []
    for _ in range(3):
        parts.append(float(np.float32(value - sum(parts))))
    return parts
