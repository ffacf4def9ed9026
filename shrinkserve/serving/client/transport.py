"""Blocking connections to a server, over HTTP and over gRPC."""

from __future__ import annotations

import io
import select
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, Protocol, TypeVar

import grpc
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from shrinkserve.errors import RequestError
from shrinkserve.serving.client import grpc_codec, http_codec
from shrinkserve.serving.client.endpoint import Endpoint
from shrinkserve.serving.client.errors import Status, invalid_reply, request_error
from shrinkserve.serving.client.operations import Operation

T = TypeVar("T")
BLOCK = 1 << 20
"""Bytes of a reply that are read at a time."""


class Transport(Protocol):
    """Connections to one server; safe to share between threads."""

    def send(self, operation: Operation[T]) -> T:
        """Send one request and return the result of its reply.

        Raises:
            RequestError: no reply came in time, or it reports an error, or it is invalid.
        """
        ...

    def close(self) -> None:
        """Close the connections; requests that are running fail."""
        ...


def connect(endpoint: Endpoint) -> Transport:
    """Return the transport for an endpoint. It connects at the first request."""
    return HttpTransport(endpoint) if endpoint.http else GrpcTransport(endpoint)


class GrpcTransport:
    """Requests over one gRPC channel."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        options = grpc_codec.channel_options(endpoint)
        self._channel = (
            grpc.secure_channel(endpoint.address, grpc.ssl_channel_credentials(), options)
            if endpoint.tls
            else grpc.insecure_channel(endpoint.address, options)
        )
        self._stub = GRPCInferenceServiceStub(self._channel)

    def send(self, operation: Operation[T]) -> T:
        where = self._endpoint
        procedure, request = grpc_codec.encode(operation, where)
        headers = list(where.headers(operation).items())
        try:
            reply = getattr(self._stub, procedure)(request, timeout=where.timeout, metadata=headers)
        except grpc.RpcError as exc:
            raise grpc_codec.error(where.url, exc) from exc
        except ValueError as exc:  # the channel was closed meanwhile
            raise request_error(where.url, Status.UNAVAILABLE, str(exc)) from exc
        return grpc_codec.decode(operation, where.url, reply)

    def close(self) -> None:
        self._channel.close()


class HttpTransport:
    """HTTP/1.1 connections, as many as there are requests at the same time. Proxies are not used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = ssl.create_default_context() if endpoint.tls else None
        self._idle: deque[HTTPConnection] = deque()
        self._busy: set[HTTPConnection] = set()
        self._closed = False

    def send(self, operation: Operation[T]) -> T:
        url = self._endpoint.url
        request = http_codec.encode(operation, self._endpoint)
        connection = self._take()
        self._busy.add(connection)
        try:
            response, body = http_exchange(connection, request, time.monotonic() + self._endpoint.timeout)
        except (OSError, HTTPException, ReplyTooLongError) as exc:
            connection.close()
            raise _error(url, exc) from exc
        except BaseException:
            connection.close()  # the rest of the reply would be taken for that of the next request
            raise
        finally:
            self._busy.discard(connection)
        if response.will_close or self._closed:
            connection.close()
        else:
            self._idle.append(connection)
        return http_codec.decode(operation, url, response.status, response.getheader(http_codec.JSON_LENGTH), body)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        for connection in list(self._busy):
            sock = connection.sock  # None while it connects
            with suppress(OSError):
                if sock is not None:
                    sock.shutdown(socket.SHUT_RDWR)  # ends the read of its thread

    def _take(self) -> HTTPConnection:
        """Return an idle connection that the server has not closed, or a new one."""
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                connection = self._idle.pop()
                if not _readable(connection.sock):
                    return connection
                connection.close()
        where = self._endpoint
        if self._context is not None:
            return HTTPSConnection(where.host, where.port, timeout=where.timeout, context=self._context)
        return HTTPConnection(where.host, where.port, timeout=where.timeout)


def _readable(sock: socket.socket) -> bool:
    """Return True if there is something to read: on an idle connection, that the server has closed it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _TimedSocket:
    """Socket for `http.client` whose reads and writes together end at a deadline.

    A timeout of a socket limits each read only, so a reply that trickles would never time out.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, block: bytes) -> None:
        self._limit()
        self._sock.sendall(block)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - `http.client` only reads
        return io.BufferedReader(_TimedReader(self))

    def recv_into(self, buffer: Any) -> int:
        self._limit()
        return self._sock.recv_into(buffer)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        """Do nothing: `http.client` closes before it has read the last reply; `http_exchange` closes."""

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: _TimedSocket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._sock.recv_into(buffer)


def http_exchange(
    connection: HTTPConnection, request: http_codec.HttpRequest, deadline: float
) -> tuple[HTTPResponse, bytes]:
    """Send a request and read the reply.

    Raises:
        ReplyTooLongError: the body is longer than `request.limit`.
    """
    if connection.sock is None:
        connection.connect()
    plain = connection.sock
    connection.sock = _TimedSocket(plain, deadline)
    try:
        connection.request(request.method, request.path, request.body or None, request.headers)
        response = connection.getresponse()
        blocks, size = [], 0
        while block := response.read(BLOCK):
            blocks.append(block)
            size += len(block)
            if size > request.limit:
                raise ReplyTooLongError
        if response.length:
            raise ConnectionResetError("the reply ended early")
        return response, b"".join(blocks)
    finally:
        if connection.sock:
            connection.sock = plain
        else:
            plain.close()


class ReplyTooLongError(Exception):
    """The body of a reply is longer than its limit."""


def _error(url: str, exc: Exception) -> RequestError:
    """Return the `RequestError` for an exception of a connection."""
    if isinstance(exc, TimeoutError):
        return request_error(url, Status.LATE, "")
    if isinstance(exc, OSError | IncompleteRead):
        return request_error(url, Status.UNAVAILABLE, getattr(exc, "strerror", None) or str(exc) or type(exc).__name__)
    return invalid_reply(url, "it is too long" if isinstance(exc, ReplyTooLongError) else "it is not HTTP")
