"""Record of a measurement: the content of ``bench.json``. The unit of a figure is in its name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shrinkserve.artifact import recorded_path
from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.accuracy.score import unpack_flags
from shrinkserve.benchmark.load.histogram import PERCENTILE_NAMES, LatencyHistogram
from shrinkserve.benchmark.load.perf_analyzer import PerfAnalyzerRecord
from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.load.slo import SearchRecord
from shrinkserve.benchmark.plain import OPTIONAL
from shrinkserve.benchmark.report.environment import Environment, environment
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.stats import Estimate
from shrinkserve.benchmark.targets.discover import BenchStages
from shrinkserve.benchmark.targets.target import TargetKind
from shrinkserve.confusion import ClassFigures, class_figures
from shrinkserve.data import Dataset
from shrinkserve.errors import ArtifactError
from shrinkserve.toml import validate

FORMAT = 2
"""Version of the file format."""

Verdict = Literal["same within the intervals", "regression", "better"]


@dataclass(frozen=True)
class StageRecord:
    """Stage: see `Target` and `Stage` for the fields. The payload is None for local stages."""

    name: str
    kind: TargetKind
    precision: str
    identity: str
    exact: bool
    payload: str | None
    parent: int | None


@dataclass(frozen=True)
class DatasetRecord:
    """Dataset of the measurement."""

    root: str
    split: str
    images: int


@dataclass(frozen=True)
class FigureRecord:
    """Figure of this release and of the baseline; the last three fields compare accuracy image by image."""

    figure: str
    unit: str
    before: Estimate
    now: Estimate
    verdict: Verdict
    lost: int | None = field(default=None, metadata=OPTIONAL)
    gained: int | None = field(default=None, metadata=OPTIONAL)
    mcnemar_p: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class BaselineRecord:
    """Comparison with an earlier record."""

    file: str
    figures: list[FigureRecord]


@dataclass
class BenchRecord:
    """Measurement of a model.

    Attributes:
        model: name of the model.
        version: served version; None without a server.
        weights_sha256: hash of the exported weights.
        preprocess: preprocessing of all stages.
        classes: class names in the order of the logits.
        dataset: dataset of the images.
        stages: in the order of the pipeline.
        reference: position of the stage that later stages are compared with: the checkpoint, or the graph of code.
        left_out: a line for each engine that this machine cannot run.
        environment: machine, software and command.
        gates: bounds on the figures.
        accuracy: accuracy of the stages; None before it was measured.
        loads: load tests.
        slo: searches for the highest rate.
        perf_analyzer: measurements by perf_analyzer.
        baseline: comparison with an earlier record; None without one.
        partial: reason why the measurement is not complete; None if it is.
        misses: a line for each gate that failed.
        format: version of the file format.
    """

    model: str
    version: int | None
    weights_sha256: str
    preprocess: dict[str, object]
    classes: list[str] = field(repr=False)
    dataset: DatasetRecord
    stages: list[StageRecord]
    reference: int
    left_out: list[str]
    environment: Environment = field(repr=False)
    gates: Gates
    accuracy: AccuracyRecord | None = None
    loads: list[LoadRecord] = field(default_factory=list)
    slo: list[SearchRecord] = field(default_factory=list)
    perf_analyzer: list[PerfAnalyzerRecord] = field(default_factory=list)
    baseline: BaselineRecord | None = None
    partial: str | None = "not finished"
    misses: list[str] = field(default_factory=list)
    format: int = FORMAT

    def __repr__(self) -> str:
        """Return the outcome in one line."""
        stages = ", ".join(stage.name for stage in self.stages)
        outcome = f"misses={self.misses}" if self.partial is None else f"partial={self.partial!r}"
        about = f"{self.model!r}, version {self.version}, stages: {stages}"
        return f"BenchRecord({about}; loads: {len(self.loads)}; {outcome})"

    @property
    def reference_name(self) -> str:
        """Name of the stage that later stages are compared with."""
        return self.stages[self.reference].name

    @property
    def reference_words(self) -> str:
        """The stage that later stages are compared with, in words: a network that is code has no checkpoint stage."""
        return "the checkpoint" if self.stages[self.reference].kind == "checkpoint" else self.reference_name

    def class_figures(self) -> list[ClassFigures]:
        """Return the figures of the last stage for each class that has images; empty if they were not measured."""
        if self.accuracy is None or not self.accuracy.confusion:
            return []
        return [one for one in class_figures(self.classes, self.accuracy.confusion) if one.support]

    @property
    def servers(self) -> list[str]:
        """Names of the servers among the stages."""
        return [stage.name for stage in self.stages if stage.kind == "server"]

    @property
    def valid_loads(self) -> list[LoadRecord]:
        """Valid load tests; only those of servers if there is a server."""
        return [load for load in self.loads if load.valid and (not self.servers or load.target in self.servers)]


def new_record(stages: BenchStages, dataset: Dataset, gates: Gates) -> BenchRecord:
    """Return the record of a measurement before its first figure."""
    return BenchRecord(
        model=stages.model,
        version=stages.served.version if stages.served else None,
        weights_sha256=stages.weights_sha256,
        preprocess={"contract": stages.preprocess.fingerprint, **stages.preprocess.to_dict()},
        classes=stages.classes,
        dataset=DatasetRecord(recorded_path(dataset.root), dataset.split, len(dataset)),
        stages=[
            StageRecord(
                name=stage.target.name,
                kind=stage.target.kind,
                precision=stage.target.precision,
                identity=stage.target.identity,
                exact=stage.target.exact,
                payload=stage.target.payload if stage.target.remote else None,
                parent=stage.parent,
            )
            for stage in stages.stages
        ],
        reference=stages.reference,
        left_out=stages.left_out,
        environment=environment(),
        gates=gates,
    )


def read_record(path: Path) -> BenchRecord:
    """Read a file that `bench` wrote.

    Raises:
        ArtifactError: the file cannot be read, is not a bench record or has another format.
    """
    hint = "name a bench.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ArtifactError(f"{path}: not a bench record ({reason})", hint=hint) from exc
    if found != FORMAT:
        raise ArtifactError(f"{path}: unsupported format of a bench record", expected=FORMAT, found=found, hint=hint)
    where = f"{path}: not a bench record"
    return validate(BenchRecord, raw, where, check=_undecodable, error=ArtifactError, hint=hint)


def _undecodable(record: BenchRecord) -> list[str]:
    """Return one message for each packed figure that cannot be decoded, and for missing percentiles."""
    found = []
    for number, load in enumerate(record.loads):
        if missing := [name for name in PERCENTILE_NAMES if name not in load.latency.percentiles]:
            found.append(f"loads.{number}.latency.percentiles: missing {', '.join(missing)}")
        try:
            LatencyHistogram(load.latency.hdr)
        except ArtifactError as exc:
            found.append(f"loads.{number}.latency.hdr: {exc}")
    for number, score in enumerate(record.accuracy.stages if record.accuracy else ()):
        try:
            unpack_flags(score.right, score.images)
        except ArtifactError as exc:
            found.append(f"accuracy.stages.{number}.right: {exc}")
    return found
