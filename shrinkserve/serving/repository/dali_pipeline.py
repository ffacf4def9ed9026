"""DALI pipeline that computes `Preprocess.evaluate_bytes` for encoded images.

It makes the same crop to the pixel and uses the same filter. DALI and Pillow round differently: pixels differ by 0.1 of
255 on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.preprocess.resize import DALI_FILTERS

PIPELINE_INPUT = "DALI_INPUT_0"
DEFINITION = "shrinkserve.serving.repository.dali_definition"
SOURCE = '''

from nvidia.dali.plugin.triton import autoserialize  # noqa: E402


@autoserialize
@dali.pipeline_def(batch_size={batch}, num_threads=1, device_id=None)
def pipeline():
    """Return the pixels of NAME_preprocess."""
    return pixels({settings!r})
'''


def dali_version() -> str:
    """Return the version of DALI; other versions may not load its pipelines.

    Raises:
        ConfigError: DALI is not installed.
    """
    return str(_import("nvidia.dali").__version__)


def serialise_pipeline(preprocess: Preprocess, max_batch: int, *, approximate: bool = False) -> bytes:
    """Return the pipeline for batches of up to `max_batch` images as the content of a ``model.dali``.

    Args:
        preprocess: the contract.
        max_batch: most images per batch.
        approximate: use DALI's nearest filter for a contract that it cannot compute.

    Raises:
        ConfigError: DALI is not installed, or it cannot compute the contract.
    """
    dali = _import("nvidia.dali")
    definition = _import(DEFINITION)
    pipeline = dali.Pipeline(batch_size=max_batch, num_threads=1, device_id=None)
    with _without_source_paths(), pipeline:
        pipeline.set_outputs(definition.pixels(_settings(preprocess, approximate=approximate)))
    return bytes(pipeline.serialize())


@contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keep the source paths of this machine, which DALI notes for its error messages, out of a pipeline."""
    try:
        trace = import_module("nvidia.dali._utils.dali_trace")
        enabled = trace.is_tracing_enabled()
    except (ImportError, AttributeError):  # a private module: another version may lack it
        yield
        return
    trace.set_tracing(enabled=False)
    try:
        yield
    finally:
        trace.set_tracing(enabled=enabled)


def pipeline_source(preprocess: Preprocess, max_batch: int, *, approximate: bool = False) -> bytes:
    """Return the pipeline as Python source, the content of a ``dali.py``.

    NVIDIA's DALI backend runs it if it cannot load ``model.dali``, which another version of DALI wrote.
    """
    spec = find_spec(DEFINITION)
    assert spec is not None
    assert spec.origin is not None
    text = SOURCE.format(batch=max_batch, settings=_settings(preprocess, approximate=approximate))
    return Path(spec.origin).read_bytes() + text.encode()


def unsupported(preprocess: Preprocess) -> str | None:
    """Return why the pipeline cannot compute a contract; None if it can."""
    return preprocess.approximate_in_dali()


def _settings(preprocess: Preprocess, *, approximate: bool) -> dict[str, object]:
    """Return the arguments of the definition.

    Raises:
        ConfigError: the pipeline cannot compute the contract.
    """
    if (why := unsupported(preprocess)) and not approximate:
        hint = "send pixels, or accept other pixels with --approximate-decoder"
        raise ConfigError(f"cannot take encoded images: {why}", hint=hint)
    border = preprocess.border()
    colours = [border] if isinstance(border, int) else list(border)
    return {
        "size": preprocess.size,
        "geometry": preprocess.geometry,
        "crop_fraction": preprocess.crop_fraction,
        "shorter": preprocess.shorter_side,
        "interpolation": DALI_FILTERS[preprocess.interpolation],
        "antialias": preprocess.antialias,
        "channel_order": preprocess.channel_order,
        "border": colours[::-1] if preprocess.channel_order == "BGR" else colours,
        "apply_exif": preprocess.apply_exif,
    }


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError("DALI is not installed", hint="pip install 'shrinkserve[dali]'") from None
