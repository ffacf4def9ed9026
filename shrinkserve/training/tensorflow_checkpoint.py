"""Checkpoints of AutoShrink's own TensorFlow code as tensors of this project's network."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from shrinkserve.arch.importer import CELL
from shrinkserve.arch.prototxt import parse, read_bytes
from shrinkserve.errors import ArtifactError

Array = npt.NDArray[np.float32]

RAW = "/ExponentialMovingAverage"
"""Suffix of raw weights. AutoShrink saves with `swapping_saver`, which stores the average under the plain name."""
IGNORED = ("RMSProp", "RMSProp_1", "Momentum", "global_step")
"""Last parts of names that are no weights: slots of the optimiser and the counter of updates."""
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
NO_NUMBERS = "OSUc"
"""Kinds of numpy's types that no weight has: text, and complex numbers."""
SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class ImportedWeights:
    """Weights of a TensorFlow checkpoint.

    Attributes:
        ema: averaged weights by the names of our network.
        raw: weights of the optimiser, or `ema` if the checkpoint has no averages.
        averaged: True if the checkpoint has averages.
        ignored: names of optimiser slots and counters.
    """

    ema: dict[str, Array]
    raw: dict[str, Array]
    averaged: bool
    ignored: list[str]


def read_checkpoint(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read all variables of a TensorFlow checkpoint through TensorFlow.

    Args:
        path: prefix of the checkpoint's files, its ``.index`` file, or a folder with a ``checkpoint`` file.

    Raises:
        ArtifactError: TensorFlow is not installed, or there is no readable checkpoint.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notices about the CPU
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints that it uses them
    try:
        import tensorflow as tf
    except ImportError as exc:
        hint = "pip install 'shrinkserve[tensorflow]', in a separate environment if it conflicts with others"
        raise ArtifactError("importing a TensorFlow checkpoint needs TensorFlow", hint=hint) from exc
    prefix = _latest(path) if path.is_dir() else str(path).removesuffix(".index")
    if prefix is None or not Path(f"{prefix}.index").is_file():
        hint = "give the prefix of its files (model.ckpt for model.ckpt.index) or their folder"
        raise ArtifactError(f"{path}: no TensorFlow checkpoint", hint=hint)
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as exc:
        reason = str(exc).splitlines()[0][:200]
        hint = "copy the .index and all .data files again"
        raise ArtifactError(f"{prefix}: not a readable checkpoint ({reason})", hint=hint) from exc


def _latest(folder: Path) -> str | None:
    """Return the prefix of the checkpoint that a folder's file ``checkpoint`` names; None if it names none."""
    import tensorflow as tf

    logger = tf.get_logger()  # it prints lines about a damaged file
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return cast("str | None", tf.train.latest_checkpoint(str(folder)))
    except (tf.errors.OpError, ValueError):
        return None
    finally:
        logger.setLevel(level)


def variables_of(proto: Path) -> dict[str, str]:
    """Return the name of each tensor of our network and of its TensorFlow variable.

    Raises:
        SpecError: cannot read the network file, or it is invalid.
    """
    return dict(_variables(read_bytes(proto)))


def _variables(content: bytes) -> Iterator[tuple[str, str]]:
    for layer in parse(content):
        if "name" not in layer.values:
            continue
        theirs = layer["name"]
        ours = CELL.sub(r"stage\1.cell\2.", theirs).replace("/", ".")
        if layer.kind == "Convolutional":
            yield f"{ours}.conv.weight", f"{theirs}/conv/kernel"
            yield from _batch_norm(f"{ours}.norm", theirs)
        elif layer.kind == "Add":  # only if the shortcut is projected; `convert` drops what the network does not have
            yield f"{ours}_shortcut.conv.weight", f"{theirs}/conv/kernel"
            yield from _batch_norm(f"{ours}_shortcut.norm", theirs)
        elif layer.kind == "SeparableConv":
            scope = f"{theirs}/depthwise/separable_conv2d"
            yield f"{ours}.depthwise.weight", f"{scope}/depthwise_kernel"
            yield from _batch_norm(f"{ours}.depthwise_norm", f"{scope}/depthwise_bn")
            yield f"{ours}.pointwise.weight", f"{scope}/pointwise_kernel"
            yield from _batch_norm(f"{ours}.norm", f"{scope}/pointwise_bn")
        elif layer.kind == "Dense":
            yield f"{ours}.weight", f"{theirs}/dense/kernel"
            yield f"{ours}.bias", f"{theirs}/dense/bias"


def _batch_norm(ours: str, scope: str) -> Iterator[tuple[str, str]]:
    for theirs, name in BATCH_NORM.items():
        yield f"{ours}.{name}", f"{scope}/bn/{theirs}"


def convert(
    found: Mapping[str, npt.NDArray[np.generic]],
    variables: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> ImportedWeights:
    """Convert the variables of a checkpoint to the tensors of our network.

    Args:
        found: variables by TensorFlow's names.
        variables: our names and TensorFlow's, see `variables_of`.
        shapes: shapes of our network's tensors.
        where: the checkpoint, for messages.

    Raises:
        ArtifactError: a variable is missing, left over, of another type or shape, or not finite; lists the names.
    """
    names = {ours: variables[ours] for ours in shapes if ours in variables}
    averaged = any(name.endswith(RAW) for name in found)
    ignored = sorted(name for name in found if name.rpartition("/")[2] in IGNORED)
    numbers = {name: value for name, value in found.items() if value.dtype.kind not in NO_NUMBERS}
    ema = {ours: _tensor(numbers[name], ours) for ours, name in names.items() if name in numbers}
    raw = {ours: _tensor(numbers.get(f"{names[ours]}{RAW}", numbers[names[ours]]), ours) for ours in ema}
    expected = _expected_variables(names, averaged=averaged)
    problems = [
        *(f"no variable for {ours}" for ours in shapes if ours not in variables),
        *(f"missing: {name}" for name in sorted(expected - found.keys())),
        *(f"left over: {name}" for name in sorted(found.keys() - expected - {*ignored})),
        *(f"no numbers: {name}" for name in sorted(expected & (found.keys() - numbers.keys()))),
        *_value_problems(ema, names, shapes),
        *_value_problems(raw, names, shapes),
    ]
    if problems:
        unique = list(dict.fromkeys(problems))
        more = f" and {len(unique) - SHOWN} more" if len(unique) > SHOWN else ""
        raise ArtifactError(
            f"{where}: not a checkpoint of this network ({'; '.join(unique[:SHOWN])}{more})",
            hint="give the .prototxt file that it was trained with",
        )
    return ImportedWeights(ema, raw, averaged, ignored)


def _expected_variables(names: Mapping[str, str], *, averaged: bool) -> set[str]:
    """Return the variables of a checkpoint; one with averages has trained weights twice."""
    trained = {theirs for ours, theirs in names.items() if not ours.endswith(("running_mean", "running_var"))}
    return {*names.values(), *(f"{name}{RAW}" for name in trained if averaged)}


def _value_problems(
    tensors: Mapping[str, Array], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """Yield a text for each tensor of the wrong shape or with a value that is not finite."""
    for ours, tensor in tensors.items():
        if tensor.shape != shapes[ours]:
            yield f"shape of {names[ours]}: expected {shapes[ours]}, found {tensor.shape}"
        elif not np.isfinite(tensor).all():
            yield f"not finite: {names[ours]}"


def _tensor(value: npt.NDArray[np.generic], ours: str) -> Array:
    """Return a variable in torch's layout: kernels are HWIO, depthwise kernels HWC1, dense kernels [in, out]."""
    array = np.asarray(value, np.float32)
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if ours.endswith("depthwise.weight") else (3, 2, 0, 1)
        array = array.transpose(axes)
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array)
