"""Export steps: each converts one artifact into the next, and the result is checked against its source."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from shrinkserve.artifact import Precision, sha256_file
from shrinkserve.errors import ConfigError
from shrinkserve.exporting import parity
from shrinkserve.exporting.records import ParityRecord, StepDetails, StepRecord
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor

Format = Literal["checkpoint", "onnx", "plan"]


@dataclass(frozen=True)
class StepState:
    """Format and precision of an artifact between two steps."""

    format: Format
    precision: Precision = "float32"

    def __str__(self) -> str:
        return f"{self.precision} {self.format}"


CHECKPOINT = StepState("checkpoint")
ONNX = StepState("onnx")


class Step(Protocol):
    """A conversion.

    Attributes:
        name: for cards and messages; also the name of the file.
        requires: state of the artifact that it converts.
        ensures: state of the result.
        tolerance: largest difference between the outputs of both.
    """

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> StepState: ...
    @property
    def ensures(self) -> StepState: ...
    @property
    def tolerance(self) -> parity.Tolerance: ...

    def parameters(self) -> dict[str, object]:
        """Return what decides the result, as JSON data."""
        ...

    def run(self, source: Path, target: Path, samples: Samples, /) -> StepDetails:
        """Write the file `target` from `source` (a run folder or a file); return details for the card."""
        ...


class SameState:
    """Base of the steps that keep the format and the precision of the artifact, which the field `state` names."""

    state: StepState

    @property
    def requires(self) -> StepState:
        return self.state

    @property
    def ensures(self) -> StepState:
        return self.state

    @property
    def tolerance(self) -> parity.Tolerance:
        return parity.TOLERANCES[self.state.precision]


Opener: TypeAlias = Callable[[Path, StepState], Predictor | None]
"""Function that loads an artifact for prediction; it returns None if this machine cannot run the artifact."""


def open_onnx(path: Path, _: StepState) -> OnnxModel:
    """Open a graph in ONNX Runtime, as an `Opener`."""
    return OnnxModel(path)


@dataclass(frozen=True)
class Product:
    """An artifact with its hash and the records of all steps that led to it."""

    path: Path
    state: StepState
    sha256: str
    records: tuple[StepRecord, ...] = ()


def run_steps(
    steps: Sequence[Step],
    source: Product,
    folder: Path,
    samples: Samples,
    *,
    opener: Opener = open_onnx,
    max_batch: int = 32,
) -> Product:
    """Run `steps` in order; write each result into `folder` and compare it with its source.

    Raises:
        ConfigError: a step cannot follow the one before it; found before any step runs.
        ParityError: the outputs of a result differ from those of its source.
    """
    _check_order(steps, source.state)
    before = opener(source.path, source.state)
    for step in steps:
        target = folder / f"{step.name}.{step.ensures.format}"
        started = time.monotonic()
        details = step.run(source.path, target, samples)
        seconds = round(time.monotonic() - started, 3)
        after, sha256 = opener(target, step.ensures), sha256_file(target)
        record: StepRecord = {
            "step": step.name,
            "from": str(source.state),
            "to": str(step.ensures),
            "input_sha256": source.sha256,
            "output_sha256": sha256,
            "parameters": step.parameters(),
            "seconds": seconds,
            **details,
            "parity": {**_compare(step, before, after, samples, max_batch), "step": step.name},
        }
        source = Product(target, step.ensures, sha256, (*source.records, record))
        before = after or before  # a result that cannot run here is skipped: the next is compared with the one before
    return source


def _compare(
    step: Step, before: Predictor | None, after: Predictor | None, samples: Samples, max_batch: int
) -> ParityRecord:
    if before is None or after is None:
        return {"check": "parity", "passed": None, "skipped": "this machine cannot run the artifact"}
    outcome = parity.compare_outputs(before, after, samples, step.tolerance, max_batch)
    parity.assert_parity(outcome, step.name, before, after, samples)
    # Record the states: the paths are those of a temporary folder.
    record: ParityRecord = {**outcome.to_dict(), "reference": str(step.requires), "candidate": str(step.ensures)}
    return record


def _check_order(steps: Sequence[Step], state: StepState) -> None:
    for step in steps:
        if step.requires != state:
            what = f"step {step.name} cannot follow"
            raise ConfigError(what, expected=f"a {step.requires}", found=f"a {state}", hint="change the order")
        state = step.ensures
