"""Connections to a server for asyncio, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, TypeVar

import aiohttp
import grpc
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from shrinkserve.serving.client import grpc_codec, http_codec
from shrinkserve.serving.client.endpoint import Endpoint
from shrinkserve.serving.client.errors import Status, invalid_reply, request_error
from shrinkserve.serving.client.operations import Operation

T = TypeVar("T")


class AsyncTransport(Protocol):
    """Connections to one server for the running event loop; the counterpart of `Transport`."""

    async def send(self, operation: Operation[T]) -> T: ...

    async def close(self) -> None: ...


def connect(endpoint: Endpoint) -> AsyncTransport:
    """Return the transport for an endpoint and the running event loop. It connects at the first request."""
    return AsyncHttpTransport(endpoint) if endpoint.http else AsyncGrpcTransport(endpoint)


class AsyncGrpcTransport:
    """Requests over one gRPC channel."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        options = grpc_codec.channel_options(endpoint)
        self._channel = (
            grpc.aio.secure_channel(endpoint.address, grpc.ssl_channel_credentials(), options)
            if endpoint.tls
            else grpc.aio.insecure_channel(endpoint.address, options)
        )
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def send(self, operation: Operation[T]) -> T:
        where = self._endpoint
        procedure, request = grpc_codec.encode(operation, where)
        headers = list(where.headers(operation).items())
        try:
            reply = await getattr(self._stub, procedure)(request, timeout=where.timeout, metadata=headers)
        except grpc.RpcError as exc:
            raise grpc_codec.error(where.url, exc) from exc
        return grpc_codec.decode(operation, where.url, reply)

    async def close(self) -> None:
        await self._channel.close()


class AsyncHttpTransport:
    """HTTP/1.1 connections. Proxies are not used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # aiohttp's own context does not see a SSL_CERT_FILE that is set after its import.
        context = ssl.create_default_context() if endpoint.tls else True
        self._session = aiohttp.ClientSession(
            f"{endpoint.scheme}://{endpoint.address}",
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            auto_decompress=False,  # a short reply must not become a long one
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
        )

    async def send(self, operation: Operation[T]) -> T:
        url = self._endpoint.url
        request = http_codec.encode(operation, self._endpoint)
        try:
            async with self._session.request(
                request.method, request.path, data=request.body or None, headers=request.headers, allow_redirects=False
            ) as response:
                blocks, size = [], 0
                async for block in response.content.iter_any():
                    blocks.append(block)
                    size += len(block)
                    if size > request.limit:
                        response.close()
                        raise invalid_reply(url, "it is too long")
        except (TimeoutError, asyncio.TimeoutError) as exc:  # two classes before Python 3.11
            raise request_error(url, Status.LATE, "") from exc
        except ssl.SSLCertVerificationError as exc:
            raise request_error(url, Status.UNAVAILABLE, str(exc)) from exc
        except aiohttp.ClientResponseError as exc:  # among others, bytes that are not HTTP
            raise invalid_reply(url, "it is not HTTP") from exc
        except (OSError, aiohttp.ClientError) as exc:
            raise request_error(url, Status.UNAVAILABLE, getattr(exc, "strerror", None) or str(exc)) from exc
        head_length = response.headers.get(http_codec.JSON_LENGTH)
        return http_codec.decode(operation, url, response.status, head_length, b"".join(blocks))

    async def close(self) -> None:
        await self._session.close()
