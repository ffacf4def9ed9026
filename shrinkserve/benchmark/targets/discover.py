"""Stages of a measurement, from the checkpoint to the servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shrinkserve.arch.code import is_code_data
from shrinkserve.artifact import read_card
from shrinkserve.benchmark.targets.find_run import find_run
from shrinkserve.benchmark.targets.local_targets import engine_targets, find_version, graph_target
from shrinkserve.benchmark.targets.target import Payload, Target, local_target, server_target
from shrinkserve.errors import ArtifactError, ConfigError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.names import public_name, public_names

LOCAL_BATCH = 32
"""Images in a request without a server, which would state its largest batch."""


@dataclass(frozen=True)
class Stage:
    """Target and the position of the stage that it was made from; None for the first."""

    target: Target
    parent: int | None


@dataclass(frozen=True)
class BenchStages:
    """Stages of a measurement.

    Attributes:
        model: name of the model.
        stages: in the order of the pipeline.
        reference: position of the checkpoint, or of the graph if the network is code; every later stage is compared
            with it.
        preprocess: preprocessing of all stages.
        classes: class names in the order of the logits.
        max_batch_size: most images in a request.
        weights_sha256: hash of the exported weights of the checkpoint.
        served: the served model; None without a server.
        left_out: a line for each stage that this machine cannot run.
    """

    model: str
    stages: list[Stage]
    reference: int
    preprocess: Preprocess
    classes: list[str]
    max_batch_size: int
    weights_sha256: str
    served: ModelInfo | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """Targets of all stages."""
        return [stage.target for stage in self.stages]

    @property
    def served_identity(self) -> str:
        """Identity of the served model, independent of the address; empty without a server."""
        one = self.served
        return f"{one.model} version {one.version} {one.weights_sha256} {one.precision}" if one else ""

    @property
    def links(self) -> list[tuple[int, int]]:
        """Pairs of stages to compare: each with its parent, and each later one with the reference."""
        pairs = [(stage.parent, own) for own, stage in enumerate(self.stages) if stage.parent is not None]
        pairs += [(self.reference, later) for later in range(self.reference + 1, len(self.stages))]
        return list(dict.fromkeys(pairs))


@dataclass(frozen=True)
class Wanted:
    """Parts of a measurement that the user named.

    Attributes:
        urls: addresses of one server, e.g. for HTTP and for gRPC.
        model: name of the model on it; optional if the server has one model.
        run: folder of the training run; None to search for it by the hash of the weights.
        runs: folder of run folders for that search.
        repository: model repository to search for exported files of the same weights; None to skip them.
        payloads: forms of the requests; empty for tensors, and encoded images if the server takes them.
        token: token that the server requires for shared memory.
    """

    urls: Sequence[str] = ()
    model: str | None = None
    run: Path | None = None
    runs: Path = Path("runs")
    repository: Path | None = None
    payloads: Sequence[Payload] = ()
    token: str | None = None


def find_stages(wanted: Wanted) -> BenchStages:
    """Return the stages from the checkpoint to the servers.

    Raises:
        ConfigError: nothing to measure is named, or the model must be named.
        ArtifactError: the run is missing or damaged, or its weights are not the served ones.
        RequestError: a server does not respond, has no such model, does not take the payload, or the URLs serve
            different models.
    """
    if not wanted.urls and wanted.run is None:
        raise ConfigError("nothing to measure", expected="--url of a server, --checkpoint RUN, or both")
    served = _served_model(wanted) if wanted.urls else None
    run, shipped, sha256 = find_run(wanted.run, wanted.runs, served.weights_sha256 if served else None)
    card = read_card(run, "checkpoint", verify=False)
    model = served.model if served else card.name
    code = is_code_data(card.spec)
    stages = [] if code else _checkpoints(run, shipped)
    reference = max(0, len(stages) - 1)
    left_out: list[str] = []
    number = served.version if served else None
    if wanted.repository and (version := find_version(wanted.repository, model, sha256, number)):
        exported, left_out = _exported(version, len(stages), None if code else reference)
        stages += exported
    if code:
        left_out.append("checkpoint: its network is Python code, which only `train`, `eval` and `export` run")
    if not stages:
        hint = "export the run, and name the model repository"
        raise ArtifactError(f"{run}: the network is Python code, and no version has its weights", hint=hint)
    if served is not None:
        parent = _served_stage(served, stages, reference)
        temperature = stages[-1].target.temperature  # of the exported version; 1 without one
        stages += [Stage(replace(target, temperature=temperature), parent) for target in _servers(wanted, served)]
    return BenchStages(
        model=public_name(model),
        stages=stages,
        reference=reference,
        preprocess=Preprocess.from_dict(card.preprocess),
        classes=list(card.classes),
        max_batch_size=max(1, served.max_batch_size) if served else LOCAL_BATCH,
        weights_sha256=sha256,
        served=served,
        left_out=left_out,
    )


def _checkpoints(run: Path, shipped: Weights) -> list[Stage]:
    """Return the run with its raw weights, if the averaged ones are served, and with the served ones."""
    first = [Stage(_checkpoint(Checkpoint(run, "raw"), "raw", exact=False), None)] if shipped == "ema" else []
    return [*first, Stage(_checkpoint(Checkpoint(run, shipped), shipped), 0 if first else None)]


def _exported(version: Path, graph: int, parent: int | None) -> tuple[list[Stage], list[str]]:
    """Return the stages of an exported version, and a line for each engine that this machine cannot run.

    Its graph, at position `graph` among all stages, was made from stage `parent`, and the engines from the graph.
    """
    engines, left_out = engine_targets(version)
    return [Stage(graph_target(version), parent), *(Stage(engine, graph) for engine in engines)], left_out


def _served_stage(served: ModelInfo, stages: Sequence[Stage], reference: int) -> int:
    """Return the position of the stage that the server runs: its engine, else the exact graph, else the reference."""
    runtime = "onnx" if served.backend == "onnxruntime" else served.backend
    name = f"{runtime} {served.precision} v{served.version}"
    targets = [stage.target for stage in stages]
    engines = [n for n, target in enumerate(targets) if target.name == name]
    graphs = [n for n, target in enumerate(targets) if target.kind == "onnx" and target.exact]
    return (engines or graphs or [reference])[0]


def _servers(wanted: Wanted, served: ModelInfo) -> list[Target]:
    """Return a target for each address and payload."""
    targets: list[Target] = []
    ensemble = public_name(served.model)
    for url in wanted.urls:
        with Client(url) as client:
            takes_encoded = ensemble != served.model and ensemble in client.models()
        payloads = wanted.payloads or (["tensor", "jpeg"] if takes_encoded else ["tensor"])
        for payload in payloads:
            if payload == "jpeg" and not takes_encoded:
                raise RequestError(
                    f"{url}: {ensemble} does not take encoded images", hint=f"run: shrinkserve repo add-jpeg {ensemble}"
                )
            name = ensemble if payload == "jpeg" else served.model
            targets.append(server_target(url, name, served.precision, payload, wanted.token))
    return _with_unique_names(targets)


def _with_unique_names(targets: Sequence[Target]) -> list[Target]:
    """Add a number to equal names, i.e. several addresses with one protocol: ``server grpc``, ``server grpc 2``."""
    seen: Counter[str] = Counter()
    named = []
    for target in targets:
        seen[target.name] += 1
        count = seen[target.name]
        named.append(target if count == 1 else replace(target, name=f"{target.name} {count}"))
    return named


def _served_model(wanted: Wanted) -> ModelInfo:
    """Return the model that all URLs serve."""
    agreed: ModelInfo | None = None
    for url in wanted.urls:
        with Client(url) as client:
            served = client.model_info(wanted.model or _only_model(url, public_names(client.models())))
        if agreed is not None and served != agreed:
            raise RequestError(
                f"{url}: serves a different model than {wanted.urls[0]}",
                expected=f"{agreed.model} version {agreed.version} {agreed.weights_sha256[:12]}",
                found=f"{served.model} version {served.version} {served.weights_sha256[:12]}",
                hint="give URLs of one server",
            )
        agreed = served
    assert agreed is not None
    return agreed


def _only_model(url: str, models: Sequence[str]) -> str:
    if len(models) == 1:
        return models[0]
    raise ConfigError(
        f"{url}: serves {len(models)} models", expected="--model with one of them", found=", ".join(models)
    )


def _checkpoint(checkpoint: Checkpoint, which: Weights, *, exact: bool = True) -> Target:
    identity = checkpoint.card.files[f"{which}.safetensors"]
    return local_target(f"checkpoint {which}", checkpoint, "checkpoint", "float32", identity, exact=exact)
