"""Benchmark targets. A target maps images to logits; each worker opens its own connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import LOGITS
from shrinkserve.errors import ConfigError
from shrinkserve.serving.model_config import ENCODED

if TYPE_CHECKING:
    from shrinkserve.runtimes import Predictor
    from shrinkserve.serving.client.client import Client

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
RequestImages = Pixels | Sequence[bytes]
"""uint8 [N, S, S, 3], or N encoded images for a target with `Target.encoded`."""
Predict = Callable[[Any], Logits]
"""Function from `RequestImages` in the target's form to float32 logits [N, classes]."""

TargetKind = Literal["checkpoint", "onnx", "engine", "server"]
Payload = Literal["tensor", "jpeg", "shm"]
"""Form of a request: pixels, encoded images, or pixels in shared memory of this machine."""

CONNECTIONS = 8
"""Requests in flight for a batch of encoded images, which are sent one in a request."""


@dataclass(frozen=True)
class Target:
    """Anything that maps images to logits.

    Attributes:
        name: name in reports, e.g. ``"checkpoint ema"`` or ``"server grpc"``.
        kind: kind of target.
        precision: precision of its arithmetic, e.g. ``"float32"``.
        identity: sha256 of its file, or its address.
        open: opens a connection to a server, or returns the shared session of a local model.
        statistics: reads the cumulative statistics of a server; None for local targets.
        exact: True if its predictions must equal those of other exact targets (same weights, same pixels, float32).
        payload: form of its requests.
        temperature: divisor of the logits in its probabilities.
    """

    name: str
    kind: TargetKind
    precision: str
    identity: str
    open: Callable[[], AbstractContextManager[Predict]]
    statistics: Callable[[], Mapping[str, object]] | None = field(default=None, compare=False)
    exact: bool = True
    payload: Payload = "tensor"
    temperature: float = 1.0

    @property
    def remote(self) -> bool:
        """True for a server, so that this process only generates load."""
        return self.kind == "server"

    @property
    def encoded(self) -> bool:
        """True if requests have encoded images as they are in the dataset."""
        return self.payload == "jpeg"


def parse_payloads(words: Sequence[str]) -> list[Payload]:
    """Return payloads by name, each once.

    Raises:
        ConfigError: an unknown name.
    """
    for word in words:
        if word not in get_args(Payload):
            raise ConfigError("--payload", expected=f"one of {', '.join(get_args(Payload))}", found=repr(word))
    return [payload for payload in get_args(Payload) if payload in words]


def local_target(
    name: str, predictor: Predictor, kind: TargetKind, precision: str, identity: str, *, exact: bool = True
) -> Target:
    """Return the target of a model in this process; all workers share its session."""
    return Target(name, kind, precision, identity, lambda: nullcontext(predictor.predict), exact=exact)


def server_target(
    url: str, model: str, precision: str, payload: Payload = "tensor", token: str | None = None
) -> Target:
    """Return the target of a model on a Triton server; each worker has its own connection.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT``.
        model: name of the model on the server; of the ensemble for ``"jpeg"``.
        precision: precision of the model.
        payload: form of the requests.
        token: token that the server requires for shared memory.
    """
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.client.operations import InferRequest

    def send_encoded(client: Client, encoded: bytes) -> Logits:
        image = np.frombuffer(encoded, np.uint8)[None]
        logits: Logits = client.send(InferRequest(model, image, {LOGITS: 0}, tensor=ENCODED)).tensors[LOGITS]
        return logits

    @contextmanager
    def connect() -> Iterator[Predict]:
        with Client(url, token=token, shared_memory=payload == "shm") as client:
            if payload == "jpeg":
                with ThreadPoolExecutor(CONNECTIONS) as pool:
                    yield lambda images: _each(partial(send_encoded, client), images, pool)
            else:
                yield lambda images: client.infer(model, images)[0]

    def statistics() -> Mapping[str, object]:
        with Client(url) as client:
            return dict(client.statistics(model))

    protocol = urlsplit(url).scheme
    return Target(
        f"server {protocol}" if payload == "tensor" else f"server {protocol} {payload}",
        "server",
        precision,
        url,
        connect,
        statistics,
        exact=precision == "float32" and payload != "jpeg",  # another decoder rounds differently
        payload=payload,
    )


def _each(send: Callable[[bytes], Logits], images: Sequence[bytes], pool: ThreadPoolExecutor) -> Logits:
    """Send one request for each image, several at the same time."""
    return send(images[0]) if len(images) == 1 else np.concatenate(list(pool.map(send, images)))
