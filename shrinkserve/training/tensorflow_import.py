"""Import of a TensorFlow checkpoint of AutoShrink as a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from shrinkserve.arch.importer import NetworkFile, read_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.solver import import_recipe
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.checkpoint import load_weights, weights
from shrinkserve.training.run_folder import provenance
from shrinkserve.training.run_folder.folder import RunFolder
from shrinkserve.training.run_folder.result import ImportResult, write_result
from shrinkserve.training.tensorflow_checkpoint import Array, convert, read_checkpoint, variables_of

INPUT = {"crop_fraction": 0.875, "interpolation": "bicubic_tf1", "mean": [0.5] * 3, "std": [0.5] * 3}
"""Preprocessing of AutoShrink's ``imagenet-valid.py``: central crop, TensorFlow 1's bicubic, values from -1 to 1."""


def import_tensorflow(
    checkpoint: StrPath,
    proto: StrPath,
    out: StrPath,
    *,
    solver: StrPath | None = None,
    labels: Sequence[str] | None = None,
) -> ImportResult:
    """Import a checkpoint of AutoShrink's ``imagenet-eval.py`` as a run folder: ``shrinkserve import tensorflow``.

    `export`, `evaluate`, `bench` and fine-tuning then work as with a run of `train`.

    Args:
        checkpoint: prefix of the checkpoint's files, or their folder.
        proto: the .prototxt file of the network.
        out: the run's folder; must be new or empty.
        solver: the .solver file of the training, for the recipe.
        labels: class names in the order of the logits. Default: "background", "1", "2", ...

    Returns:
        The run folder, and what was read.

    Raises:
        ArtifactError: TensorFlow is missing, or the checkpoint is damaged or of another network.
        SpecError: the network file is invalid.
        ConfigError: `out` has files, or the number of labels is wrong.

    Example:
        >>> import shrinkserve as ss
        >>> ss.import_tensorflow("model.ckpt", "a.prototxt", "runs/a").averaged  # doctest: +SKIP
        True
    """
    proto, out = Path(proto), Path(out)
    network = read_network(proto)
    classes = list(labels) if labels is not None else ["background", *map(str, range(1, network.classes))]
    if len(classes) != network.classes:
        raise ConfigError("labels", expected=f"{network.classes} class names", found=len(classes))
    recipe = _recipe(network, proto, None if solver is None else Path(solver))
    folder = RunFolder(out)
    start = folder.check(recipe, resume=False, overwrite=False, allow_recipe_change=False)
    module = compile_spec(network.spec)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(module).items()}
    found = convert(read_checkpoint(Path(checkpoint)), variables_of(proto), shapes, str(checkpoint))
    networks = {"ema": _module(network, found.ema), "raw": _module(network, found.raw)}
    with folder:
        folder.begin(recipe, start)
        provenance.add_start(out, device="CPU", processes=1, threads=torch.get_num_threads(), loader="")
        write_result(out, None, network.spec, recipe, classes, networks, {})
        folder.commit()
    return ImportResult(out, len(found.ema), found.averaged, found.ignored)


def _recipe(network: NetworkFile, proto: Path, solver: Path | None) -> Recipe:
    if solver is not None:
        raw = import_recipe(proto, solver).to_dict()
    else:
        model = {"network": str(proto), "classes": network.classes, "input_size": network.input_size}
        raw = {"name": network.name, "model": {**model, "dropout": network.dropout}}
    return parse_recipe({**raw, "input": INPUT}, str(proto))


def _module(network: NetworkFile, tensors: dict[str, Array]) -> torch.nn.Module:
    module = compile_spec(network.spec)
    load_weights(module, {name: torch.from_numpy(value) for name, value in tensors.items()}, "the checkpoint")
    return module.eval()
