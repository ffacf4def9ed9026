"""Address of a server and how to connect to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from shrinkserve.errors import ConfigError
from shrinkserve.serving.client.operations import Operation
from shrinkserve.serving.names import RESTRICTED_KEY

_URL = re.compile(
    r"(?P<scheme>https?|(?P<grpc>grpcs?))://(?P<host>[\w.-]+|\[[\w.:%-]+\]):(?P<port>\d{1,5})(?P<path>(/[\w.~%/-]*)?)",
    re.ASCII | re.IGNORECASE,
)
MAX_TIMEOUT = 1e6
"""Longest timeout in seconds. gRPC cannot represent much longer ones."""


@dataclass(frozen=True)
class Endpoint:
    """Address of a server and how to connect to it.

    Attributes:
        url: as the user wrote it.
        scheme: ``http``, ``https``, ``grpc`` or ``grpcs``.
        host: host name or IP address, IPv6 without brackets.
        port: TCP port.
        path: prefix of all paths over HTTP, without a slash at its end.
        timeout: seconds that one request may take.
        token: sent with restricted requests only.
        shared_memory: send images in system shared memory.
        restricted: kinds of requests that need the token at this server, besides those that always do.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str = ""
    timeout: float = 60.0
    token: str | None = field(default=None, repr=False)
    shared_memory: bool = False
    restricted: set[type] = field(default_factory=set, compare=False)

    @property
    def http(self) -> bool:
        """Return True for HTTP and False for gRPC."""
        return self.scheme in {"http", "https"}

    @property
    def tls(self) -> bool:
        """Return True if the connection is encrypted."""
        return self.scheme in {"https", "grpcs"}

    @property
    def local(self) -> bool:
        """Return True if the host is this machine's loopback."""
        return is_loopback(self.host)

    @property
    def address(self) -> str:
        """Return ``HOST:PORT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def restrict(self, request: Operation[Any]) -> bool:
        """Send the token with this kind of request from now on; return False if it was sent already or is missing."""
        if self.token is None or request.restricted or type(request) in self.restricted:
            return False
        self.restricted.add(type(request))
        return True

    def headers(self, request: Operation[Any]) -> dict[str, str]:
        """Return the header with the token for a restricted request, and none for others."""
        if self.token is None or not (request.restricted or type(request) in self.restricted):
            return {}
        return {RESTRICTED_KEY if self.http else f"triton-grpc-protocol-{RESTRICTED_KEY}": self.token}


def parse_url(
    url: str, timeout: float, token: str | None = None, *, shared_memory: bool = False, insecure: bool = False
) -> Endpoint:
    """Parse and check the options of a connection.

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT``, ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT``. Over HTTP a
            path may follow, for a server behind a proxy.
        timeout: seconds that one request may take.
        token: for the requests that the server restricts.
        shared_memory: send images in system shared memory.
        insecure: allow sending the token without TLS to another machine.

    Raises:
        ConfigError: the URL, the timeout or the token is invalid, or the token would be readable on the network.
    """
    if "@" in url:  # would otherwise appear in messages and reports
        raise ConfigError("server URL: contains a user name or password", hint="give http://HOST:PORT and --token")
    found = _URL.fullmatch(url)
    if found is None or not 0 < int(found["port"]) < 2**16 or (found["grpc"] and found["path"] not in {"", "/"}):
        raise ConfigError("server URL", expected="http://HOST:PORT or grpc://HOST:PORT", found=repr(url)[:200])
    if not 0 < timeout <= MAX_TIMEOUT:  # false for NaN, too
        raise ConfigError("timeout", expected=f"more than 0 s and at most {MAX_TIMEOUT:.0f} s", found=timeout)
    host, port, path = found["host"].strip("[]"), int(found["port"]), found["path"].rstrip("/")
    endpoint = Endpoint(url, found["scheme"].lower(), host, port, path, timeout, token, shared_memory)
    if token is not None:
        _check_token(endpoint, token, insecure=insecure)
    if shared_memory and not endpoint.local:
        raise ConfigError("shared memory", expected="a server on this machine's loopback", found=url)
    return endpoint


def is_loopback(host: str) -> bool:
    """Return True if a host name or an IP address is this machine's loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_token(endpoint: Endpoint, token: str, *, insecure: bool) -> None:
    if not re.fullmatch(r"[!-~]{1,1000}", token):  # others cannot be sent in a header
        raise ConfigError("token", expected="1 to 1000 ASCII characters without spaces", found="something else")
    if not (endpoint.tls or endpoint.local or insecure):
        raise ConfigError(
            f"token: would be sent to {endpoint.host} without TLS",
            expected="https://, grpcs:// or a server on this machine",
            found=endpoint.url,
            hint="use TLS, or allow it with --insecure",
        )
