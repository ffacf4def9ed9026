"""The foreign file itself, run without changes: the reference for its adapted graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import parity
from shrinkserve.exporting.foreign.signature import Signature
from shrinkserve.exporting.samples import Samples
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import open_session, run_session
from shrinkserve.runtimes.predictor import Images, Logits, Predictor

Meaning = Literal["logits", "probabilities"]
Rows = npt.NDArray[np.float32]

SUM_TOLERANCE = 0.01
"""Probabilities of float16 graphs sum to 1 within this."""
LOWEST = 1e-30
"""Smaller probabilities are compared as this one: their logarithm depends on how a runtime rounds."""
FEW = 16
"""Images for the checks of the file against itself."""


class ForeignModel:
    """A `Predictor` that runs a foreign file as it is.

    ONNX Runtime runs it without graph optimisations. Normalisation is in numpy. If the file returns probabilities,
    the logits are their logarithms.

    Args:
        path: the .onnx file.
        signature: its input and outputs.
        preprocess: gives the normalisation.
        classes: class names in the order of the outputs.
        samples: images that show what the outputs mean.

    Attributes:
        output: name of the output with the classes.
        meaning: of that output: logits or probabilities, from its values on the samples.

    Raises:
        ArtifactError: no output or several outputs could be the classes, or the outputs are sigmoids or not finite.
    """

    def __init__(
        self, path: Path, signature: Signature, preprocess: Preprocess, classes: Sequence[str], samples: Samples
    ) -> None:
        self.path, self.signature, self.preprocess = path, signature, preprocess
        self.classes, self.size = classes, preprocess.size
        self.session = open_session(path, optimise=False)
        found = self._outputs(samples.images[:FEW])
        self.output, self.meaning = self._choose(found)
        self._check_rows(found[self.output])

    @property
    def name(self) -> str:
        return f"{self.path} (unchanged)"

    def predict(self, images: Images) -> Logits:
        rows = self.rows(images)
        if self.meaning == "logits":
            return rows
        logits: Logits = np.log(np.maximum(rows, np.float32(LOWEST)))
        return logits

    def rows(self, images: Images) -> Rows:
        """Return the output with the classes, float32 [N, classes]."""
        return self._outputs(images)[self.output]

    def _outputs(self, images: Images) -> dict[str, Rows]:
        """Return the outputs that have one number for each class and image, float32 [N, classes]."""
        pixels: npt.NDArray[np.generic] = images
        if self.signature.normalised:
            mean, std = (np.array(values, np.float64) for values in (self.preprocess.mean, self.preprocess.std))
            pixels = (images * self.preprocess.scale - mean) / std
        feed = {self.signature.input: self.signature.feed(pixels)}
        found = run_session(self.session, feed, self.path, self.signature.outputs)
        shape = (len(images), len(self.classes))
        fitting = {n: a for n, a in found.items() if len(a) == len(images) and a.size == shape[0] * shape[1]}
        if not fitting:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
            raise ArtifactError(f"{self.path}: no output for the classes", expected=f"{list(shape)}", found=shapes)
        return {name: array.reshape(shape).astype(np.float32) for name, array in fitting.items()}

    def _choose(self, found: dict[str, Rows]) -> tuple[str, Meaning]:
        """Return the output with the logits, or else the one with the probabilities."""
        linear = self.signature.linear
        meanings = {name: "logits" if name in linear else meaning_of(rows) for name, rows in found.items()}
        logits = [name for name, meaning in meanings.items() if meaning == "logits"]
        probabilities = [name for name, meaning in meanings.items() if meaning == "probabilities"]
        if not logits and not probabilities:
            what = f"{self.path}: output {next(iter(found))!r} has sigmoids (values in [0, 1] that do not sum to 1)"
            hint = "export a classifier with one class for each image: logits, or a softmax at the end"
            raise ArtifactError(what, expected="logits or probabilities", hint=hint)
        if len(logits) > 1 or (not logits and len(probabilities) > 1):
            names = ", ".join(logits or probabilities)
            what = f"{self.path}: several outputs may hold the classes"
            raise ArtifactError(what, expected="one", found=names, hint="export the network with one output")
        return (logits[0], "logits") if logits else (probabilities[0], "probabilities")

    def _check_rows(self, rows: Rows) -> None:
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows)).any(axis=1).sum())
            what = f"{self.path}: outputs are NaN or infinite for {bad} of {len(rows)} images"
            raise ArtifactError(what, hint="check mean and std of --preprocess")


def meaning_of(rows: Rows) -> Meaning | None:
    """Return what the outputs of a classifier mean; None for sigmoids.

    Probabilities lie in [0, 1] and sum to 1 for every image. Values in [0, 1] with other sums are sigmoids.
    """
    if not ((rows >= 0) & (rows <= 1 + SUM_TOLERANCE)).all():
        return "logits"
    sums = rows.astype(np.float64).sum(axis=1)
    return "probabilities" if np.abs(sums - 1).max() <= SUM_TOLERANCE else None


class LogProbabilities:
    """A `Predictor` whose logits are shifted so that their exponentials sum to 1, for comparison with probabilities."""

    def __init__(self, model: Predictor) -> None:
        self.model, self.name, self.size, self.classes = model, model.name, model.size, model.classes

    def predict(self, images: Images) -> Logits:
        given = self.model.predict(images).astype(np.float64)
        shifted = given - given.max(axis=1, keepdims=True)
        found = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        logits: Logits = np.maximum(found, np.log(LOWEST)).astype(np.float32)
        return logits


def check_consistent(model: ForeignModel, samples: Samples, tolerance: parity.Tolerance, max_batch: int) -> None:
    """Check that a file's outputs depend on the image only, neither on the rest of the batch nor on chance.

    Raises:
        ArtifactError: names what they depend on, and how far they differ.
    """
    images = samples.images[:FEW]
    together = parity.predict_all(model, images, max_batch)
    limit = tolerance.absolute * max(1.0, float(np.abs(together).max()))
    again = parity.difference(parity.predict_all(model, images, max_batch), together)
    alone = parity.difference(parity.predict_all(model, images, 1), together)
    if not again <= limit:
        what, cause = "two runs on the same images", "it has random nodes or dropout: export it after model.eval()"
    elif not alone <= limit:
        what = f"batches of 1 and {min(max_batch, len(images))}"
        cause = "export it after model.eval(), with a dynamic batch and without dynamic quantisation"
    else:
        return
    found = f"a difference of {max(again, alone):.3g} between {what}"
    raise ArtifactError(f"{model.path}: the file contradicts itself", expected="one result", found=found, hint=cause)
