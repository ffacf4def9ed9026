from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from shrinkserve import Client
from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.serving.client.errors import UnavailableError
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

IMAGE = np.zeros((8, 8, 3), np.uint8)


class Relay:
    """Relay to a server that can cut all its connections and refuse a number of further ones."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{parts.scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.refuse = 0
        self.taken = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.taken += 1
            if self.refuse > 0:
                self.refuse -= 1
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                sink.sendall(block)
        self._cut(sink)

    def _cut(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def cut(self, refuse: int) -> None:
        """Cut all connections, and the next `refuse` ones as soon as they are made."""
        self.refuse = refuse
        while self._open:
            self._cut(self._open.pop())

    def close(self) -> None:
        self.cut(0)
        self._listener.close()


@pytest.fixture(params=["http", "grpc"])
def relay(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[Relay]:
    relay = Relay(getattr(tiny_server, f"{request.param}_url"))
    yield relay
    relay.close()


def test_classify_retries_when_connection_closes(relay: Relay) -> None:
    with Client(relay.url, timeout=20) as client:
        results = client.classify([IMAGE], "tiny")
        relay.cut(refuse=1)
        assert client.classify([IMAGE], "tiny") == results


def test_models_retries_when_connection_closes(relay: Relay) -> None:
    with Client(relay.url, timeout=20) as client:
        models = client.models()
        relay.cut(refuse=1)
        assert client.models() == models


def test_infer_does_not_retry(relay: Relay) -> None:
    """Load generators must see every failure."""
    with Client(relay.url, timeout=20) as client:
        client.infer("tiny", IMAGE[None])
        relay.cut(refuse=1000)
        with pytest.raises(UnavailableError):
            client.infer("tiny", IMAGE[None])


def test_classify_fails_when_server_stays_away(relay: Relay) -> None:
    with Client(relay.url, timeout=20) as client:
        client.classify([IMAGE], "tiny")
        relay.cut(refuse=1000)
        with pytest.raises(UnavailableError):
            client.classify([IMAGE], "tiny")


def claim_endless_batch(http_url: str) -> int:
    """Send a request of 2^62 rows, which Triton 2.51 adds to a batch as 0 rows, and return the HTTP status."""
    given = {"name": "images", "datatype": "UINT8", "shape": [2**62, 8, 8, 3], "parameters": {"binary_data_size": 192}}
    head = json.dumps({"inputs": [given]}).encode()
    connection = HTTPConnection(urlsplit(http_url).netloc, timeout=20)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    connection.request("POST", "/v2/models/tiny/infer", head + bytes(192), headers)
    return connection.getresponse().status


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_classify_retries_when_batch_fails_because_of_another_request(
    tmp_path: Path, make_model: Callable[..., tuple[Path, Card]], protocol: str
) -> None:
    repository = Repository(tmp_path / "models")
    together = ServingConfig(max_batch_size=4, queue_delay_us=300_000, preferred_batch_sizes=(4,))
    repository.add("tiny", *make_model(), options=together)
    with (
        TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log")) as server,
        Client(getattr(server, f"{protocol}_url")) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        results = client.classify([IMAGE], "tiny")
        before = client.statistics("tiny")["inference_stats"].get("fail", {}).get("count", 0)
        abuse = pool.submit(claim_endless_batch, server.http_url)
        assert client.classify([IMAGE], "tiny") == results
        assert abuse.result() >= 400
        failed = client.statistics("tiny")["inference_stats"]["fail"]["count"] - before
    assert failed == 2, "both were in one batch, or the test shows nothing"
