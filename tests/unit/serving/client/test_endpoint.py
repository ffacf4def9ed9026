from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shrinkserve import AsyncClient, Client
from shrinkserve.artifact import Card
from shrinkserve.cli import main
from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.serving.client.endpoint import is_loopback, parse_url
from shrinkserve.serving.client.errors import RestrictedError
from shrinkserve.serving.client.grpc_codec import channel_options
from shrinkserve.serving.client.operations import ReadyRequest, UnloadRequest

TOKEN = "only-for-friends"


@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("http://host:8000", "host:8000", ""),
        ("https://host.example:443/triton/", "host.example:443", "/triton"),
        ("grpc://[::1]:8001", "[::1]:8001", ""),
        ("grpcs://10.0.0.1:1/", "10.0.0.1:1", ""),
    ],
)
def test_parse_url_splits_address_and_path(url: str, address: str, path: str) -> None:
    endpoint = parse_url(url, 1)
    assert (endpoint.address, endpoint.path) == (address, path)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_does_not_use_a_proxy(host: str) -> None:
    assert is_loopback(host)
    url = f"grpc://[{host}]:1" if ":" in host else f"grpc://{host}:1"
    assert ("grpc.enable_http_proxy", 0) in channel_options(parse_url(url, 1))


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "0.0.0.0", "localhost.example.com", ""])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("url", ["http://10.0.0.1:1", "grpc://triton.example:1"])
def test_token_is_not_sent_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigError, match="--insecure") as caught:
        Client(url, token=TOKEN)
    assert TOKEN not in str(caught.value)
    Client(url, token=TOKEN, insecure=True).close()


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1:1", "grpcs://triton.example:1", "http://127.0.0.1:1", "grpc://[::1]:1"]
)
def test_token_is_sent_with_tls_or_to_this_machine(url: str) -> None:
    endpoint = parse_url(url, 1, TOKEN)
    assert list(endpoint.headers(UnloadRequest("cats")).values()) == [TOKEN]
    assert endpoint.headers(ReadyRequest()) == {}


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä", "x" * 2000])
def test_token_that_no_header_can_contain_is_rejected(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        Client("grpc://127.0.0.1:1", token=token)


def test_token_is_sent_with_restricted_requests_only(fake: Any, fake_url: str) -> None:
    with Client(fake_url, token=TOKEN) as client:
        client.models()
        client.model_info("cats")
        with suppress(RequestError):
            client.load("cats")
        with suppress(RequestError):
            client.unload("cats")
    sent = {name: any("shrinkserve-token" in key.lower() for key in keys) for name, keys in fake.headers.items()}
    assert [restricted for name, restricted in sent.items() if "load" in name.lower()] == [True, True]
    assert sum(sent.values()) == 2


def test_token_is_sent_with_what_the_server_refuses_without_it(fake: Any, fake_url: str) -> None:
    fake.guarded = True
    image = np.zeros((8, 8, 3), np.uint8)

    async def ask() -> Any:
        async with AsyncClient(fake_url, token=TOKEN) as client:
            return await client.classify([image])

    with Client(fake_url, token=TOKEN) as client:
        assert client.classify([image]) == asyncio.run(ask())
        requests = len(fake.peers)
        client.classify([image])
        assert len(fake.peers) == requests + 1
    with Client(fake_url) as client, pytest.raises(RestrictedError):
        client.classify([image])


def test_token_is_not_in_the_representation() -> None:
    assert TOKEN not in repr(parse_url("http://127.0.0.1:1", 1, TOKEN))


def test_path_of_the_url_is_used(fake: Any, fake_url: str) -> None:
    if fake_url.startswith("http"):
        with Client(f"{fake_url}/behind/proxy") as client:
            client.models()
        assert list(fake.headers) == ["/behind/proxy/v2/models/stats"]


@pytest.mark.parametrize("command", [["publish", "SOURCE"], ["rollback", "cats"]])
def test_advice_about_the_token_can_be_followed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], make_model: Callable[..., tuple[Path, Card]]
) -> None:
    """With --insecure the command goes on to the next reason why it cannot work here."""
    path, card = make_model()
    card.write(path.parent)
    words = [word.replace("SOURCE", str(path.parent)) for word in command]
    words += ["--repository", str(tmp_path), "--url", "grpc://203.0.113.77:1", "--token", TOKEN]
    assert main(["repo", *words]) == 2
    assert "--insecure" in capsys.readouterr().err
    assert main(["repo", *words, "--insecure", "--wait", "nan"]) == 2
    assert "--insecure" not in capsys.readouterr().err
