from __future__ import annotations

import socket

import pytest

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving.server.addresses import Address, free_addresses, resolve_host, resolves_to_loopback


@pytest.mark.parametrize(
    ("host", "http", "grpc", "authority"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1:80"),
        ("::1", "ipv6:::1", "[::1]", "[::1]:80"),
    ],
)
def test_each_service_of_triton_gets_the_form_that_it_reads(host: str, http: str, grpc: str, authority: str) -> None:
    address = Address(host, 80)
    assert address.authority == authority
    assert address.arguments("http") == [f"--http-address={http}", "--http-port=80"]
    assert address.arguments("metrics") == [f"--metrics-address={http}", "--metrics-port=80"]
    assert address.arguments("grpc") == [f"--grpc-address={grpc}", "--grpc-port=80"]


def test_host_names_are_resolved() -> None:
    assert resolve_host("localhost") == "127.0.0.1"
    assert resolve_host("::1") == "::1"
    for host in ("no-such-host.invalid", "a" * 300, "a\nb"):
        with pytest.raises(ServerError):
            resolve_host(host)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)],
)
def test_resolves_to_loopback_for_local_hosts_only(host: str, loopback: bool) -> None:
    assert resolves_to_loopback(host) is loopback
    assert not resolves_to_loopback("no-such-host.invalid")


def test_free_ports_are_different_and_can_be_bound() -> None:
    hosts = {"http": "127.0.0.1", "grpc": "127.0.0.1", "metrics": "::1"}
    chosen = free_addresses(hosts, {"http": 0, "grpc": 0, "metrics": 0})  # type: ignore[arg-type]
    assert len({address.port for address in chosen.values()}) == 3
    with socket.create_server(("127.0.0.1", chosen["http"].port)):
        pass


def test_free_addresses_rejects_one_port_for_two_services() -> None:
    hosts = {"http": "127.0.0.1", "grpc": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match="given twice"):
        free_addresses(hosts, {"http": port, "grpc": port})  # type: ignore[arg-type]
