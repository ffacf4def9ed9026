"""A version that is tried out: does a server that loads it answer as its files do?"""

from __future__ import annotations

import io
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import MODEL, PROBABILITIES, Card
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine, engines_of
from shrinkserve.errors import ArtifactError, ParityError, RequestError
from shrinkserve.preprocess import Pixels, Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving import model_config
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.client.operations import InferRequest
from shrinkserve.serving.model_config import CONFIG, ENCODED, LABELS
from shrinkserve.serving.names import CANDIDATE, public_name
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.activation import labels_text
from shrinkserve.serving.repository.engine_config import engine_config, engine_config_path
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

TOLERANCE = 1e-3
"""Largest difference between a server's logits and ONNX Runtime's here, as part of the largest logit: both run one
file, on processors and in batches that may differ."""
LOOSE = {
    ("openvino", "bfloat16"): 0.1,
    ("openvino", "int8"): 0.5,
    ("tensorrt", "float16"): 0.02,
    ("tensorrt", "bfloat16"): 0.1,
    ("tensorrt", "int8"): 0.5,
}
"""Tolerance by backend and precision for engines that cannot be run here. It only shows that the engine is of the right
network; `export` has compared the engine's answers with the network's."""
DECODING_TOLERANCE = 0.1
"""Largest difference between probabilities where the server decoded: DALI and Pillow round pixels differently."""


@dataclass(frozen=True)
class VersionFiles:
    """A version that is to answer.

    Attributes:
        card: its card, with the name of the model.
        model: its ``model.onnx``; beside it are the files of its other engines.
    """

    card: Card
    model: OnnxModel

    def engine(self, served: ModelInfo) -> Engine | None:
        """The engine with which a server answers that has a version of this model; None: the default one."""
        own = self.card.precision
        if (served.backend, served.precision) == ("onnxruntime", own):
            return None
        wanted = (served.backend, served.precision)
        return next((one for one in engines_of(self.card) if (one.backend, one.precision) == wanted), None)

    def reference(self, served: ModelInfo) -> tuple[OnnxModel, float]:
        """What answers as that server has to, and how closely: the part of the largest logit that may be between."""
        engine = self.engine(served)
        if engine is None or engine.backend != "onnxruntime":
            return self.model, TOLERANCE if engine is None else LOOSE.get((engine.backend, engine.precision), TOLERANCE)
        return OnnxModel(self.model.path.with_name(engine.file)), TOLERANCE

    def read(self, file: str) -> bytes:
        """The content of one of its files.

        Raises:
            ArtifactError: it is not the one of the card any more.
        """
        content = self.model.path.with_name(file).read_bytes()
        if sha256(content).hexdigest() != self.card.files[file]:
            raise ArtifactError(f"{self.model.path.with_name(file)}: changed while it is published", hint="try again")
        return content


def in_scratch_server(
    repository: Repository, version: VersionFiles, options: ServingConfig | None, *, encoded: bool
) -> float:
    """Load a version in a server of its own.

    Args:
        repository: where it is to go; how the model is run there is how it is run here.
        version: the version.
        options: how it is run; None keeps what is configured.
        encoded: have the server decode as well.

    Returns:
        The worst difference between logits.

    Raises:
        ServerError: it does not load.
        ParityError: the server answers differently from the file.
    """
    card = version.card
    with tempfile.TemporaryDirectory(prefix="shrinkserve-scratch-") as folder:
        scratch = Repository(Path(folder) / "models")
        if options is None and (repository.root / card.name / CONFIG).is_file():
            (scratch.root / card.name).mkdir(parents=True)
            shutil.copyfile(repository.root / card.name / CONFIG, scratch.root / card.name / CONFIG)
        scratch.add(card.name, version.model.path, card, options=options, encoded=encoded)
        # Nobody else on this machine may bring a model of theirs into it: that would run their code as this user.
        log = Path(folder) / "log" / "triton.log"
        server = TritonServer(scratch.root, ServerOptions(fixed=True, token=secrets.token_urlsafe(), log_file=log))
        with server, Client(server.grpc_url) as client:
            worst = worst_difference(client, card.name, version)
            if encoded:
                _check_decoding(client, version)
    return worst


@contextmanager
def candidate_loaded(
    client: Client, repository: Repository, version: VersionFiles, options: ServingConfig | None
) -> Iterator[str]:
    """Have a live server hold a version under another name, run as the one that answers is run.

    Yields:
        The name.

    Raises:
        RequestError: it does not load.
        ParityError: the server answers differently from the file.
    """
    candidate = f"{version.card.name}{CANDIDATE}"
    config, names = _as_candidate(client, repository, version, options)
    files = {f"1/{file}": version.read(file) for file in names}
    try:
        client.load(candidate, config, {**files, LABELS: labels_text(version.card.classes).encode()})
        worst_difference(client, candidate, version)
        yield candidate
    finally:
        with suppress(RequestError):  # it was never loaded, or the server went away, which the caller learns anyway
            client.unload(candidate)


def _as_candidate(
    client: Client, repository: Repository, version: VersionFiles, options: ServingConfig | None
) -> tuple[pb.ModelConfig, set[str]]:
    """Configuration and names of the files of a version under the candidate's name."""
    card, known = version.card, version.card.name in repository.models()
    if known and options is None:
        base = repository.config(card.name)
        model_config.set_contract(base, card, 1)
    else:
        base = model_config.build_config(card.name, card, options)
    base.name = f"{card.name}{CANDIDATE}"
    engine = version.engine(client.model_info(card.name)) if known and card.name in client.models() else None
    if engine is None:
        return base, {MODEL}
    path = engine_config_path(repository.root / card.name, engine.name)
    return engine_config(engine, base, model_config.read_config(path) if path.is_file() else None), engine.files


def worst_difference(client: Client, name: str, version: VersionFiles) -> float:
    """Between the logits of a server and those of the file that it runs, over some batches.

    Raises:
        ParityError: it is beyond what `Version.reference` allows.
    """
    served = client.model_info(name)
    reference, tolerance = version.reference(served)
    worst, largest = 0.0, served.max_batch_size or 1
    for count in sorted({1, min(2, largest), min(5, largest), largest}):
        images = _probe(reference.size, count)
        expected = reference.predict(images)
        difference = float(np.abs(client.infer(name, images)[0] - expected).max())
        limit = tolerance * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:  # so that NaN fails too
            raise ParityError(
                f"{client.url}: {name} answers differently from {reference.path.name} of {version.card.name} "
                f"at batch {count}",
                expected=f"logits within {limit:.1e}",
                found=f"{difference:.1e}",
            )
        worst = max(worst, difference)
    return worst


def decodes_anew(repository: Repository, card: Card) -> bool:
    """Whether a version needs another pipeline or ensemble than the one before has."""
    if not ensemble.takes_encoded(repository.root, card.name):
        return False
    contract = model_config.parameters(repository.config(card.name)).get("contract")
    same_classes = (repository.root / card.name / LABELS).read_text(encoding="utf-8") == labels_text(card.classes)
    return contract != Preprocess.from_dict(card.preprocess).fingerprint or not same_classes


def _check_decoding(client: Client, version: VersionFiles) -> None:
    """A server that decodes answers as the file does with the pixels of `Preprocess`.

    Raises:
        ParityError: it does not.
    """
    card, model = version.card, version.model
    stream = io.BytesIO()
    Image.fromarray(_probe(model.size, 1)[0]).resize((300, 200), Image.Resampling.BICUBIC).save(stream, "JPEG")
    pixels = Preprocess.from_dict(card.preprocess).evaluate_bytes(stream.getvalue())
    encoded = np.frombuffer(stream.getvalue(), np.uint8)[None]
    reply = client.send(InferRequest(public_name(card.name), encoded, {PROBABILITIES: 0}, tensor=ENCODED))
    difference = float(np.abs(reply.tensors[PROBABILITIES] - model.infer(pixels[None])[PROBABILITIES]).max())
    if not difference <= DECODING_TOLERANCE:
        raise ParityError(
            f"{client.url}: {public_name(card.name)} answers encoded images differently from {MODEL}",
            expected=f"probabilities within {DECODING_TOLERANCE}",
            found=f"{difference:.3f}",
        )


def _probe(size: int, count: int) -> Pixels:
    """Images of random blocks, the same each time."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    index = np.arange(size) * 8 // size
    return coarse[:, index][:, :, index]
