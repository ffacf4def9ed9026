"""A server that sends whatever a test wants, and clients of a real one, over HTTP and over gRPC."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2

from shrinkserve.artifact import Card
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository import serving_options
from shrinkserve.serving.server.server import TritonServer

CARD = Card(
    "onnx", "cats_classifier", weights_sha256="0" * 64, preprocess=Preprocess(size=8).to_dict(), classes=["a", "b", "c"]
)


@dataclass
class FakeTriton:
    """Replies of a server with one classifier; tests change them."""

    config: pb.ModelConfig = field(default_factory=lambda: serving_options.build_config(CARD.name, CARD))
    statistics: list[dict[str, Any]] = field(default_factory=lambda: [{"name": CARD.name, "version": "1"}])
    outputs: dict[str, tuple[str, list[int], bytes]] = field(default_factory=dict)
    version: str = "1"
    raw: Callable[[str], bytes] | None = None
    """Path or procedure -> the whole body of the reply, instead of the above."""
    headers: dict[str, list[str]] = field(default_factory=dict)
    """Names of the headers of each request, by path or procedure."""
    before: Callable[[str], object] = lambda _: None
    """Called with the path or procedure before each reply."""
    guarded: bool = False
    """Refuse requests without a token."""
    peers: list[str] = field(default_factory=list)
    """Address of the connection of each request."""

    def __post_init__(self) -> None:
        self.set("probabilities", np.array([[0.25, 0.5, 0.25]], np.float32))
        self.set("logits", np.array([[1, 2, 3]], np.float32))

    def set(self, name: str, array: np.ndarray[Any, Any], datatype: str = "FP32") -> None:
        """Use an array as an output."""
        self.outputs[name] = (datatype, list(array.shape), array.tobytes())

    def http(self, path: str) -> tuple[bytes, int | None]:
        """Return the body of a reply over HTTP and the length of the JSON in it."""
        self.before(path)
        if self.raw is not None:
            return self.raw(path), None
        if path.endswith("/config"):
            return json_format.MessageToJson(self.config, preserving_proto_field_name=True).encode(), None
        if path.endswith("/stats"):
            return json.dumps({"model_stats": self.statistics}).encode(), None
        described = [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
            for name, (kind, shape, raw) in self.outputs.items()
        ]
        head = json.dumps({"model_version": self.version, "outputs": described}).encode()
        return head + b"".join(raw for _, _, raw in self.outputs.values()), len(head)

    def grpc(self, procedure: str) -> bytes:
        """Return a reply over gRPC."""
        self.before(procedure)
        if self.raw is not None:
            return self.raw(procedure)
        if procedure == "ModelConfig":
            return bytes(service_pb2.ModelConfigResponse(config=self.config).SerializeToString())
        if procedure == "ModelStatistics":
            found = json_format.ParseDict({"model_stats": self.statistics}, service_pb2.ModelStatisticsResponse())
            return bytes(found.SerializeToString())
        reply = service_pb2.ModelInferResponse(model_version=self.version)
        for name, (kind, shape, raw) in self.outputs.items():
            reply.outputs.add(name=name, datatype=kind, shape=shape)
            reply.raw_output_contents.append(raw)
        return bytes(reply.SerializeToString())

    def serve_http(self, context: ssl.SSLContext | None = None) -> AbstractContextManager[str]:
        """Serve over HTTP, with TLS if a context is given; gives the URL."""
        return serve_http(self, context)


@contextmanager
def serve_http(fake: FakeTriton, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve over HTTP and yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 20  # head and body in one packet

        def do_GET(self) -> None:
            fake.headers[self.path] = list(self.headers)
            fake.peers.append(str(self.client_address))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body, head = fake.http(self.path)
            refused = fake.guarded and "shrinkserve-token" not in self.headers
            if refused:
                body, head = b'{"error": "This API is restricted"}', None
            self.send_response(403 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            if head is not None:
                self.send_header("Inference-Header-Content-Length", str(head))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name is the base class's

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away are part of tests
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def serve_grpc(fake: FakeTriton) -> Iterator[str]:
    """Serve over gRPC and yield the URL."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            procedure = details.method.rpartition("/")[2]
            fake.headers[procedure] = [key for key, _ in details.invocation_metadata]

            def reply(_: bytes, context: Any) -> bytes:
                fake.peers.append(context.peer())
                if fake.guarded and not any("token" in key for key in fake.headers[procedure]):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
                return fake.grpc(procedure)

            return grpc.unary_unary_rpc_method_handler(reply)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def fake() -> FakeTriton:
    """Replies of `fake_url`."""
    return FakeTriton()


@pytest.fixture(params=["http", "grpc"])
def fake_url(request: pytest.FixtureRequest, fake: FakeTriton) -> Iterator[str]:
    """URL of a server with the replies of `fake`."""
    with ExitStack() as stack:
        yield stack.enter_context((serve_http if request.param == "http" else serve_grpc)(fake))


@pytest.fixture(scope="session")
def grpc_replies() -> dict[str, bytes]:
    """Return valid replies over gRPC by procedure."""
    return {name: FakeTriton().grpc(name) for name in ("ModelConfig", "ModelStatistics", "ModelInfer")}


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[Client]:
    """A client of a real server, over each protocol."""
    with Client(getattr(tiny_server, f"{request.param}_url")) as client:
        yield client
