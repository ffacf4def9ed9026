"""Distillation: soft targets from a teacher, computed while the loader works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, kl_div, log_softmax

from shrinkserve.concurrency import ordered_map
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.checkpoint import Checkpoint, normalise
from shrinkserve.runtimes.opening import open_artifact
from shrinkserve.runtimes.predictor import Images, Predictor
from shrinkserve.training.update.prefetch import DeviceBatch


class Teacher:
    """A predictor whose logits a network learns to reproduce.

    Args:
        source: what `open_artifact` takes, or a predictor such as a served model.
        classes: class names of the student; the teacher must have the same.
        device: where a teacher from a run computes. Others compute where their runtime does.

    Attributes:
        name: for messages and the card.
        parents: path and sha256 of the weights, if the teacher is a run.

    Raises:
        ArtifactError: no such artifact.
        ConfigError: the teacher has other classes.
    """

    def __init__(self, source: StrPath | Predictor, classes: list[str], device: torch.device) -> None:
        predictor = open_artifact(source) if isinstance(source, str | os.PathLike) else source
        self.name, self._predictor, self._device = predictor.name, predictor, device
        if list(predictor.classes) != classes:
            found = list(predictor.classes)
            raise ConfigError(
                f"teacher {predictor.name}: has other classes than the data",
                expected=f"{len(classes)} ({', '.join(classes[:3])}, ...)",
                found=f"{len(found)} ({', '.join(found[:3])}, ...)",
            )
        self.parents: dict[str, str] = {}
        self._module = None
        if isinstance(predictor, Checkpoint):
            self.parents = {f"teacher {predictor.name}": predictor.card.weights_sha256}
            self._module = predictor.module.to(device).eval()

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Return the teacher's logits.

        Args:
            images: augmented pixels uint8 [N, S, S, 3]; resized if the teacher's size differs.

        Returns:
            float32 [N, classes] on the device of `images`.
        """
        size = self._predictor.size
        if images.shape[1] != size:
            pixels = images.permute(0, 3, 1, 2).float()
            pixels = interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False)
            images = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        if self._module is not None and isinstance(self._predictor, Checkpoint):
            logits: Tensor = self._module(normalise(images.to(self._device), self._predictor.preprocess))
            return logits.float()
        array: Images = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(self._predictor.predict(array)).to(self._device)

    def taught(self, batches: Iterator[DeviceBatch]) -> Iterator[DeviceBatch]:
        """Add the teacher's logits to each batch; a thread computes them one batch ahead of the updates."""
        return ordered_map(lambda batch: replace(batch, teacher=self.logits(batch.images).clone()), batches, 1)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the divergence of the student from the teacher at a temperature (Hinton et al. 2015).

    Args:
        student: logits float [N, C].
        teacher: logits float [N, C].
        temperature: divisor of both; the factor ``temperature**2`` keeps the size of the gradient.
    """
    ours, theirs = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    return kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
