"""Addresses and ports of a server: resolved and checked before Triton sees them.

Triton takes a host name for 255.255.255.255 in HTTP and metrics, and each of its services writes IPv6 differently.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from shrinkserve.errors import ConfigError, ServerError

ServiceName = Literal["http", "grpc", "metrics"]


@dataclass(frozen=True)
class Address:
    """A numeric IPv4 or IPv6 address and a port."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Return ``HOST:PORT`` as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def arguments(self, service: ServiceName) -> list[str]:
        """Return tritonserver's arguments for a service that listens here."""
        host = self.host
        if ":" in host:
            host = f"[{host}]" if service == "grpc" else f"ipv6:{host}"
        return [f"--{service}-address={host}", f"--{service}-port={self.port}"]


def resolve_host(host: str) -> str:
    """Return the numeric address of a host name or address of this machine.

    Raises:
        ServerError: an unknown name.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or "not a host name"
        raise ServerError(f"--host {host}: {reason}", hint="give an address of this machine") from exc
    found.sort(key=lambda one: one[0] != socket.AF_INET)  # localhost is often both; clients try IPv4
    return str(found[0][4][0])


def resolves_to_loopback(host: str) -> bool:
    """Return True for an address, or a name of addresses, that only this machine reaches."""
    try:
        return ip_address(resolve_host(host).partition("%")[0]).is_loopback
    except ServerError:
        return False


def free_addresses(hosts: Mapping[ServiceName, str], ports: Mapping[ServiceName, int]) -> dict[ServiceName, Address]:
    """Choose a free port for each 0, and check all ports by binding them for a moment.

    Args:
        hosts: numeric address by service.
        ports: port by service.

    Raises:
        ConfigError: one port for two services.
        ServerError: an address or port that cannot be bound.
    """
    chosen: dict[ServiceName, Address] = {}
    with ExitStack() as bound:
        for service, port in sorted(ports.items(), key=lambda item: item[1] == 0):
            if port and any(port == other.port for other in chosen.values()):
                raise ConfigError(f"--{service}-port: {port} is given twice", expected="a port for each service")
            host = hosts[service]
            try:
                family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                listener = bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            except OSError as exc:
                raise _unbindable(service, Address(host, port), exc) from exc
            chosen[service] = Address(host, int(listener.getsockname()[1]))
    return chosen


def _unbindable(service: str, address: Address, error: OSError) -> ServerError:
    if error.errno == errno.EADDRINUSE:
        hint = f"stop the program that uses it, or give another --{service}-port; 0 chooses a free one"
    elif error.errno == errno.EACCES:
        hint = f"give a --{service}-port above 1023"
    else:
        hint = "give an address of this machine (--host)"
    where = address.authority if address.port else address.host
    return ServerError(f"{where} cannot be bound for {service} ({error.strerror})", hint=hint)
