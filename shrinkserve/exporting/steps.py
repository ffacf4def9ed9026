"""An export is an ordered list of steps: each turns one artifact into the next and is checked against it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from shrinkserve.artifact import CARD, sha256_file
from shrinkserve.errors import ConfigError
from shrinkserve.exporting import parity
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.predictor import Predictor

Format = Literal["checkpoint", "onnx", "plan"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True)
class StepState:
    """What is known of an artifact between two steps."""

    format: Format
    precision: Precision = "float32"

    def __str__(self) -> str:
        return f"{self.precision} {self.format}"


CHECKPOINT = StepState("checkpoint")
ONNX = StepState("onnx")


class Step(Protocol):
    """One conversion.

    Attributes:
        name: the step's name in cards and messages; also names its file.
        requires: the state of the artifact it takes.
        ensures: the state of the artifact it makes.
        tolerance: how far the answers of the two may be apart.
    """

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> StepState: ...
    @property
    def ensures(self) -> StepState: ...
    @property
    def tolerance(self) -> parity.Tolerance: ...

    def parameters(self) -> dict[str, Any]:
        """What decides the outcome, as JSON data."""
        ...

    def run(self, source: Path, target: Path, samples: Samples, /) -> dict[str, Any]:
        """Make the file `target` from `source` (a run folder or a file); returns what else the card should say."""
        ...


class Opener(Protocol):
    """Loads an artifact so that it can be asked; None where this machine cannot run it."""

    def __call__(self, path: Path, state: StepState) -> Predictor | None: ...


@dataclass(frozen=True)
class Product:
    """An artifact with the records of all steps that led to it."""

    path: Path
    state: StepState
    records: tuple[dict[str, Any], ...] = ()


def run_steps(
    steps: Sequence[Step], source: Product, folder: Path, samples: Samples, *, opener: Opener, max_batch: int = 32
) -> Product:
    """Take `source` through `steps`; every file lands in `folder`, checked against the one it was made from.

    Raises:
        ConfigError: a step does not take what the one before it makes; found before any step runs.
        ParityError: a step's artifact answers differently.
    """
    _check_order(steps, source.state)
    before = opener(source.path, source.state)
    for step in steps:
        target = folder / f"{step.name}.{step.ensures.format}"
        started = time.monotonic()
        details = step.run(source.path, target, samples)
        seconds = round(time.monotonic() - started, 3)
        after = opener(target, step.ensures)
        record = {
            "step": step.name,
            "from": str(source.state),
            "to": str(step.ensures),
            "input_sha256": _sha256(source.path),
            "output_sha256": sha256_file(target),
            "parameters": step.parameters(),
            "seconds": seconds,
            **details,
            "parity": {"step": step.name, **_judge(step, before, after, samples, max_batch)},
        }
        source = Product(target, step.ensures, (*source.records, record))
        before = after or before  # what cannot run here is judged on the machine that can
    return source


def _judge(
    step: Step, before: Predictor | None, after: Predictor | None, samples: Samples, max_batch: int
) -> dict[str, Any]:
    if before is None or after is None:
        return {"check": "parity", "passed": None, "skipped": "this machine cannot run the artifact"}
    outcome = parity.compare_outputs(before, after, samples, step.tolerance, max_batch)
    parity.assert_parity(outcome, step.name, before, after, samples)
    # The states and not the paths: these are of a scratch folder.
    return {**outcome.to_dict(), "reference": str(step.requires), "candidate": str(step.ensures)}


def _check_order(steps: Sequence[Step], state: StepState) -> None:
    for step in steps:
        if step.requires != state:
            what = f"step {step.name} cannot follow"
            raise ConfigError(what, expected=f"a {step.requires}", found=f"a {state}", hint="order the steps anew")
        state = step.ensures


def _sha256(path: Path) -> str:
    return sha256_file(path / CARD if path.is_dir() else path)
