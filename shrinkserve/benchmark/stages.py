"""Which stages a measurement has: found from a server's contract, or from what was named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.artifact import CARD, Card, read_card, tensors_sha256
from shrinkserve.benchmark.target import Target, local, server
from shrinkserve.errors import ArtifactError, ConfigError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights, weights
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.client import Client
from shrinkserve.serving.contract import Contract
from shrinkserve.serving.model_config import MODEL
from shrinkserve.serving.repository import versions_in

LOCAL_BATCH = 32
"""Images a request where no server says how many it takes."""


@dataclass(frozen=True)
class Stages:
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
    """

    model: str
    targets: list[Target]
    parents: list[int | None]
    reference: int
    preprocess: Preprocess
    classes: list[str]
    max_batch_size: int
    weights_sha256: str
    contract: Contract | None = None

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
        raw: whether the raw weights are a stage too.
    """

    urls: Sequence[str] = ()
    model: str | None = None
    run: Path | None = None
    runs: Path = Path("runs")
    repository: Path | None = None
    raw: bool = True


def find_stages(wanted: Wanted) -> Stages:
    """The chain from the checkpoint to the servers.

    Raises:
        ConfigError: nothing named, or a model that must be named.
        ArtifactError: the run is missing, damaged or of other weights than those that are served.
        RequestError: a server is not there, has no such model, or the URLs do not serve the same one.
    """
    if not wanted.urls and wanted.run is None:
        raise ConfigError("nothing to measure", expected="--url of a server, --checkpoint RUN, or both")
    contract = _agreed_contract(wanted) if wanted.urls else None
    run, shipped, sha256 = _find_run(wanted, contract.weights_sha256 if contract else None)
    checkpoint = Checkpoint(run, shipped)
    stages: list[tuple[Target, int | None]] = []
    if shipped == "ema" and wanted.raw:
        stages.append((_checkpoint(Checkpoint(run, "raw"), "raw", exact=False), None))
    reference = len(stages)
    stages.append((_checkpoint(checkpoint, shipped), 0 if stages else None))
    served = reference
    for version, path, card in _exported(wanted, contract.model if contract else checkpoint.name, sha256, contract):
        if contract is not None and version == contract.version:
            served = len(stages)
        stages.append((_onnx(version, path, card), reference))
    if contract is not None:
        stages += [(server(url, contract.model, contract.precision), served) for url in wanted.urls]
    return Stages(
        model=contract.model if contract else checkpoint.name,
        targets=[target for target, _ in stages],
        parents=[parent for _, parent in stages],
        reference=reference,
        preprocess=checkpoint.preprocess,
        classes=list(checkpoint.classes),
        max_batch_size=max(1, contract.max_batch_size) if contract else LOCAL_BATCH,
        weights_sha256=sha256,
        contract=contract,
    )


def _agreed_contract(wanted: Wanted) -> Contract:
    """The contract of the model behind the URLs, which must be one and the same."""
    agreed: Contract | None = None
    for url in wanted.urls:
        with Client(url) as client:
            contract = client.contract(wanted.model or _only_model(url, client.models()))
        if agreed is not None and contract != agreed:
            raise RequestError(
                f"{url}: serves another model than {wanted.urls[0]}",
                expected=f"{agreed.model} version {agreed.version} {agreed.weights_sha256[:12]}",
                found=f"{contract.model} version {contract.version} {contract.weights_sha256[:12]}",
                do="give the URLs of one server",
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


def _find_run(wanted: Wanted, served: str | None) -> tuple[Path, Weights, str]:
    """The run whose weights are served, which of its weights these are, and their hash."""
    if wanted.run is not None:
        card = read_card(wanted.run, "checkpoint")
        if served is None:
            return wanted.run, "ema", card.weights_sha256
        if which := _which(wanted.run, card, served):
            return wanted.run, which, served
        raise ArtifactError(
            f"{wanted.run}: not the checkpoint that the server's model was made from",
            expected=f"weights {served[:12]}",
            found=card.weights_sha256[:12],
            do="name the run that was exported, or export this one",
        )
    assert served is not None
    for path in sorted(wanted.runs.glob(f"*/{CARD}")):
        try:
            which = _which(path.parent, read_card(path.parent, "checkpoint"), served)
        except ArtifactError:  # a folder beside it that is no whole run
            continue
        if which:
            return path.parent, which, served
    raise ArtifactError(
        f"{wanted.runs}: no run with the weights that are served",
        expected=f"weights {served[:12]}",
        do="name the run with --checkpoint",
    )


def _which(run: Path, card: Card, sha256: str) -> Weights | None:
    """Which of a run's weights have this hash."""
    if card.weights_sha256 == sha256:
        return "ema"
    raw = weights(Checkpoint(run, "raw").module)
    return "raw" if tensors_sha256({name: tensor.numpy() for name, tensor in raw.items()}) == sha256 else None


def _exported(wanted: Wanted, model: str, sha256: str, contract: Contract | None) -> Iterator[tuple[int, Path, Card]]:
    """Exported files of these weights: of each precision the newest, and the one that is served."""
    found: dict[str, tuple[int, Path, Card]] = {}
    folder = wanted.repository / model if wanted.repository else None
    numbers = versions_in(folder) if folder and folder.is_dir() else []
    for number in numbers:
        assert folder is not None
        card = read_card(folder / str(number))
        if card.weights_sha256 == sha256 and card.kind == "onnx":
            served = contract is not None and number == contract.version
            key = "served" if served else str(card.details.get("precision"))
            found[key] = (number, folder / str(number) / MODEL, card)
    if contract is not None and "served" in found:
        found.pop(contract.precision, None)
    yield from sorted(found.values(), key=lambda entry: entry[0])


def _checkpoint(checkpoint: Checkpoint, which: Weights, *, exact: bool = True) -> Target:
    identity = checkpoint.card.files[f"{which}.safetensors"]
    return local(f"checkpoint {which}", checkpoint, "checkpoint", "float32", identity, exact=exact)


def _onnx(version: int, path: Path, card: Card) -> Target:
    precision = str(card.details.get("precision", "float32"))
    name = f"onnx {precision} v{version}"
    return local(name, OnnxModel(path, spin=False), "onnx", precision, card.files[MODEL], exact=precision == "float32")
