"""Replies that a client must not trust."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve import AsyncClient, Client
from shrinkserve.errors import RequestError, ShrinkServeError
from shrinkserve.serving.client import grpc_codec, http_codec
from shrinkserve.serving.client.errors import InvalidReplyError, LateError, UnavailableError
from shrinkserve.serving.client.model_info import from_config
from shrinkserve.serving.client.operations import (
    ConfigRequest,
    InferRequest,
    InferResult,
    Operation,
    ReadyRequest,
    StatisticsRequest,
)
from shrinkserve.serving.client.prediction import Prediction, labelled
from shrinkserve.serving.model_config import ENCODED

IMAGE = np.zeros((8, 8, 3), np.uint8)
FakeTriton = Any  # of conftest
WANTED = InferRequest("cats", IMAGE[None], {"probabilities": 0})
REQUESTS: list[Operation[Any]] = [ReadyRequest(), ConfigRequest("cats"), StatisticsRequest(), WANTED]


def test_fake_server_is_understood(fake_url: str) -> None:
    with Client(fake_url) as client:
        assert client.classify([IMAGE]) == [Prediction("b", 0.5)]


def changed_preprocess(fake: FakeTriton, **values: object) -> None:
    parameter = fake.config.parameters["shrinkserve.preprocess"]
    parameter.string_value = json.dumps({**json.loads(parameter.string_value), **values})


def set_parameter(fake: FakeTriton, name: str, text: str) -> None:
    fake.config.parameters[f"shrinkserve.{name}"].string_value = text


CONFIGS: dict[str, Callable[[FakeTriton], object]] = {
    "other model": lambda fake: setattr(fake.config, "name", "dogs_classifier"),
    "huge input": lambda fake: fake.config.input[0].dims.__setitem__(slice(None), [100000, 100000, 3]),
    "no input": lambda fake: fake.config.ClearField("input"),
    "no output": lambda fake: fake.config.ClearField("output"),
    "other class count": lambda fake: fake.config.output[1].dims.__setitem__(0, 9),
    "no version": lambda fake: fake.config.ClearField("version_policy"),
    "version 0": lambda fake: fake.config.version_policy.specific.versions.__setitem__(0, 0),
    "negative batch size": lambda fake: setattr(fake.config, "max_batch_size", -5),
    "huge batch size": lambda fake: setattr(fake.config, "max_batch_size", 2**31 - 1),
    "huge picture": lambda fake: changed_preprocess(fake, size=40000),
    "picture of size 0": lambda fake: changed_preprocess(fake, size=0),
    "size that is text": lambda fake: changed_preprocess(fake, size="8"),
    "negative crop": lambda fake: changed_preprocess(fake, crop_fraction=-1),
    "unknown filter": lambda fake: changed_preprocess(fake, interpolation="evil"),
    "edited preprocessing": lambda fake: changed_preprocess(fake, crop_fraction=0.5),
    "preprocessing is a list": lambda fake: set_parameter(fake, "preprocess", "[1]"),
    "preprocessing is deep": lambda fake: set_parameter(fake, "preprocess", "[" * 100_000),
    "classes are no list": lambda fake: set_parameter(fake, "classes", '{"a": 1}'),
    "classes are numbers": lambda fake: set_parameter(fake, "classes", "[1, 2, 3]"),
    "no classes": lambda fake: set_parameter(fake, "classes", "[]"),
    "classes are no JSON": lambda fake: set_parameter(fake, "classes", "a, b"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_invalid_configuration_is_refused(fake: FakeTriton, fake_url: str, case: str) -> None:
    CONFIGS[case](fake)
    with Client(fake_url, timeout=20) as client, pytest.raises(RequestError) as caught:
        client.classify([IMAGE])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def row(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([values], np.float32)


TENSORS: dict[str, Callable[[FakeTriton], object]] = {
    "NaN": lambda fake: fake.set("probabilities", row(np.nan, 0.5, 0.5)),
    "infinity": lambda fake: fake.set("probabilities", row(np.inf, 0, 0)),
    "negative": lambda fake: fake.set("probabilities", row(-0.5, 1, 0.5)),
    "above 1": lambda fake: fake.set("probabilities", row(7, 0, 0)),
    "two rows": lambda fake: fake.set("probabilities", np.full((2, 3), 0.3, np.float32)),
    "no rows": lambda fake: fake.set("probabilities", np.empty((0, 3), np.float32)),
    "nine classes": lambda fake: fake.set("probabilities", np.full((1, 9), 0.1, np.float32)),
    "one dimension": lambda fake: fake.set("probabilities", np.full(3, 0.3, np.float32)),
    "float64": lambda fake: fake.set("probabilities", np.full((1, 3), 0.3), "FP64"),
    "unknown type": lambda fake: fake.set("probabilities", row(1, 0, 0), "FP8"),
    "type of another size": lambda fake: fake.set("probabilities", row(1, 0, 0), "INT64"),
    "other output": lambda fake: fake.outputs.__setitem__("images", fake.outputs.pop("probabilities")),
    "no outputs": lambda fake: fake.outputs.clear(),
    "version that is no number": lambda fake: setattr(fake, "version", "x"),
    "huge shape": lambda fake: fake.outputs.__setitem__("probabilities", ("FP32", [2**40, 2**40], b"")),
    "negative shape": lambda fake: fake.outputs.__setitem__("probabilities", ("FP32", [-1, -3], bytes(12))),
    "broken strings": lambda fake: fake.outputs.__setitem__("probabilities", ("BYTES", [1], b"\xff\xff\xff\xffa")),
}


@pytest.mark.parametrize("case", TENSORS)
def test_invalid_outputs_are_refused(fake: FakeTriton, fake_url: str, case: str) -> None:
    TENSORS[case](fake)
    with Client(fake_url, timeout=20) as client, pytest.raises(InvalidReplyError):
        client.classify([IMAGE])


@pytest.mark.parametrize("statistics", [[{"version": "1"}], [{"name": "cats"}], [{"name": "cats", "version": "x"}]])
def test_invalid_statistics_are_refused(fake: FakeTriton, fake_url: str, statistics: list[dict[str, str]]) -> None:
    fake.statistics = statistics
    with Client(fake_url, timeout=20) as client, pytest.raises(InvalidReplyError):
        client.models()


@pytest.mark.parametrize(
    "entry", [b"", b"0.5", b"0.5:1", b"0.5:1:", b"x:1:cat", b"nan:1:cat", b"5:1:cat", b"0.5:1:caf\xe9"]
)
def test_invalid_labels_are_refused(entry: bytes) -> None:
    with pytest.raises(InvalidReplyError):
        labelled("http://host:1", http_codec.InferResult({"probabilities": np.array([[entry]], object)}, 1))


def test_labels_without_windows_line_ends_and_mark() -> None:
    entries = np.array([[b"0.7:1:a: b\r", "0.3:0:\ufeffc".encode()]], object)
    found = labelled("http://host:1", http_codec.InferResult({"probabilities": entries}, 1))
    assert found == [Prediction("a: b", 0.7), Prediction("c", 0.3)]


def test_strings_in_json_are_refused() -> None:
    """A server that ignores the flag for binary data sends them so."""
    output = {"name": "probabilities", "datatype": "BYTES", "shape": [1, 1], "data": ["0.5:1:cat"]}
    body = json.dumps({"model_version": "1", "outputs": [output]}).encode()
    with pytest.raises(InvalidReplyError):
        http_codec.decode(
            InferRequest("cats", IMAGE, {"probabilities": 1}, tensor=ENCODED), "http://host:1", 200, None, body
        )


RESULTS = {
    ReadyRequest: bool,
    ConfigRequest: grpc_codec.pb.model__config__pb2.ModelConfig,
    StatisticsRequest: list,
    InferRequest: InferResult,
}


def accepted_or_refused(request: Operation[Any], decode: Callable[[], Any]) -> None:
    """Check that a decoder returns what its request promises, or raises an error of one short line."""
    message = ""
    try:
        result = decode()
        if isinstance(request, ConfigRequest):
            from_config(result)
    except ShrinkServeError as exc:
        message = str(exc)
    if message:
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
        return
    assert isinstance(result, RESULTS[type(request)])
    if isinstance(request, InferRequest):
        assert result.tensors.keys() == request.outputs.keys()
        assert all(isinstance(tensor, np.ndarray) for tensor in result.tensors.values())


@given(
    st.binary(max_size=300), st.sampled_from(REQUESTS), st.one_of(st.none(), st.text(max_size=5)), st.integers(100, 599)
)
def test_http_decoder_accepts_or_refuses_any_bytes(
    body: bytes, request: Operation[Any], head: str | None, status: int
) -> None:
    accepted_or_refused(request, lambda: http_codec.decode(request, "http://host:1", status, head, body))


KEYS = [
    "outputs",
    "name",
    "datatype",
    "shape",
    "parameters",
    "binary_data_size",
    "model_version",
    "model_stats",
    "version",
    "input",
    "dims",
    "max_batch_size",
    "version_policy",
    "specific",
    "error",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from(REQUESTS), st.sampled_from([200, 400, 500]))
def test_http_decoder_accepts_or_refuses_any_json(value: object, request: Operation[Any], status: int) -> None:
    body = json.dumps(value).encode()
    accepted_or_refused(request, lambda: http_codec.decode(request, "http://host:1", status, None, body))


@given(st.data(), st.sampled_from(["cut", "flip", "insert"]))
def test_grpc_decoder_accepts_or_refuses_damaged_messages(
    grpc_replies: dict[str, bytes], data: st.DataObject, how: str
) -> None:
    request, procedure, kind = data.draw(
        st.sampled_from(
            [
                (ConfigRequest("cats"), "ModelConfig", grpc_codec.pb.ModelConfigResponse),
                (StatisticsRequest(), "ModelStatistics", grpc_codec.pb.ModelStatisticsResponse),
                (WANTED, "ModelInfer", grpc_codec.pb.ModelInferResponse),
            ]
        )
    )
    raw = bytearray(grpc_replies[procedure])
    at = data.draw(st.integers(0, len(raw) - 1))
    if how == "cut":
        del raw[at:]
    elif how == "flip":
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        raw[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        reply = kind.FromString(bytes(raw))
    except DecodeError:  # protobuf refuses it before the decoder sees it
        return
    accepted_or_refused(request, lambda: grpc_codec.decode(request, "grpc://host:1", reply))


@contextmanager
def pouring(head: bytes, block: bytes) -> Iterator[tuple[str, list[int]]]:
    """Service that sends a head and then blocks without end; yields its URL and the list of the numbers of bytes."""
    sent: list[int] = []

    def pour(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(head)
            while True:
                connection.sendall(block)
                sent.append(len(block))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=pour, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
        listener.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "body": (OK + b"\r\n", bytes(1 << 20)),
    "body with a length": (OK + b"Content-Length: 10000000000\r\n\r\n", bytes(1 << 20)),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
    "one header": (OK + b"X: ", bytes(1 << 20)),
    "headers": (OK, b"X: y\r\n" * 10000),
    "no line end": (b"", b"x" * (1 << 20)),
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_reply_without_end_is_cut_off(kind: str, asynchronous: bool) -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout=20) as client:
            await client.model_info("cats")

    def ask_sync(url: str) -> None:
        with Client(url, timeout=20) as client:
            client.model_info("cats")

    with pouring(*ENDLESS[kind]) as (url, sent):
        with pytest.raises((InvalidReplyError, LateError)):
            asyncio.run(ask(url)) if asynchronous else ask_sync(url)
        assert sum(sent) < 3 * http_codec.MAX_METADATA


def test_reply_that_is_compressed_is_not_unpacked() -> None:
    import gzip

    body = gzip.compress(b'{"model_stats": []}')
    head = OK + f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout=20) as client:
            await client.models()

    with pouring(head, b" ") as (url, _), pytest.raises(InvalidReplyError):
        asyncio.run(ask(url))


def test_error_of_a_server_is_one_short_line() -> None:
    body = json.dumps({"error": "\x1b[2J bad\nthing\x07 " + "x" * 10000}).encode()
    with pytest.raises(RequestError) as caught:
        http_codec.decode(ConfigRequest("cats"), "http://host:1", 500, None, body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@contextmanager
def scripted(*replies: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Service that sends a reply for each request; yields its URL and the list of the requests' first lines."""
    asked: list[bytes] = []
    rest = iter(replies)

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while request := connection.recv(1 << 16):
                asked.append(request.partition(b"\r\n")[0])
                connection.sendall(next(rest, b""))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


def ask_both(url: str, error: type[RequestError] | None = None, timeout: float = 20) -> list[list[str]]:
    """Ask for the models with both clients; with `error`, expect it."""

    async def ask() -> list[str]:
        async with AsyncClient(url, timeout=timeout) as client:
            return await client.models()

    def ask_sync() -> list[str]:
        with Client(url, timeout=timeout) as client:
            return client.models()

    found = []
    for call in (ask_sync, lambda: asyncio.run(ask())):
        if error is None:
            found.append(call())
        else:
            with pytest.raises(error):
                call()
    return found


MODELS = b'{"model_stats": [{"name": "cats", "version": "1"}]}'
PLAIN = OK + b"Content-Length: %d\r\n\r\n" % len(MODELS) + MODELS


def test_reply_in_chunks_is_accepted() -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in MODELS) + b"0\r\n\r\n"
    with scripted(*[OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks] * 2) as (url, _):
        assert ask_both(url) == [["cats"]] * 2


def test_redirection_is_not_followed() -> None:
    with scripted(PLAIN) as (elsewhere, asked):
        head = (
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + elsewhere.encode() + b"/v2/models/stats\r\n\r\n"
        )
        with scripted(head, head) as (url, _):
            ask_both(url, InvalidReplyError)
        assert asked == []


def test_reply_that_announces_another_one_is_late() -> None:
    with scripted(*[b"HTTP/1.1 100 Continue\r\n\r\n" * 10] * 2) as (url, asked):
        ask_both(url, LateError, timeout=0.3)
    assert asked == [b"GET /v2/models/stats HTTP/1.1"] * 2, "no client takes it for the reply and asks again"


def test_bytes_after_a_reply_are_not_taken_for_the_next_one() -> None:
    forged = OK + b"Content-Length: 19\r\n\r\n" + b'{"model_stats": []}'
    with scripted(PLAIN + forged, PLAIN) as (url, _), Client(url) as client:
        assert [client.models(), client.models()] == [["cats"], ["cats"]]


def test_reply_that_ends_early_is_not_used() -> None:
    with scripted(*[OK + b"Content-Length: 19\r\n\r\n" + b'{"model'] * 2) as (url, asked):
        ask_both(url, LateError, timeout=0.3)
    assert len(asked) == 2
    cut = OK + b"Content-Length: 100\r\nConnection: close\r\n\r\n" + MODELS
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(1 << 16)
                    connection.sendall(cut)
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        ask_both(f"http://127.0.0.1:{listener.getsockname()[1]}", UnavailableError)
        listener.shutdown(socket.SHUT_RDWR)
