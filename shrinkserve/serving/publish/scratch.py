"""Try a version out in a new server."""

from __future__ import annotations

import io
import secrets
import shutil

import numpy as np
from PIL import Image

from shrinkserve.artifact import MODEL, PROBABILITIES, Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ParityError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.operations import InferRequest
from shrinkserve.serving.model_config import CONFIG, ENCODED
from shrinkserve.serving.names import model_names, public_name
from shrinkserve.serving.publish.version_files import VersionFiles, check_predictions, random_images
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.activation import has_labels
from shrinkserve.serving.repository.transaction import scratch_folder
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

DECODING_TOLERANCE = 0.1
"""Largest difference between probabilities if the server decodes: DALI and Pillow round pixels differently."""


def check_in_scratch_server(
    repository: Repository,
    version: VersionFiles,
    options: ServingConfig | None,
    *,
    encoded: bool,
    approximate_decoder: bool = False,
) -> float:
    """Load a version in a new server and compare its predictions with the file's. The caller holds `lock.PUBLISH`.

    Args:
        repository: the repository that will have the version; its serving options are used.
        version: the version.
        options: serving options; None takes those of the repository.
        encoded: also check encoded images.
        approximate_decoder: also write the pipeline for a contract that it only approximates.

    Returns:
        The worst difference between logits.

    Raises:
        ServerError: the version does not load.
        ParityError: the server predicts differently from the file.
    """
    card = version.card
    with scratch_folder(repository.root) as folder:
        scratch = Repository(folder / "models")
        if options is None and (repository.root / card.name / CONFIG).is_file():
            (scratch.root / card.name).mkdir(parents=True)
            shutil.copyfile(repository.root / card.name / CONFIG, scratch.root / card.name / CONFIG)
        approximate = encoded and (
            approximate_decoder or ensemble.is_approximate(repository.root / model_names(card.name).pipeline)
        )
        scratch.add(
            card.name, version.model.path, card, options=options, encoded=encoded, approximate_decoder=approximate
        )
        # No other user of this machine may load a model there: its code would run as this user.
        log = folder / "log" / "triton.log"
        server = TritonServer(scratch.root, ServerOptions(fixed=True, token=secrets.token_urlsafe(), log_file=log))
        with server, Client(server.grpc_url) as client:
            worst = check_predictions(client, card.name, version)
            exact = Preprocess.from_dict(card.preprocess).approximate_in_dali() is None
            if exact and ensemble.takes_encoded(scratch.root, card.name):
                _check_decoding(client, version)
    return worst


def needs_other_ensemble(repository: Repository, card: Card) -> bool:
    """Return True if a version needs another pipeline or ensemble than the repository has for its model."""
    if not ensemble.takes_encoded(repository.root, card.name):
        return False
    contract = model_config.parameters(repository.config(card.name)).get("contract")
    same_contract = contract == Preprocess.from_dict(card.preprocess).fingerprint
    return not (same_contract and has_labels(repository.root / card.name, card.classes))


def _check_decoding(client: Client, version: VersionFiles) -> None:
    """Compare the predictions for an encoded image with those of the file for the pixels of `Preprocess`.

    Raises:
        ParityError: they differ.
    """
    card, model = version.card, version.model
    stream = io.BytesIO()
    picture = Image.fromarray(random_images((model.size, model.size, 3), 1)[0])
    picture.resize((300, 200), Image.Resampling.BICUBIC).save(stream, "JPEG")
    pixels = Preprocess.from_dict(card.preprocess).evaluate_bytes(stream.getvalue())
    encoded = np.frombuffer(stream.getvalue(), np.uint8)[None]
    reply = client.send(InferRequest(public_name(card.name), encoded, {PROBABILITIES: 0}, tensor=ENCODED))
    difference = float(np.abs(reply.tensors[PROBABILITIES] - model.infer(pixels[None])[PROBABILITIES]).max())
    if not difference <= DECODING_TOLERANCE:
        raise ParityError(
            f"{client.url}: {public_name(card.name)} predicts differently from {MODEL} for encoded images",
            expected=f"probabilities within {DECODING_TOLERANCE}",
            found=f"{difference:.3f}",
        )
