"""The network of a training run in torch: the reference for every conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from shrinkserve.arch.code import build, read_network_data
from shrinkserve.artifact import Card, Json, read_card, verify_file
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.predictor import check_images

Weights = Literal["ema", "raw"]
Arrays = Mapping[str, npt.NDArray[np.generic]]

SMALL_BATCH = 64
"""Images in one forward pass; larger requests are split, so that memory does not grow with them."""


@dataclass
class TorchClassifier:
    """A network in torch with its weights, in float32 on the CPU, in evaluation mode.

    Attributes:
        name: the model's name.
        classes: class names in the order of the logits.
        preprocess: the preprocessing of an image before `predict`.
        weights: the name of the weights.
        module: float images [N, 3, S, S], normalised, -> logits [N, classes].
    """

    name: str
    classes: list[str] = field(repr=False)
    preprocess: Preprocess
    weights: str
    module: nn.Module = field(repr=False)

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.preprocess.size

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the logits.

        Args:
            images: uint8 [N, S, S, 3], RGB.

        Returns:
            float32 [N, classes].

        Raises:
            DataError: the images have another type or shape.
        """
        check_images(images, self.size)
        logits = np.empty((len(images), len(self.classes)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), SMALL_BATCH):
                part = torch.from_numpy(images[start : start + SMALL_BATCH])
                logits[start : start + SMALL_BATCH] = self.module(normalise(part, self.preprocess)).numpy()
        return logits


class Checkpoint(TorchClassifier):
    """The network of a run folder, in float32 on the CPU, in evaluation mode.

    Reads and hashes each file once: the card, and the one file of weights.

    Args:
        run: the folder that `shrinkserve train` wrote.
        weights: "ema", the weights that were evaluated, or "raw", the optimiser's last ones.
        run_code: accept a network that is Python code, for one's own run only.

    Attributes:
        card: the run's card.
        path: the file of the weights.
        file_sha256: its hash.

    Raises:
        ArtifactError: no run there, or a damaged one.
        ConfigError: unknown `weights`.
        SpecError: not a network, or code without `run_code`.
    """

    def __init__(self, run: Path, weights: str = "ema", *, run_code: bool = False) -> None:
        which = chosen(weights)
        self.card = card = read_card(run, "checkpoint", verify=False)
        self.path = run / f"{which}.safetensors"
        tensors = read_weights(run, card, which)
        self.file_sha256 = card.files[self.path.name]
        module = restore_module(card.spec, tensors, str(self.path), run_code=run_code)
        super().__init__(card.name, card.classes, Preprocess.from_dict(card.preprocess), which, module)


def read_weights(run: Path, card: Card, which: Weights) -> Arrays:
    """Return the tensors of a run.

    Args:
        run: the run's folder.
        card: its card.
        which: "ema" or "raw".

    Raises:
        ArtifactError: the run does not have them, or the file is damaged.
    """
    path = run / f"{which}.safetensors"
    if path.name not in card.files:
        raise ArtifactError(f"{run}: its card has no {path.name}", hint="train again")
    verify_file(path, card.files[path.name])
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(f"{path}: cannot read the weights ({exc})", hint="train again") from exc


def chosen(weights: str) -> Weights:
    """Return the name of weights after checking it.

    Raises:
        ConfigError: an unknown name.
    """
    if weights not in get_args(Weights):
        raise ConfigError("weights", expected=" or ".join(get_args(Weights)), found=repr(weights))
    return cast(Weights, weights)


def restore_module(spec: Json, tensors: Arrays, where: str, *, run_code: bool = False) -> nn.Module:
    """Return the network of a spec with the given weights, in evaluation mode.

    Args:
        spec: the network, see `arch.serialise.to_dict`.
        tensors: the state dict; ``num_batches_tracked`` of batch norms may be missing.
        where: name of the source, for messages.
        run_code: accept a network that is Python code, for one's own run only.

    Raises:
        SpecError: not a network, or code without `run_code`.
        ArtifactError: the weights belong to another network.
    """
    network = build(read_network_data(spec, run_code=run_code))
    load_weights(network, {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, where)
    return network.eval()


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network.

    Raises:
        ArtifactError: a tensor is missing, unexpected or of another shape.
    """
    try:
        # strict=True still accepts a missing num_batches_tracked if the state dict has no version metadata.
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as exc:
        reason = str(exc).splitlines()[-1].strip()
        raise ArtifactError(f"{where}: weights of another network ({reason})", hint="train again") from exc


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are stored and hashed: parameters and running statistics, contiguous on the CPU."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Return normalised images, on the device of `images`.

    Args:
        images: uint8 [N, S, S, C].
        preprocess: gives the normalisation.

    Returns:
        float32 [N, C, S, S], a view in the channels-last memory format.
    """
    scale, shift = _constants(preprocess, images.device)
    return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _constants(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift on a device. Copying them for each batch would wait for the GPU."""
    scale, shift = (torch.from_numpy(vector).to(device) for vector in preprocess.scale_and_shift())
    return scale, shift
