"""What is measured: anything that answers, opened once a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from shrinkserve.runtimes import Answerer

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Answer = Callable[[Pixels], Logits]
"""uint8 images [N, S, S, 3] in, float32 logits [N, classes] out."""


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
        exact: whether its answers must be those of the stage before (same weights, float32).
    """

    name: str
    kind: str
    precision: str
    identity: str
    open: Callable[[], AbstractContextManager[Answer]]
    statistics: Callable[[], dict[str, Any]] | None = field(default=None, compare=False)
    exact: bool = True

    @property
    def remote(self) -> bool:
        """Whether answers come over a connection, so that this process only generates load."""
        return self.kind == "server"


def local(name: str, answerer: Answerer, kind: str, precision: str, identity: str, *, exact: bool = True) -> Target:
    """A model in this process; its workers share the one session."""
    return Target(name, kind, precision, identity, lambda: nullcontext(answerer.answer), exact=exact)


def server(url: str, model: str, precision: str) -> Target:
    """A model behind a Triton server; every worker has its own connection.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``.
        model: the model's name on the server.
        precision: what its contract says.
    """
    from shrinkserve.serving.client import Client

    @contextmanager
    def connect() -> Iterator[Answer]:
        with Client(url) as client:
            yield lambda images: client.infer(model, images)[0]

    def statistics() -> dict[str, Any]:
        with Client(url) as client:
            return client.statistics(model)

    return Target(
        f"server {url.partition(':')[0]}", "server", precision, url, connect, statistics, exact=precision == "float32"
    )
