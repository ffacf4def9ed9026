"""A training run's network in torch: what every conversion is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from shrinkserve.arch.module import Network, compile_spec
from shrinkserve.arch.serialise import from_dict
from shrinkserve.artifact import read_card
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.preprocess import Preprocess

Weights = Literal["ema", "raw"]
Arrays = Mapping[str, npt.NDArray[Any]]

SMALL_BATCH = 64
"""Images that are run at once; a larger request is cut, so that memory does not grow with it."""


class Checkpoint:
    """The network of a run folder, in float32 on the CPU, in evaluation mode.

    Args:
        run: the folder that `shrinkserve train` wrote.
        weights: "ema", what is shipped, or "raw", what the optimiser ended with.

    Attributes:
        name: the model's name.
        size: height and width of an image, in pixels.
        classes: class names in the order of the logits.
        preprocess: what happens to an image before `answer`.
        card: the run's card.
        module: float images [N, 3, S, S], normalised, -> logits [N, classes].

    Raises:
        ArtifactError: no run there, or one that was changed or damaged.
    """

    def __init__(self, run: Path, weights: str = "ema") -> None:
        weights = chosen(weights)
        self.card = read_card(run, "checkpoint")
        self.name, self.classes = self.card.name, self.card.classes
        self.preprocess = Preprocess.from_dict(self.card.preprocess)
        self.size = self.preprocess.size
        path = run / f"{weights}.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as exc:
            raise ArtifactError(f"{path}: not readable weights ({exc})", hint="train again") from exc
        self.module = restore(self.card.spec, tensors, str(path))

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits.

        Args:
            images: uint8 [N, S, S, 3], RGB.

        Returns:
            float32 [N, classes].
        """
        logits = np.empty((len(images), len(self.classes)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), SMALL_BATCH):
                part = torch.from_numpy(images[start : start + SMALL_BATCH])
                logits[start : start + SMALL_BATCH] = self.module(normalise(part, self.preprocess)).numpy()
        return logits


def chosen(weights: str) -> Weights:
    """The name of weights, checked.

    Raises:
        ConfigError: there are none of this name.
    """
    if weights not in get_args(Weights):
        raise ConfigError("weights", expected=" or ".join(get_args(Weights)), found=repr(weights))
    return cast(Weights, weights)


def restore(spec: Mapping[str, Any], tensors: Arrays, where: str) -> Network:
    """The network of a spec with given weights, in evaluation mode.

    Args:
        spec: what `arch.spec.to_dict` wrote.
        tensors: the state dict; batch norms' ``num_batches_tracked`` may be missing.
        where: what to call the source in a message.

    Raises:
        SpecError: not a network.
        ArtifactError: the weights are those of another network.
    """
    network = compile_spec(from_dict(dict(spec)))
    load_weights(network, {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, where)
    return network.eval()


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network.

    Raises:
        ArtifactError: a missing or additional tensor, or one of another shape.
    """
    try:
        # A state dict without version metadata may leave num_batches_tracked out, also where all else is strict.
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as exc:
        reason = str(exc).splitlines()[-1].strip()
        raise ArtifactError(f"{where}: weights of another network ({reason})", hint="train again") from exc


def weights(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that are stored and hashed: parameters and running statistics, contiguous on the CPU."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Pixels as the network wants them, on the device that they are on.

    Args:
        images: uint8 [N, S, S, 3].
        preprocess: mean and standard deviation on the scale [0, 1].

    Returns:
        float32 [N, 3, S, S]: a view, so in the channels-last memory format.
    """
    scale, shift = _constants(preprocess, images.device)
    return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _constants(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift on a device. Copying them for each batch would wait for the GPU."""
    scale = torch.tensor([1 / (255 * s) for s in preprocess.std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)], device=device)
    return scale, shift
