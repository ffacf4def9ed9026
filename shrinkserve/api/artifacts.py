"""Load, compare and inspect artifacts as functions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from shrinkserve.errors import GateError, check_range
from shrinkserve.paths import StrPath, optional_path

if TYPE_CHECKING:
    from shrinkserve.exporting.inspection import Summary
    from shrinkserve.exporting.parity import Parity
    from shrinkserve.runtimes import Predictor


def compare(
    reference: StrPath,
    candidate: StrPath,
    *,
    data: StrPath | None = None,
    model: str | None = None,
    tolerance: float = 1e-4,
    limit: int = 256,
    max_batch: int = 32,
) -> Parity:
    """Compare the outputs of two artifacts on the same images.

    Args:
        reference: the right one: a run, run@raw, version, version@engine, .onnx file, .plan file or server URL.
        candidate: the one under test, of the same kinds.
        data: dataset with the validation images; synthetic images by default.
        model: name of the model on a server; its only one by default.
        tolerance: of a logit, in units of the largest reference logit or of 1.
        limit: largest number of images, spread evenly over the dataset.
        max_batch: largest batch.

    Returns:
        The differences. `violations` is empty if they are within the tolerance; see `check_parity`.

    Raises:
        ArtifactError: an artifact is missing, damaged or does not run on this machine.
        ParityError: the two have different image sizes or numbers of classes.
        ConfigError: an option is out of range.
        DataError: `data` has no validation images.
        RequestError: a server is not reachable.

    Example::

        outcome = shrinkserve.compare("runs/digits", "models/digits_classifier/1")
        print(outcome.worst, outcome.flips)
    """
    from shrinkserve.exporting.parity import Tolerance, compare_outputs
    from shrinkserve.exporting.samples import load_samples
    from shrinkserve.preprocess import Preprocess

    check_range(0, tolerance=tolerance)
    check_range(1, limit=limit, max_batch=max_batch)
    right, judged = (load(source, model=model) for source in (reference, candidate))
    preprocess = getattr(right, "preprocess", None) or getattr(judged, "preprocess", None)
    samples = load_samples(optional_path(data), preprocess or Preprocess(size=right.size), limit=limit)
    outcome = compare_outputs(right, judged, samples, Tolerance(tolerance), max_batch)
    return replace(outcome, reference=os.fspath(reference), candidate=os.fspath(candidate), classes=list(right.classes))


def check_parity(outcome: Parity) -> None:
    """Check that a comparison is within its tolerance.

    Args:
        outcome: result of `compare`.

    Raises:
        GateError: names the differences.

    Example::

        shrinkserve.check_parity(shrinkserve.compare("runs/digits", "models/digits_classifier/1"))
    """
    if outcome.violations:
        found = "; ".join(outcome.violations)
        raise GateError("the outputs differ", expected=f"within {outcome.limit:.3g}", found=found)


def load(source: StrPath, *, model: str | None = None) -> Predictor:
    """Load any artifact for prediction.

    Args:
        source: run folder, run@raw, version folder, version@engine, .onnx file, .plan file or server URL.
        model: name of the model on a server; its only one by default.

    Returns:
        A model with `size`, `classes` and `predict`, from uint8 images [N, S, S, 3] to logits [N, classes].

    Raises:
        ArtifactError: missing, damaged, or this machine cannot run it.
        RequestError: the server is not reachable, or it has no such model.

    Example::

        logits = shrinkserve.load("runs/digits").predict(images)
    """
    if "://" in (address := os.fspath(source)):
        from shrinkserve.serving.client.served_model import ServedModel

        return ServedModel(address, model)
    from shrinkserve.runtimes import open_artifact

    return open_artifact(Path(source))


@overload
def inspect(artifact: StrPath, other: None = None) -> Summary: ...
@overload
def inspect(artifact: StrPath, other: StrPath) -> dict[str, tuple[object, object]]: ...
def inspect(artifact: StrPath, other: StrPath | None = None) -> Summary | dict[str, tuple[object, object]]:
    """Return the contents of an artifact, or how two differ.

    Args:
        artifact: run folder, version folder, .onnx file or .plan file.
        other: return only what differs from this one, with both values.

    Returns:
        The values by name; with `other`, pairs of values by name.

    Raises:
        ArtifactError: not an artifact, or damaged.

    Example::

        shrinkserve.inspect("runs/digits")["multiply-accumulates"]
    """
    from shrinkserve.exporting.inspection import describe_artifact, differences

    found = describe_artifact(Path(artifact))
    return found if other is None else differences(found, describe_artifact(Path(other)))
