from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError, GateError, ParityError, RequestError, ServerError
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.aio import AsyncClient
from shrinkserve.serving.classify import Prediction
from shrinkserve.serving.client import Client
from shrinkserve.serving.model_config import LOGITS, PROBABILITIES
from shrinkserve.serving.publish import Live, publish, roll_back
from shrinkserve.serving.repository import Repository
from shrinkserve.serving.server import ServerOptions, TritonServer
from shrinkserve.serving.shadow import Limits
from shrinkserve.serving.transport import Question
from shrinkserve.serving.verification import problems

MakeModel = Callable[..., tuple[Path, Card]]
ONE_INSTANCE = ServingConfig(max_batch_size=4, warmup=False)


@pytest.fixture
def source(make_model: MakeModel) -> Path:
    return written(*make_model(seed=1))


def written(model_file: Path, card: Card) -> Path:
    card.write(model_file.parent)
    return model_file.parent


def refused_source(make_model: MakeModel) -> Path:
    """A version of another shape than its configuration: whole as a file, and not loadable."""
    model_file, card = make_model(seed=9)
    model_file.write_bytes(b"no model")
    return written(model_file, replace(card, files={"model.onnx": sha256_file(model_file)}))


def photos(count: int) -> list[bytes]:
    encoded = []
    for colour in np.random.default_rng(0).integers(0, 256, (count, 3), np.uint8):
        stream = io.BytesIO()
        Image.new("RGB", (20, 20), tuple(map(int, colour))).save(stream, "PNG")
        encoded.append(stream.getvalue())
    return encoded


def test_a_scratch_server_tries_it_first(tmp_path: Path, source: Path) -> None:
    repository, said = Repository(tmp_path / "models"), []
    place = publish(repository, source, options=ONE_INSTANCE, say=said.append)
    assert place == repository.root / "tiny" / "1"
    assert [line.split(":")[0].split()[0] for line in said] == ["verified", "scratch", "published"]
    assert list(problems(repository, "tiny")) == []
    assert repository.config("tiny").max_batch_size == 4


def test_a_version_that_does_not_load_is_refused(tmp_path: Path, source: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    publish(repository, source, scratch=False)
    before = {path: path.read_bytes() for path in repository.root.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        publish(repository, refused_source(make_model), scratch=False)
    assert {path: path.read_bytes() for path in repository.root.rglob("*") if path.is_file()} == before


def test_a_server_that_cannot_run_it_refuses(tmp_path: Path, source: Path) -> None:
    """The file is sound, and the choice of how to run it is not."""
    repository = Repository(tmp_path / "models")
    publish(repository, source, scratch=False, options=ONE_INSTANCE)
    path = repository.root / "tiny" / "config.pbtxt"
    path.write_text(path.read_text().replace('backend: "onnxruntime"', 'backend: "no_such_backend"'))
    with pytest.raises(ServerError, match="no_such_backend"):
        publish(repository, source)
    assert repository.versions("tiny") == [1]


@pytest.mark.parametrize(
    ("change", "fault", "message"),
    [
        ({"files": {"model.onnx": "0" * 64}}, ArtifactError, "sha256 does not match"),
        ({"files": {}}, ArtifactError, "does not name model.onnx"),
        ({"kind": "checkpoint"}, ArtifactError, "another kind of artifact"),
        ({"classes": ["only one"]}, ArtifactError, "number of classes: expected 1 as its card says, found 4"),
        ({"checks": [{"step": "onnx", "passed": False}]}, ParityError, r"records a failed check \(onnx\)"),
    ],
)
def test_a_source_that_does_not_hold_together(
    tmp_path: Path,
    make_model: MakeModel,
    change: dict[str, object],
    fault: type[Exception],
    message: str,
) -> None:
    model_file, card = make_model(seed=2)
    with pytest.raises(fault, match=message):
        publish(Repository(tmp_path / "models"), written(model_file, replace(card, **change)))  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Iterator[TritonServer]:
    root = tmp_path_factory.mktemp("live") / "models"
    Repository(root).add("tiny", *make_model(seed=0), options=ONE_INSTANCE)
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(root, ServerOptions(log_file=log)) as server:
        yield server


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_live_comparison_gates_and_rollback(live_server: TritonServer, source: Path, protocol: str) -> None:
    repository, said = Repository(live_server.repository), []
    with Client(getattr(live_server, f"{protocol}_url")) as client:
        active = client.contract("tiny").version
        refusing = Live(client, photos(12), Limits(flips=0.0))
        with pytest.raises(GateError, match=r"of the answers differ, at most 0\.00% may"):
            publish(repository, source, live=refusing, scratch=False)
        assert (client.contract("tiny").version, client.models()) == (active, ["tiny"])
        place = publish(repository, source, live=Live(client, photos(12)), scratch=False, say=said.append)
        assert client.contract("tiny").version == int(place.name) > active
        assert any(line.startswith("compared on 12 requests:") for line in said)
        assert roll_back(repository, "tiny", active, Live(client)) == active
        assert client.contract("tiny").version == repository.active("tiny") == active
        assert client.models() == ["tiny"], "the candidate is gone"


def test_live_load_failure_brings_the_old_version_back(
    live_server: TritonServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails, after the version was renamed in: what Triton then loads is no model any more."""
    repository = Repository(live_server.repository)
    before = repository.snapshot("tiny")
    assert before is not None
    add = Repository.add

    def add_and_damage(self: Repository, name: str, *arguments: object, **options: object) -> Path:
        place = add(self, name, *arguments, **options)  # type: ignore[arg-type]
        if self.root == repository.root:
            (place / "model.onnx").unlink()
            (place / "model.onnx").write_bytes(b"damaged after it was checked")
        return place

    monkeypatch.setattr(Repository, "add", add_and_damage)
    with Client(live_server.grpc_url) as client:
        active = client.contract("tiny").version
        with pytest.raises(RequestError, match="load failed"):
            publish(repository, source, live=Live(client), scratch=False)
        assert client.contract("tiny").version == active
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
    assert repository.snapshot("tiny") == before


def test_a_server_of_another_repository_is_noticed(
    live_server: TritonServer, source: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    elsewhere = Repository(tmp_path / "models")
    elsewhere.add("tiny", *make_model(seed=3), version=40)
    with Client(live_server.grpc_url) as client, pytest.raises(RequestError, match="does not answer from this repos"):
        publish(elsewhere, source, live=Live(client), scratch=False)
    assert elsewhere.versions("tiny") == [40]


def test_rollback_needs_a_version(tmp_path: Path, source: Path) -> None:
    repository = Repository(tmp_path / "models")
    publish(repository, source, scratch=False)
    with pytest.raises(ConfigError, match="no version before 1"):
        roll_back(repository, "tiny")
    with pytest.raises(ConfigError, match="no such version: expected one of 1, found 7"):
        roll_back(repository, "tiny", 7)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_client_follows_a_version_of_another_contract(
    live_server: TritonServer, make_model: MakeModel, protocol: str
) -> None:
    """Another image size and other classes, published between two calls of one client."""
    repository = Repository(live_server.repository)
    url = getattr(live_server, f"{protocol}_url")
    sources = photos(9)

    async def across(publish_next: Callable[[], object]) -> list[list[Prediction]]:
        async with AsyncClient(url) as client:
            answers = [await client.classify(sources, "tiny")]
            await asyncio.to_thread(publish_next)
            return [*answers, await client.classify(sources, "tiny")]

    def publish_next(size: int, classes: int) -> None:
        source = written(*make_model(seed=size, size=size, classes=classes))
        with Client(url) as owner:
            publish(repository, source, live=Live(owner), scratch=False)

    with Client(url) as client:
        first = client.classify(sources, "tiny")
        publish_next(16, 7)
        second = client.classify(sources, "tiny")
        assert {label for label, _ in second} != {label for label, _ in first}
        assert client.contract("tiny").preprocess.size == 16
    assert asyncio.run(across(lambda: publish_next(8, 4)))[0] == second
    with Client(url) as client:
        assert client.contract("tiny").preprocess.size == 8


PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
from shrinkserve.serving.client import Client
from shrinkserve.serving.publish import Live, publish
from shrinkserve.serving.repository import Repository

root, source, url = sys.argv[1:]
with Client(url) as client:
    live = Live(client)
    while True:
        publish(Repository(Path(root)), Path(source), live=live, scratch=False, say=lambda line: print(flush=True))
"""


def test_a_killed_publisher_leaves_a_repository_that_loads(
    live_server: TritonServer, source: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    """Killed at several places of its way; the server answers on, the next publisher is not held up."""
    repository = Repository(live_server.repository)
    command = [sys.executable, "-c", PUBLISH_FOR_EVER, str(repository.root), str(source), live_server.grpc_url]
    with Client(live_server.grpc_url) as client:
        for steps, delay in ((1, 0.01), (2, 0.0), (2, 0.2), (3, 0.0), (4, 0.03)):
            with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
                assert publisher.stdout is not None
                for _ in range(steps):
                    assert publisher.stdout.readline()
                time.sleep(delay)
                publisher.kill()
            assert list(problems(repository, "tiny")) == []
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        place = publish(repository, source, live=Live(client), scratch=False)
        assert client.contract("tiny").version == int(place.name)
        assert client.models() == ["tiny"]
    with (
        TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log")) as fresh,
        Client(fresh.http_url) as client,
    ):
        assert client.contract("tiny").version == int(place.name)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_no_request_fails_while_versions_come_and_go(live_server: TritonServer, make_model: MakeModel) -> None:
    """Ten versions are published and a bad one is refused, under load over both protocols.

    Every answer must be one of the versions' own, by the version that the server says it is from.
    """
    repository = Repository(live_server.repository)
    image = np.full((1, 8, 8, 3), 200, np.uint8)
    image[..., 1] = 30
    active = repository.active("tiny")
    right = {active: OnnxModel(repository.root / "tiny" / str(active) / "model.onnx").answer(image)}
    answers: Counter[tuple[int, bytes]] = Counter()
    faults: list[BaseException] = []
    done = threading.Event()

    def ask(url: str) -> None:
        with Client(url) as client:
            while not done.is_set():
                try:
                    reply = client.ask(Question("tiny", image, {LOGITS: 0, PROBABILITIES: 0}))
                    answers[reply.version, reply.tensors[LOGITS].tobytes()] += 1
                except BaseException as fault:  # noqa: BLE001 - any of them is a failed request
                    faults.append(fault)

    urls = [live_server.http_url, live_server.grpc_url] * 2
    threads = [threading.Thread(target=ask, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    try:
        with Client(live_server.grpc_url) as client:
            for seed in range(20, 30):
                source = written(*make_model(seed=seed))
                place = publish(repository, source, live=Live(client), scratch=False)
                right[int(place.name)] = OnnxModel(source / "model.onnx").answer(image)
                if seed == 24:
                    with pytest.raises(ArtifactError):
                        publish(repository, refused_source(make_model), live=Live(client), scratch=False)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults
    assert sum(answers.values()) > 1000
    for version, logits in answers:
        np.testing.assert_allclose(np.frombuffer(logits, np.float32), right[version][0], rtol=1e-5)
