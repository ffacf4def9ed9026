"""Temperature scaling: probabilities that equal the accuracy (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from shrinkserve.artifact import PROBABILITIES
from shrinkserve.calibration import Calibration
from shrinkserve.data import Dataset, evaluation_batches, open_dataset
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.passes.editing import add_constant, insert
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, SameState, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.predictor import Predictor

BATCH = 32
LEAST = 50
"""Fewest images to fit a temperature to."""


def fit_temperature(model: Predictor, data_root: Path | None, preprocess: Preprocess, classes: list[str]) -> float:
    """Return the temperature with the highest likelihood of the labels of all validation images.

    Args:
        model: the network.
        data_root: dataset with the classes of the network.
        preprocess: preprocessing of the network.
        classes: class names in the order of the logits.

    Raises:
        ConfigError: there is no dataset with these classes, or it has too few images.
        DataError: an image cannot be read.
    """
    dataset = None if data_root is None else open_dataset(data_root, "validation")
    if dataset is None or list(dataset.classes) != classes or len(dataset) < LEAST:
        raise ConfigError(
            "--calibrate",
            expected=f"--data with at least {LEAST} validation images of the network's classes",
            found=_found(dataset, classes),
        )
    calibration = Calibration()
    for batch in evaluation_batches(dataset, preprocess, BATCH):
        calibration.add(model.predict(batch.images), batch.labels)
    record = calibration.to_record()
    assert record is not None
    return round(record.temperature, 4)


def _found(dataset: Dataset | None, classes: list[str]) -> str:
    if dataset is None:
        return "none"
    return "other classes" if list(dataset.classes) != classes else f"{len(dataset)} images"


@dataclass(frozen=True)
class ScaledProbabilities(SameState):
    """Divide the logits by a temperature before the softmax. The output `logits` does not change."""

    temperature: float
    state: StepState = ONNX
    name: str = "calibrate"

    def parameters(self) -> dict[str, object]:
        return {"temperature": self.temperature}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> StepDetails:
        model = graph.load(source)
        scale_probabilities(model, self.temperature)
        graph.save(model, target)
        return {"operators": graph.operators(model)}


def scale_probabilities(model: ir.Model, temperature: float) -> None:
    """Multiply the input of the softmax of `probabilities` by the reciprocal of a temperature.

    Raises:
        ArtifactError: `probabilities` is not the output of a softmax.
    """
    outputs = {value.name: value for value in model.graph.outputs}
    softmax = outputs[PROBABILITIES].producer()
    while softmax is not None and softmax.op_type in {"Identity", "Cast", "Reshape"} and softmax.inputs[0] is not None:
        softmax = softmax.inputs[0].producer()
    if softmax is None or softmax.op_type != "Softmax":
        raise ArtifactError("--calibrate", expected="probabilities from a Softmax", found="another operator")
    logits = softmax.inputs[0]
    assert logits is not None
    reciprocal = np.array(1 / temperature, (logits.dtype or ir.DataType.FLOAT).numpy())
    factor = add_constant(model.graph, "calibration.factor", reciprocal)
    scaled = insert(softmax, "Mul", [logits, factor], "calibration.scale")
    scaled.shape = logits.shape
    softmax.replace_input_with(0, scaled)
