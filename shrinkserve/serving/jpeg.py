"""A model that takes JPEG bytes: a DALI pipeline before a classifier, joined by an ensemble.

```
NAME                uint8 tensors in: the classifier, as `export` wrote it
NAME_preprocess     encoded images in, pixels out: a serialised DALI pipeline (backend ``dali``)
NAME_jpeg           encoded images in, logits and probabilities out: the ensemble of the two
```

Encoded images are a tenth of the bytes of pixels, and their decoding moves from the client to the server. The
pipeline does what `Preprocess.evaluate` does: the same central crop to the pixel, the same filter with antialiasing,
no EXIF rotation. DALI and Pillow round a little differently: pixels differ by 0.1 of 255 on average.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import write_atomic
from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import exchange, model_config
from shrinkserve.serving.activation import labels_text
from shrinkserve.serving.model_config import CONFIG, ENCODED, INPUT, JPEG, LABELS, LOGITS, PROBABILITIES
from shrinkserve.serving.repository import Repository

PREPROCESS = "_preprocess"
"""What the name of the pipeline adds to the classifier's."""
PIPELINE = "model.dali"
PIPELINE_INPUT = "DALI_INPUT_0"


def add_jpeg(repository: Repository, name: str) -> list[Path]:
    """Write ``NAME_preprocess`` and ``NAME_jpeg`` beside a classifier, or write them anew after its contract changed.

    Returns:
        The two folders, the pipeline's first.

    Raises:
        ConfigError: no such model, or DALI is not installed.
        ArtifactError: a place that cannot be written.
    """
    with repository.locked():
        base = repository.config(name)
        card = repository.card(name, repository.active(name), verify=False)
        preprocess = Preprocess.from_dict(card.preprocess)
        places = [repository.root / f"{name}{suffix}" for suffix in (PREPROCESS, JPEG)]
        with exchange.changed_folder(places[0]) as folder:
            (folder / "1").mkdir(exist_ok=True)
            write_atomic(folder / "1" / PIPELINE, serialise(preprocess, base.max_batch_size))
            write_atomic(folder / CONFIG, model_config.to_text(pipeline_config(base)).encode())
        with exchange.changed_folder(places[1]) as folder:
            (folder / "1").mkdir(exist_ok=True)
            write_atomic(folder / CONFIG, model_config.to_text(ensemble_config(base)).encode())
            write_atomic(folder / LABELS, labels_text(card.classes).encode())
    return places


def jpeg_problems(repository: Repository, name: str) -> list[str]:
    """Why the ensemble of a classifier, if it has one, does not fit it any more."""
    path = repository.root / f"{name}{JPEG}" / CONFIG
    if not path.is_file():
        return []
    base = repository.config(name)
    stale = model_config.read(path) != ensemble_config(base)
    labels = [path.with_name(LABELS), repository.root / name / LABELS]
    if stale or labels[0].read_bytes() != labels[1].read_bytes():
        return [f"{path.parent}: does not fit the version of {name} that answers; run `repo add-jpeg {name}`"]
    return []


def pipeline_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """The configuration of ``NAME_preprocess``, given that of the classifier."""
    config = pb.ModelConfig(name=f"{base.name}{PREPROCESS}", backend="dali", max_batch_size=base.max_batch_size)
    # Encoded images have a length each; ragged, so that requests are batched all the same.
    config.input.add(name=PIPELINE_INPUT, data_type=pb.TYPE_UINT8, dims=[-1], allow_ragged_batch=True)
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=base.input[0].dims)
    config.dynamic_batching.SetInParent()
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    _copy_contract(base, config)
    return config


def ensemble_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """The configuration of ``NAME_jpeg``, given that of the classifier."""
    config = pb.ModelConfig(name=f"{base.name}{JPEG}", platform="ensemble", max_batch_size=base.max_batch_size)
    config.input.add(name=ENCODED, data_type=pb.TYPE_UINT8, dims=[-1])
    config.output.extend(base.output)
    decode = config.ensemble_scheduling.step.add(model_name=f"{base.name}{PREPROCESS}", model_version=-1)
    decode.input_map[PIPELINE_INPUT] = ENCODED
    decode.output_map[INPUT] = "pixels"
    classify = config.ensemble_scheduling.step.add(model_name=base.name, model_version=-1)
    classify.input_map[INPUT] = "pixels"
    for output in (LOGITS, PROBABILITIES):
        classify.output_map[output] = output
    _copy_contract(base, config)
    return config


def _copy_contract(base: pb.ModelConfig, config: pb.ModelConfig) -> None:
    for key in ("preprocess", "contract"):
        config.parameters[f"{model_config.PREFIX}{key}"].CopyFrom(base.parameters[f"{model_config.PREFIX}{key}"])


def serialise(preprocess: Preprocess, max_batch: int) -> bytes:
    """The pipeline that does to encoded images what `Preprocess.evaluate_bytes` does.

    Raises:
        ConfigError: DALI is not installed.
    """
    try:
        dali: Any = import_module("nvidia.dali")
    except ImportError:
        raise ConfigError("DALI is not installed", do="pip install 'shrinkserve[dali]'") from None
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
