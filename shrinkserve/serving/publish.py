"""Bring a new version into a repository, and into a server that is answering requests, or change nothing.

Every step can refuse the version; what was done until then is undone. The order is that of rising risk: files, a
scratch server that nobody uses, a second model in the live server that nobody asks, and only then the model itself.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ParityError, RequestError
from shrinkserve.preprocess import Pixels, Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving import jpeg, model_config
from shrinkserve.serving.activation import labels_text
from shrinkserve.serving.client import Client
from shrinkserve.serving.family import public
from shrinkserve.serving.holdings import check_name
from shrinkserve.serving.model_config import CONFIG, ENCODED, LABELS, MODEL, PROBABILITIES
from shrinkserve.serving.repository import Repository
from shrinkserve.serving.server import ServerOptions, TritonServer
from shrinkserve.serving.shadow import Limits, compare
from shrinkserve.serving.transport import Question
from shrinkserve.serving.verification import open_verified

Say = Callable[[str], None]

CANDIDATE = ".candidate"
"""What is added to a model's name for the version that a live server tries out."""
TOLERANCE = 1e-3
"""Largest difference between a server's logits and ONNX Runtime's here, as part of the largest logit: both run one
file, on processors and in batches that may differ."""
DECODING_TOLERANCE = 0.1
"""Largest difference between probabilities where the server decoded: DALI and Pillow round pixels differently."""


@dataclass(frozen=True)
class Live:
    """The server that answers from the repository, and how it tries a version out.

    Attributes:
        client: a client that may load models.
        images: encoded images that both versions are asked about; none to skip the comparison.
        limits: what the new version must hold in the comparison.
    """

    client: Client
    images: Sequence[bytes] = ()
    limits: Limits = field(default_factory=Limits)


def publish(
    repository: Repository,
    source: Path,
    *,
    name: str | None = None,
    options: ServingConfig | None = None,
    encoded: bool = False,
    scratch: bool = True,
    live: Live | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Publish what `export` wrote as the version that answers.

    Args:
        repository: where to.
        source: a folder with ``model.onnx`` and ``card.json``.
        name: the model's name; that of the card when None.
        options: how it is run; None keeps what is configured.
        encoded: have a model that is new here take encoded images as well; one that is here stays as it is.
        scratch: load it in a server of its own first, and compare its answers with the file's.
        live: the server to bring it into.
        say: is told what was done, a line a step.

    Returns:
        The version's folder.

    Raises:
        ArtifactError: a damaged source, or a repository that cannot be written.
        ParityError: a server answers differently from the file.
        ServerError: the scratch server cannot load it.
        RequestError: the live server cannot load it.
        GateError: the comparison with the version before missed a limit.
    """
    card, model = open_verified(source)
    name = name or card.name
    check_name(name)
    card = replace(card, name=name)
    say(f"verified {source}: {len(card.files)} file, sha256 as in its card, weights {card.weights_sha256[:12]}")
    with repository.locked():
        encoded = encoded and not (repository.root / name).exists()
        if scratch:
            _try_in_scratch_server(repository, model, card, options, say, encoded=encoded)
        if live is not None:
            _try_beside(repository, model, card, options, live, say)
        return _switch(repository, model, card, options, live, say, encoded=encoded)


def roll_back(repository: Repository, name: str, version: int | None = None, live: Live | None = None) -> int:
    """Make an older version the one that answers; the one before the present one when `version` is None.

    Returns:
        The version that answers now.

    Raises:
        ConfigError: no such model or version, or none before.
        ArtifactError: a damaged version.
        RequestError: the live server cannot load it; the present one goes on answering.
    """
    with repository.locked():
        version = version or repository.version_before(name)
        card, model = open_verified(repository.known_version(name, version))
        with _undone_on_failure(repository, name, live):
            before = jpeg.state(repository.root, name)
            repository.activate(name, version)
            if live is not None:
                _load(live.client, repository, name, before)
                _confirm(live.client, name, version, card, model)
    return version


def _try_in_scratch_server(
    repository: Repository, model: OnnxModel, card: Card, options: ServingConfig | None, say: Say, *, encoded: bool
) -> None:
    encoded = encoded or _decodes_anew(repository, card)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-scratch-") as folder:
        scratch = Repository(Path(folder) / "models")
        if options is None and (repository.root / card.name / CONFIG).is_file():
            (scratch.root / card.name).mkdir(parents=True)
            shutil.copyfile(repository.root / card.name / CONFIG, scratch.root / card.name / CONFIG)
        scratch.add(card.name, model.path, card, options=options, encoded=encoded)
        server = TritonServer(scratch.root, ServerOptions(log_file=Path(folder) / "log" / "triton.log"))
        with server, Client(server.grpc_url) as client:
            worst = _worst_difference(client, card.name, model, card)
            if encoded:
                _try_encoded(client, model, card)
    say(f"scratch server: loads, and answers as the file does (worst logit difference {worst:.1e})")


def _try_beside(
    repository: Repository, model: OnnxModel, card: Card, options: ServingConfig | None, live: Live, say: Say
) -> None:
    """Load the version under another name into the live server, and compare it with the one that answers."""
    candidate = f"{card.name}{CANDIDATE}"
    known = card.name in repository.models()
    if known and options is None:
        config = repository.config(card.name)
        config.name = candidate
        model_config.set_contract(config, card, 1)
    else:
        config = model_config.build(candidate, card, options)
    files = {f"1/{MODEL}": model.path.read_bytes(), LABELS: labels_text(card.classes).encode()}
    try:
        live.client.load(candidate, config, files)
        _worst_difference(live.client, candidate, model, card)
        say(f"live server: loads it beside as {candidate}, warmed")
        if known and live.images:
            result = compare(live.client, card.name, candidate, live.images)
            say(str(result))
            live.limits.hold(result)
    finally:
        with suppress(RequestError):  # it was never loaded, or the server went away, which the caller learns anyway
            live.client.unload(candidate)


def _switch(
    repository: Repository,
    model: OnnxModel,
    card: Card,
    options: ServingConfig | None,
    live: Live | None,
    say: Say,
    *,
    encoded: bool,
) -> Path:
    with _undone_on_failure(repository, card.name, live):
        before = jpeg.state(repository.root, card.name)
        place = repository.add(card.name, model.path, card, options=options, encoded=encoded)
        if live is not None:
            _load(live.client, repository, card.name, before)
            _confirm(live.client, card.name, int(place.name), card, model)
            say(f"live server: version {place.name} answers")
    say(f"published {place}")
    return place


@contextmanager
def _undone_on_failure(repository: Repository, name: str, live: Live | None) -> Iterator[None]:
    before = repository.snapshot(name)
    try:
        yield
    except BaseException:
        failed = jpeg.state(repository.root, name)
        repository.restore(name, before)
        if live is not None:
            with suppress(RequestError):  # the fault that brought us here is the one to tell
                live.client.unload(name) if before is None else _load(live.client, repository, name, failed)
        raise


def _load(client: Client, repository: Repository, name: str, before: list[bytes]) -> None:
    """Have a server load what the repository now holds of a model, given `jpeg.state` of what it loaded last."""
    # With an ensemble, Triton loads what it is made of.
    client.load(name if jpeg.state(repository.root, name) == before else public(name))


def _confirm(client: Client, name: str, version: int, card: Card, model: OnnxModel) -> None:
    """The server answers with the version that it was to load.

    Raises:
        RequestError: it answers with another: it serves another repository.
        ParityError: it answers differently from the file.
    """
    contract = client.contract(name)
    if (contract.version, contract.weights_sha256) != (version, card.weights_sha256):
        raise RequestError(
            f"{client.url}: does not answer from this repository",
            expected=f"version {version}, weights {card.weights_sha256[:12]}",
            found=f"version {contract.version}, weights {contract.weights_sha256[:12]}",
            do="name the URL of the server that serves it",
        )
    _worst_difference(client, name, model, card)


def _worst_difference(client: Client, name: str, model: OnnxModel, card: Card) -> float:
    """Between the logits of a server and those of the file, over some batches.

    Raises:
        ParityError: it is beyond `TOLERANCE`.
    """
    worst = 0.0
    largest = client.contract(name).max_batch_size or 1
    for count in sorted({1, min(2, largest), min(5, largest), largest}):
        images = _probe(model.size, count)
        expected = model.answer(images)
        difference = float(np.abs(client.infer(name, images)[0] - expected).max())
        limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:  # so that NaN fails too
            raise ParityError(
                f"{client.url}: {name} answers differently from {MODEL} of {card.name} at batch {count}",
                expected=f"logits within {limit:.1e}",
                found=f"{difference:.1e}",
            )
        worst = max(worst, difference)
    return worst


def _decodes_anew(repository: Repository, card: Card) -> bool:
    """Whether a version needs another pipeline or ensemble than the one before has."""
    if not jpeg.takes_encoded(repository.root, card.name):
        return False
    contract = model_config.parameters(repository.config(card.name)).get("contract")
    same_classes = (repository.root / card.name / LABELS).read_text(encoding="utf-8") == labels_text(card.classes)
    return contract != Preprocess.from_dict(card.preprocess).contract or not same_classes


def _try_encoded(client: Client, model: OnnxModel, card: Card) -> None:
    """A server that decodes answers as the file does with the pixels of `Preprocess`.

    Raises:
        ParityError: it does not.
    """
    stream = io.BytesIO()
    Image.fromarray(_probe(model.size, 1)[0]).resize((300, 200), Image.Resampling.BICUBIC).save(stream, "JPEG")
    pixels = Preprocess.from_dict(card.preprocess).evaluate_bytes(stream.getvalue())
    encoded = np.frombuffer(stream.getvalue(), np.uint8)[None]
    reply = client.ask(Question(public(card.name), encoded, {PROBABILITIES: 0}, tensor=ENCODED))
    difference = float(np.abs(reply.tensors[PROBABILITIES] - model.infer(pixels[None])[PROBABILITIES]).max())
    if not difference <= DECODING_TOLERANCE:
        raise ParityError(
            f"{client.url}: {public(card.name)} answers encoded images differently from {MODEL}",
            expected=f"probabilities within {DECODING_TOLERANCE}",
            found=f"{difference:.3f}",
        )


def _probe(size: int, count: int) -> Pixels:
    """Images of random blocks, the same each time."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    index = np.arange(size) * 8 // size
    return coarse[:, index][:, :, index]
