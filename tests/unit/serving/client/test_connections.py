"""Connections after a fork, with proxies in the environment, over TLS, and at the end of threads and processes."""

from __future__ import annotations

import asyncio
import pickle
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shrinkserve import AsyncClient, Client
from shrinkserve.errors import DataError, RequestError
from shrinkserve.serving.client.errors import UnavailableError

IMAGE = np.zeros((8, 8, 3), np.uint8)


def run(program: str, url: str) -> str:
    """Run a Python program with the URL as argument and return its output."""
    command = [sys.executable, "-c", f"import sys\nfrom shrinkserve import Client\nimport numpy as np\n{program}", url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"])
def test_proxy_is_not_used_on_this_machine(fake_url: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")

    async def ask() -> Any:
        async with AsyncClient(fake_url) as client:
            return await client.classify([IMAGE])

    with Client(fake_url) as client:
        assert client.classify([IMAGE]) == asyncio.run(ask())


FORK = """
import multiprocessing, os
images = [np.zeros((8, 8, 3), np.uint8)] * 40
def child():
    print("child", *(label for label, _ in {client}.classify(images[:2])), flush=True)
used = Client(sys.argv[1], timeout=20)
used.classify(images)
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
print("parent", *(label for label, _ in used.classify(images[:2])), process.exitcode)
used.close()
"""


@pytest.mark.parametrize("client", ["used", "Client(sys.argv[1], timeout=20)"])
def test_client_works_in_a_forked_child(fake: Any, fake_url: str, client: str) -> None:
    fake.config.max_batch_size = 0  # one image per request
    assert run(FORK.format(client=client), fake_url) == "child b b\nparent b b 0\n"


def test_forked_child_opens_a_connection(fake: Any, fake_url: str) -> None:
    program = FORK.format(client="used").replace("* 40", "* 1")
    assert run(program, fake_url) == "child b\nparent b 0\n"
    *_, before, child, after = fake.peers
    assert child != before == after


def test_client_works_after_the_main_thread_has_ended(fake: Any, fake_url: str) -> None:
    fake.config.max_batch_size = 0
    program = """
import threading
def late():
    threading.main_thread().join()
    with Client(sys.argv[1]) as client:
        print(*(label for label, _ in client.classify([np.zeros((8, 8, 3), np.uint8)] * 3)))
threading.Thread(target=late).start()
"""
    assert run(program, fake_url) == "b b b\n"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closed_clients_leave_no_open_files(fake_url: str) -> None:
    with Client(fake_url) as client:
        client.classify([IMAGE])
    before = open_files()
    for _ in range(50):
        with Client(fake_url) as client:
            client.classify([IMAGE])
    assert open_files() <= before + 5  # connections that the server has not closed yet


def test_threads_leave_no_open_files(fake_url: str) -> None:
    with Client(fake_url) as client:
        client.classify([IMAGE])
        before = open_files()
        for _ in range(50):
            thread = threading.Thread(target=client.classify, args=([IMAGE],))
            thread.start()
            thread.join()
        assert open_files() <= before + 5


def test_closed_client_is_refused(fake_url: str) -> None:
    client = Client(fake_url)
    client.classify([IMAGE])
    client.close()
    client.close()
    for call in (lambda: client.classify([IMAGE]), lambda: client.infer("cats", IMAGE[None]), client.models):
        with pytest.raises(RequestError, match="closed"):
            call()


def test_closed_async_client_is_refused(fake_url: str) -> None:
    async def ask() -> None:
        client = AsyncClient(fake_url)
        await client.classify([IMAGE])
        await client.close()
        await client.models()

    with pytest.raises(RequestError, match="closed"):
        asyncio.run(ask())


def test_close_ends_running_requests(fake: Any, fake_url: str) -> None:
    started, release = threading.Event(), threading.Event()

    def stall(_: str) -> None:
        started.set()
        release.wait(30)

    fake.before = stall
    client = Client(fake_url, timeout=600)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            client.models()
        except RequestError as exc:
            errors.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    assert started.wait(20)
    client.close()
    thread.join(20)
    release.set()
    assert [type(exc) for exc in errors] == [UnavailableError]


def test_async_client_works_in_a_forked_child(fake_url: str) -> None:
    program = """
import asyncio, os
from shrinkserve import AsyncClient
async def ask():
    async with AsyncClient(sys.argv[1], timeout=20) as client:
        return (await client.classify([np.zeros((8, 8, 3), np.uint8)]))[0].label
print("parent", asyncio.run(ask()), flush=True)
if os.fork() == 0:
    print("child", asyncio.run(ask()), flush=True)
    os._exit(0)
os.wait()
"""
    assert run(program, fake_url) == "parent b\nchild b\n"


def test_async_client_works_in_several_event_loops_at_once(fake_url: str) -> None:
    client = AsyncClient(fake_url)
    labels: list[str] = []

    async def ask() -> None:
        for _ in range(5):
            labels.extend(label for label, _ in await client.classify([IMAGE]))
        await client._transport().close()

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels == ["b"] * 20


def test_async_client_works_in_a_second_event_loop(fake_url: str) -> None:
    client = AsyncClient(fake_url)

    async def ask() -> str:
        return (await client.classify([IMAGE]))[0].label

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["b", "b"]


def test_async_client_rejects_asynchronous_sources(fake_url: str) -> None:
    async def sources() -> Any:
        yield IMAGE

    async def ask() -> None:
        async with AsyncClient(fake_url) as client:
            await client.classify(sources())  # type: ignore[arg-type]

    with pytest.raises(DataError, match="list"):
        asyncio.run(ask())


def test_client_cannot_be_pickled() -> None:
    with Client("grpc://127.0.0.1:1") as client, pytest.raises(TypeError, match="each process"):
        pickle.dumps(client)


def test_interrupt_does_not_wait_for_replies(fake: Any, fake_url: str) -> None:
    stalled, release = threading.Event(), threading.Event()
    fake.config.max_batch_size = 0

    def stall(path: str) -> None:
        if "infer" in path.lower():
            stalled.set()
            release.wait(60)

    fake.before = stall
    program = (
        "import sys, numpy as np; from shrinkserve import Client\n"
        "with Client(sys.argv[1], timeout=600) as client:\n"
        "    client.classify([np.zeros((8, 8, 3), np.uint8)] * 8)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, fake_url], stderr=subprocess.PIPE)
    assert stalled.wait(30)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    release.set()
    assert b"KeyboardInterrupt" in errors


@pytest.fixture
def tls_url(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an HTTP server with a certificate that this process trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with fake.serve_http(context) as url:
        yield url


def test_client_accepts_trusted_certificate(tls_url: str) -> None:
    async def ask() -> Any:
        async with AsyncClient(tls_url) as client:
            return [await client.classify([IMAGE]) for _ in range(3)]

    with Client(tls_url, token="only-for-friends") as client:
        assert [client.classify([IMAGE]) for _ in range(3)] == asyncio.run(ask())


def test_client_rejects_untrusted_certificate(tls_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    async def ask() -> None:
        async with AsyncClient(tls_url) as client:
            await client.models()

    with Client(tls_url) as client:
        for call in (client.models, lambda: asyncio.run(ask())):
            with pytest.raises(UnavailableError, match="not trusted"):
                call()


def test_client_reports_https_to_server_without_tls(fake_url: str) -> None:
    if fake_url.startswith("http"):
        with Client(fake_url.replace("http", "https")) as client, pytest.raises(RequestError) as caught:
            client.models()
        assert "check the URL" in str(caught.value)


def shared_regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("shrinkserve-*")}


def test_shared_memory_of_a_server_that_stands_still_is_removed(fake: Any, fake_url: str) -> None:
    before, release, asked = shared_regions(), threading.Event(), []

    def stall(path: str) -> None:
        if "unregister" in path.lower():
            asked.append(path)
            release.wait(30)

    fake.before = stall
    with Client(fake_url, timeout=0.5, shared_memory=True) as client:
        threads = [threading.Thread(target=client.classify, args=([IMAGE],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    release.set()
    assert shared_regions() == before
    assert len(asked) <= 1
