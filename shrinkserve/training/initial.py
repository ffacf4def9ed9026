"""Initial weights of a run from another run, a checkpoint or a safetensors file: ``train --init``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinkserve.arch.code import Description, head_prefixes
from shrinkserve.arch.timm_networks import pretrained_weights
from shrinkserve.artifact import read_card, recorded_path, sha256_file, tensors_sha256
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.text import printable
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.run_state import RunState
from shrinkserve.training.run_folder.snapshot import by_owner

FITTING = 0.5
"""Part of the network's values, without the classifier, that a source must have; else it is another network."""
DENSE_DEVIATION = 0.01
"""Standard deviation of the weights of a new classifier."""
SHOWN = 5
"""Tensors that a report names."""
HINT = "name a run's folder, a step-*.safetensors of a run, or an ema.safetensors"


@dataclass(frozen=True)
class InitialWeights:
    """Weights to begin with.

    Attributes:
        tensors: by the names of a network.
        classes: class names of the source; None if it does not have them.
        parents: path and sha256 of the source, for the card.
    """

    tensors: Mapping[str, Tensor]
    classes: list[str] | None
    parents: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class InitialReport:
    """Tensors that were taken from a source, and the others.

    Attributes:
        loaded: tensors with the source's values.
        new: tensors that keep their random values.
        left_out: tensors of the source that the network does not take.
    """

    loaded: list[str]
    new: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        text = f"loaded {len(self.loaded)} tensors, {len(self.new)} are new, {len(self.left_out)} left out"
        for title, names in (("new", self.new), ("left out", self.left_out)):
            if names:
                text += f"; {title}: {printable(', '.join(names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}"
        return text


def read_initial(source: Path) -> InitialWeights:
    """Read the averaged weights of a run or checkpoint, or all tensors of a safetensors file.

    Raises:
        ArtifactError: no such source, or a damaged one.
    """
    if source.is_dir():
        card = read_card(source, "checkpoint")
        return InitialWeights(
            _load(source / "ema.safetensors"), card.classes, {recorded_path(source.resolve()): card.weights_sha256}
        )
    if not source.is_file():
        raise ArtifactError(f"{source}: no such weights", hint=HINT)
    parents = {recorded_path(source.resolve()): sha256_file(source)}
    tensors = _load(source)
    averaged = by_owner(tensors)["ema"]
    if not averaged or not source.name.startswith("step-"):
        return InitialWeights(tensors, None, parents)
    state = RunState.from_dict(checkpoints.read(source).state, str(source))
    return InitialWeights(averaged, state.classes, parents)


def read_pretrained(source: str, input_size: int) -> InitialWeights:
    """Read timm's pretrained weights of ``timm:NAME``.

    Raises:
        SpecError: no timm, no such network, or no weights for it.
    """
    tensors = pretrained_weights(source, input_size)
    digest = tensors_sha256({name: tensor.numpy() for name, tensor in tensors.items()})
    return InitialWeights(tensors, None, {source: digest})


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(f"{path}: not readable weights ({exc})", hint=HINT) from exc


@torch.no_grad()
def apply_initial(
    networks: Sequence[nn.Module],
    spec: Description,
    initial: InitialWeights,
    classes: list[str],
    where: str,
    seed: int = 0,
) -> InitialReport:
    """Copy every tensor that fits into each of the networks.

    The classifier is taken only if source and network have the same classes; without known classes, if the shapes fit.
    A new classifier begins with small weights, as in the networks of the zoo: the large ones that some networks of
    timm have for few classes spoil the first updates of the other layers.

    Args:
        networks: modules of `spec`: the trained and the averaged one.
        spec: the network.
        initial: the source.
        classes: class names of the network.
        where: the source, for the message.
        seed: of a new classifier, the same on every rank.

    Raises:
        ConfigError: the source is of another network.
        ArtifactError: it has a value that is not finite.
    """
    head, own = head_prefixes(spec, networks[0]), networks[0].state_dict()
    shapes = {name: value.shape for name, value in own.items()}
    loaded = {name: value for name, value in initial.tensors.items() if shapes.get(name) == value.shape}
    if initial.classes not in (None, classes):
        loaded = {name: value for name, value in loaded.items() if not name.startswith(head)}
    _check_source(loaded, {name: value.numel() for name, value in own.items() if not name.startswith(head)}, where)
    new_head = {name: value for name, value in own.items() if name.startswith(head) and name not in loaded}
    values = loaded | _small_weights(new_head, seed)
    for network in networks:
        state = network.state_dict()
        for name, value in values.items():
            state[name].copy_(value)
    left_out = [name for name in initial.tensors if name not in loaded and not name.endswith("num_batches_tracked")]
    return InitialReport(list(loaded), [name for name in own if name not in loaded], left_out)


def _check_source(loaded: Mapping[str, Tensor], body: Mapping[str, int], where: str) -> None:
    """Check that `loaded` has enough of the values in `body` for the same network, and that they are finite."""
    part = sum(count for name, count in body.items() if name in loaded) / max(1, sum(body.values()))
    if part < FITTING:
        raise ConfigError(
            f"{where}: the weights are of another network",
            expected=f"at least {FITTING:.0%} of the values besides the classifier",
            found=f"{part:.0%}",
            hint="set model.network and model.width as in the run that the weights are from",
        )
    for name, value in loaded.items():
        if not value.isfinite().all():
            raise ArtifactError(f"{where}: {name} is not finite", hint="name other weights")


def _small_weights(head: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the tensors of a new classifier, which have the shapes of `head`."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (0.0 if name.endswith("bias") else DENSE_DEVIATION) * torch.randn(value.shape, generator=random)
        for name, value in head.items()
    }
