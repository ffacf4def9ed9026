"""What is measured: anything that answers, opened once a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import ConfigError

if TYPE_CHECKING:
    from shrinkserve.runtimes import Predictor

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Images = Pixels | Sequence[bytes]
"""uint8 [N, S, S, 3] where a target takes pixels, N encoded images where it takes those (`Target.encoded`)."""
Answer = Callable[[Any], Logits]
"""`Images` of the target's kind in, float32 logits [N, classes] out."""

Payload = Literal["tensor", "jpeg", "shm"]
"""How images come to a server: pixels in the request, encoded images, or pixels in this machine's shared memory."""

CONNECTIONS = 8
"""Requests under way at once for a batch of encoded images, which travel one a request."""


@dataclass(frozen=True)
class Target:
    """One stage of the chain.

    Attributes:
        name: what a report calls it, e.g. ``"checkpoint ema"`` or ``"server grpc"``.
        kind: ``"checkpoint"``, ``"onnx"``, ``"engine"`` or ``"server"``.
        precision: of its arithmetic, e.g. ``"float32"``.
        identity: what it is exactly, for the record: a sha256 or an address.
        open: gives one worker its own way in: a connection to a server, the shared session of a local model.
        statistics: cumulative counters of the serving side, where there is one.
        exact: whether its answers must be those of the stage before (same weights, same pixels, float32).
        payload: how images come to it.
    """

    name: str
    kind: str
    precision: str
    identity: str
    open: Callable[[], AbstractContextManager[Answer]]
    statistics: Callable[[], dict[str, Any]] | None = field(default=None, compare=False)
    exact: bool = True
    payload: Payload = "tensor"

    @property
    def remote(self) -> bool:
        """Whether answers come over a connection, so that this process only generates load."""
        return self.kind == "server"

    @property
    def encoded(self) -> bool:
        """Whether it is asked with encoded images, as the dataset holds them, and not with pixels."""
        return self.payload == "jpeg"


def parse_payloads(words: Sequence[str]) -> list[Payload]:
    """Payloads by their names, each once.

    Raises:
        ConfigError: a name that is none.
    """
    for word in words:
        if word not in get_args(Payload):
            raise ConfigError("--payload", expected=f"one of {', '.join(get_args(Payload))}", found=repr(word))
    return [payload for payload in get_args(Payload) if payload in words]


def local(name: str, answerer: Predictor, kind: str, precision: str, identity: str, *, exact: bool = True) -> Target:
    """A model in this process; its workers share the one session."""
    return Target(name, kind, precision, identity, lambda: nullcontext(answerer.predict), exact=exact)


def server(url: str, model: str, precision: str, payload: Payload = "tensor", token: str | None = None) -> Target:
    """A model behind a Triton server; every worker has its own connection.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``.
        model: the model's name on the server; of the ensemble for ``"jpeg"``.
        precision: what its contract says.
        payload: how images come to it.
        token: that the server wants to see before it takes shared memory.
    """
    from shrinkserve.serving.client.client import Client

    @contextmanager
    def connect() -> Iterator[Answer]:
        with Client(url, token=token, shared_memory=payload == "shm") as client:
            if payload == "jpeg":
                with ThreadPoolExecutor(CONNECTIONS) as pool:
                    yield lambda images: _ask_encoded(client, model, images, pool)
            else:
                yield lambda images: client.infer(model, images)[0]

    def statistics() -> dict[str, Any]:
        with Client(url) as client:
            return dict(client.statistics(model))

    protocol = url.partition(":")[0]
    return Target(
        f"server {protocol}" if payload == "tensor" else f"server {protocol} {payload}",
        "server",
        precision,
        url,
        connect,
        statistics,
        exact=precision == "float32" and payload != "jpeg",  # another decoder rounds in another way
        payload=payload,
    )


def _ask_encoded(client: Any, model: str, images: Sequence[bytes], pool: ThreadPoolExecutor) -> Logits:
    from shrinkserve.artifact import LOGITS
    from shrinkserve.serving.client.operations import InferRequest
    from shrinkserve.serving.model_config import ENCODED

    def ask(encoded: bytes) -> Logits:
        image = np.frombuffer(encoded, np.uint8)[None]
        logits: Logits = client.send(InferRequest(model, image, {LOGITS: 0}, tensor=ENCODED)).tensors[LOGITS]
        return logits

    return ask(images[0]) if len(images) == 1 else np.concatenate(list(pool.map(ask, images)))
