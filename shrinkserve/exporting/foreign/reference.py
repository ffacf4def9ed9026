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
SCALE_TOLERANCE = 1e-4
"""Rows whose sums differ by at most this fraction of the sum are probabilities in another unit, e.g. per cent."""
LOWEST, ROUGH_LOWEST = 1e-30, 1e-3
"""Floor of the probabilities in a comparison, as a fraction of the image's largest one: the logarithm of smaller ones
depends on how a runtime rounds. The second is for probabilities in float16 and for those without a softmax, e.g. 1 - p,
which is zero where p rounds to 1."""
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
        lowest: see `LOWEST`; set by the step that adapts the file.

    Raises:
        ArtifactError: no output or several outputs could be the classes, or the outputs are sigmoids or not finite.
    """

    def __init__(
        self, path: Path, signature: Signature, preprocess: Preprocess, classes: Sequence[str], samples: Samples
    ) -> None:
        self.path, self.signature, self.preprocess = path, signature, preprocess
        self.classes, self.size = classes, preprocess.size
        self.session, self.lowest = open_session(path, optimise=False), LOWEST
        found = self._first_outputs(samples.images[:FEW])
        self.output, self.meaning = self._choose(found)
        self._check_rows(found[self.output])
        if len(classes) == 1:
            hint = "export a classifier with one logit or probability for each class"
            what = f"{path}: one class, whose probability is always 1"
            raise ArtifactError(what, expected="two or more", hint=hint)

    @property
    def name(self) -> str:
        return f"{self.path} (unchanged)"

    def predict(self, images: Images) -> Logits:
        rows = self.rows(images)
        if self.meaning == "logits":
            return rows
        return _logarithms(rows.astype(np.float64), self.lowest)

    def rows(self, images: Images) -> Rows:
        """Return the output with the classes, float32 [N, classes]."""
        return self._outputs(images)[self.output]

    def _first_outputs(self, images: Images) -> dict[str, Rows]:
        try:
            return self._outputs(images)
        except ArtifactError:
            self._outputs(images[:1])  # if it fails too, the batch is not the reason
            raise

    def _outputs(self, images: Images) -> dict[str, Rows]:
        """Return the outputs that have one number for each class and image, float32 [N, classes]."""
        pixels: npt.NDArray[np.generic] = images
        if self.signature.normalised:
            mean, std = (np.array(values, np.float64) for values in (self.preprocess.mean, self.preprocess.std))
            pixels = (images * self.preprocess.scale - mean) / std
        feed = {self.signature.input: self.signature.feed(pixels)}
        found = run_session(self.session, feed, self.path, self.signature.outputs)
        shape = (len(images), len(self.classes))
        fitting = {n: a for n, a in found.items() if a.shape[:1] == shape[:1] and a.size == shape[0] * shape[1]}
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
            name, rows = next(iter(found.items()))
            raise self._neither(name, rows)
        if len(logits) > 1 or (not logits and len(probabilities) > 1):
            names = ", ".join(logits or probabilities)
            what = f"{self.path}: several outputs may hold the classes"
            raise ArtifactError(what, expected="one", found=names, hint="export the network with one output")
        return (logits[0], "logits") if logits else (probabilities[0], "probabilities")

    def _neither(self, name: str, rows: Rows) -> ArtifactError:
        """Return the error for an output without logits and probabilities."""
        sums = rows.sum(axis=1)
        if _is_constant(sums):
            what = f"rows that sum to {sums[0]:.4g}, not to 1"
            hint = "export the network with logits or with a softmax at the end"
        else:
            what = "sigmoids (values in [0, 1] that do not sum to 1)"
            hint = "export a classifier with one class for each image: logits, or a softmax at the end"
        return ArtifactError(f"{self.path}: output {name!r} has {what}", expected="logits or probabilities", hint=hint)

    def _check_rows(self, rows: Rows) -> None:
        bad = ~np.isfinite(rows)
        if bad.any():
            what = f"{self.path}: outputs are NaN or infinite for {int(bad.any(axis=1).sum())} of {len(rows)} images"
            number = int(bad.any(axis=0).argmax())
            found = f"{rows[bad][0]:g} for class {self.classes[number]!r}"
            hint = "check the weights of the network, and mean and std of --preprocess"
            raise ArtifactError(what, expected="finite numbers", found=found, hint=hint)


def meaning_of(rows: Rows) -> Meaning | None:
    """Return what the outputs of a classifier mean; None for sigmoids and for probabilities in another unit.

    Probabilities lie in [0, 1] and sum to 1 for every image. Values in [0, 1] with other sums are sigmoids. Values
    with another sum that is the same for every image are, for example, per cent.
    """
    sums = rows.astype(np.float64).sum(axis=1)
    if (rows >= 0).all() and np.abs(sums - 1).max() <= SUM_TOLERANCE:
        return "probabilities"
    if (rows >= 0).all() and ((rows <= 1 + SUM_TOLERANCE).all() or _is_constant(sums)):
        return None
    return "logits"


def _is_constant(sums: npt.NDArray[np.floating]) -> bool:
    return bool(np.ptp(sums) <= SCALE_TOLERANCE * np.abs(sums).max() and sums[0] > 0)


class LogProbabilities:
    """A `Predictor` whose logits are the logarithms of its probabilities, for comparison with probabilities.

    Args:
        model: the predictor.
        lowest: see `LOWEST`.
    """

    def __init__(self, model: Predictor, lowest: float = LOWEST) -> None:
        self.model, self.name, self.size, self.classes = model, model.name, model.size, model.classes
        self.lowest = lowest

    def predict(self, images: Images) -> Logits:
        given = self.model.predict(images).astype(np.float64)
        return _logarithms(np.exp(given - given.max(axis=1, keepdims=True)), self.lowest)


def _logarithms(rows: npt.NDArray[np.float64], lowest: float) -> Logits:
    """Return the logarithms of rows that are proportional to probabilities."""
    known = np.maximum(rows, lowest * rows.max(axis=1, keepdims=True))
    logits: Logits = np.log(known / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    return logits


def check_consistent(model: ForeignModel, samples: Samples, tolerance: parity.Tolerance, max_batch: int) -> None:
    """Check that a file's outputs depend on the image only, neither on the rest of the batch nor on chance.

    Raises:
        ArtifactError: names what they depend on, and how far they differ.
    """
    images, max_batch = samples.images[:FEW], max(max_batch, parity.SMALL_BATCHES[-1])
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
