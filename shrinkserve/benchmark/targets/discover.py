"""Which stages a measurement has: found from a server's contract, or from what was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shrinkserve.benchmark.targets.find_run import find_run
from shrinkserve.benchmark.targets.local_targets import engine_stages, find_version, graph_stage
from shrinkserve.benchmark.targets.target import Payload, Target, local, server
from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.names import public_name, public_names

LOCAL_BATCH = 32
"""Images a request where no server says how many it takes."""


@dataclass(frozen=True)
class BenchStages:
    """What is compared with what.

    Attributes:
        model: its name.
        targets: in the order of the chain.
        parents: position of the stage that each one was made from; None for the first.
        reference: position of the checkpoint that every later stage must answer like.
        preprocess: what all of them expect.
        classes: names in the order of the logits.
        max_batch_size: most images in one request.
        weights_sha256: of the checkpoint's weights that are shipped.
        contract: of the server; None without one.
        left_out: a line for each engine that cannot be asked on this machine.
    """

    model: str
    targets: list[Target]
    parents: list[int | None]
    reference: int
    preprocess: Preprocess
    classes: list[str]
    max_batch_size: int
    weights_sha256: str
    contract: ModelInfo | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def served(self) -> str:
        """What the servers serve, wherever they are; empty without one."""
        one = self.contract
        return f"{one.model} version {one.version} {one.weights_sha256} {one.precision}" if one else ""

    @property
    def links(self) -> list[tuple[int, int]]:
        """Which stages are compared: each with its parent, and each later one with the reference."""
        steps = [(parent, own) for own, parent in enumerate(self.parents) if parent is not None]
        return list(dict.fromkeys(steps + [(self.reference, n) for n in range(self.reference + 1, len(self.targets))]))


@dataclass(frozen=True)
class Wanted:
    """What a user names.

    Attributes:
        urls: addresses of one server, e.g. by HTTP and by gRPC.
        model: the model on it; may be left out when there is one.
        run: folder of the training run; found by the weights' hash when left out.
        runs: where runs are looked for.
        repository: where exported files of the same weights are looked for; None for nowhere.
        payloads: how images come to the server; empty for tensors, and encoded images where it takes those.
        token: that the server wants to see before it takes shared memory.
    """

    urls: Sequence[str] = ()
    model: str | None = None
    run: Path | None = None
    runs: Path = Path("runs")
    repository: Path | None = None
    payloads: Sequence[Payload] = ()
    token: str | None = None


def find_stages(wanted: Wanted) -> BenchStages:
    """The chain from the checkpoint to the servers.

    Raises:
        ConfigError: nothing named, or a model that must be named.
        ArtifactError: the run is missing, damaged or of other weights than those that are served.
        RequestError: a server is not there, has no such model, does not take what is to be sent, or the URLs do not
            serve the same one.
    """
    if not wanted.urls and wanted.run is None:
        raise ConfigError("nothing to measure", expected="--url of a server, --checkpoint RUN, or both")
    contract = _agreed_contract(wanted) if wanted.urls else None
    run, shipped, sha256 = find_run(wanted.run, wanted.runs, contract.weights_sha256 if contract else None)
    checkpoint = Checkpoint(run, shipped)
    model = contract.model if contract else checkpoint.name
    stages: list[tuple[Target, int | None]] = []
    if shipped == "ema":
        stages.append((_checkpoint(Checkpoint(run, "raw"), "raw", exact=False), None))
    reference = len(stages)
    stages.append((_checkpoint(checkpoint, shipped), 0 if stages else None))
    left_out: list[str] = []
    number = contract.version if contract else None
    if wanted.repository and (version := find_version(wanted.repository, model, sha256, number)):
        graph = len(stages)
        engines, left_out = engine_stages(version[1])
        stages += [(graph_stage(version[1]), reference), *((engine, graph) for engine in engines)]
    if contract is not None:
        parent = _runs(contract, [target for target, _ in stages], reference)
        stages += [(target, parent) for target in _servers(wanted, contract)]
    return BenchStages(
        model=public_name(model),
        targets=[target for target, _ in stages],
        parents=[parent for _, parent in stages],
        reference=reference,
        preprocess=checkpoint.preprocess,
        classes=list(checkpoint.classes),
        max_batch_size=max(1, contract.max_batch_size) if contract else LOCAL_BATCH,
        weights_sha256=sha256,
        contract=contract,
        left_out=left_out,
    )


def _runs(contract: ModelInfo, stages: Sequence[Target], reference: int) -> int:
    """Position of the stage that a server runs: the one of its engine, if that can be asked here too."""
    runtime = "onnx" if contract.backend == "onnxruntime" else contract.backend
    name = f"{runtime} {contract.precision} v{contract.version}"
    positions = [n for n, stage in enumerate(stages) if stage.name == name]
    graphs = [n for n, stage in enumerate(stages) if stage.kind == "onnx" and stage.exact]
    return (positions or graphs or [reference])[0]


def _servers(wanted: Wanted, contract: ModelInfo) -> list[Target]:
    """The server by every address and every way in which images come to it."""
    targets: list[Target] = []
    ensemble = public_name(contract.model)
    for url in wanted.urls:
        with Client(url) as client:
            takes_encoded = ensemble != contract.model and ensemble in client.models()
        payloads = wanted.payloads or (["tensor", "jpeg"] if takes_encoded else ["tensor"])
        for payload in payloads:
            if payload == "jpeg" and not takes_encoded:
                raise RequestError(
                    f"{url}: {ensemble} takes no encoded images", hint=f"shrinkserve repo add-jpeg {ensemble}"
                )
            name = ensemble if payload == "jpeg" else contract.model
            targets.append(server(url, name, contract.precision, payload, wanted.token))
    names = [target.name for target in targets]  # two addresses of one protocol are told apart by a number
    counts = [names[:n].count(name) for n, name in enumerate(names)]
    return [replace(one, name=f"{one.name} {n + 1}") if n else one for one, n in zip(targets, counts, strict=True)]


def _agreed_contract(wanted: Wanted) -> ModelInfo:
    """The contract of the model behind the URLs, which must be one and the same."""
    agreed: ModelInfo | None = None
    for url in wanted.urls:
        with Client(url) as client:
            contract = client.model_info(wanted.model or _only_model(url, public_names(client.models())))
        if agreed is not None and contract != agreed:
            raise RequestError(
                f"{url}: serves another model than {wanted.urls[0]}",
                expected=f"{agreed.model} version {agreed.version} {agreed.weights_sha256[:12]}",
                found=f"{contract.model} version {contract.version} {contract.weights_sha256[:12]}",
                hint="give the URLs of one server",
            )
        agreed = contract
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
    return local(f"checkpoint {which}", checkpoint, "checkpoint", "float32", identity, exact=exact)
