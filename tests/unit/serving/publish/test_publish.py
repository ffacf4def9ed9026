from __future__ import annotations

import asyncio
import errno
import importlib.util
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from PIL import Image

from shrinkserve import atomic
from shrinkserve.artifact import Card, sha256_file
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine
from shrinkserve.errors import ArtifactError, ConfigError, GateError, ParityError, RequestError, ServerError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Images
from shrinkserve.serving import config_text
from shrinkserve.serving.client.async_client import AsyncClient
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.operations import InferRequest
from shrinkserve.serving.client.prediction import Prediction
from shrinkserve.serving.model_config import ENCODED, INPUT, PROBABILITIES
from shrinkserve.serving.names import CLASSIFIER
from shrinkserve.serving.publish import live
from shrinkserve.serving.publish.live import Live
from shrinkserve.serving.publish.publish import publish_version, roll_back_version
from shrinkserve.serving.publish.shadow import ShadowLimits
from shrinkserve.serving.repository import activation, lock
from shrinkserve.serving.repository.transaction import Change
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

MakeModel = Callable[..., tuple[Path, Card]]
ONE_INSTANCE = ServingConfig(max_batch_size=4, warmup=False)


@pytest.fixture
def source(make_model: MakeModel) -> Path:
    return written(*make_model(seed=1))


def written(model_file: Path, card: Card) -> Path:
    card.write(model_file.parent)
    return model_file.parent


def refused_source(make_model: MakeModel) -> Path:
    """Return a folder whose file has the right hash but is no model."""
    model_file, card = make_model(seed=9)
    model_file.write_bytes(b"no model")
    return written(model_file, replace(card, files={"model.onnx": sha256_file(model_file)}))


def state(repository: Repository, name: str) -> tuple[str, list[int]]:
    return repository.fingerprint(name), repository.versions(name)


def photos(count: int) -> list[bytes]:
    encoded = []
    for colour in np.random.default_rng(0).integers(0, 256, (count, 3), np.uint8):
        stream = io.BytesIO()
        Image.new("RGB", (20, 20), tuple(map(int, colour))).save(stream, "PNG")
        encoded.append(stream.getvalue())
    return encoded


def test_scratch_server_loads_version_first(tmp_path: Path, source: Path) -> None:
    repository, printed = Repository(tmp_path / "models"), []
    place = publish_version(repository, source, options=ONE_INSTANCE, say=printed.append)
    assert place == repository.root / "tiny" / "1"
    assert [line.split(":")[0].split()[0] for line in printed] == ["verified", "scratch", "published"]
    assert list(problems(repository, "tiny")) == []
    assert repository.config("tiny").max_batch_size == 4


def test_publish_rejects_graph_that_does_not_load(tmp_path: Path, source: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    publish_version(repository, source, scratch=False)
    before = {path: path.read_bytes() for path in (repository.root / "tiny").rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match=r"not a readable ONNX file|ONNX Runtime cannot load it"):
        publish_version(repository, refused_source(make_model), scratch=False)
    assert {path: path.read_bytes() for path in (repository.root / "tiny").rglob("*") if path.is_file()} == before


def test_publish_rejects_version_that_the_server_cannot_run(tmp_path: Path, source: Path) -> None:
    """The file is valid, but its configuration names a backend that does not exist."""
    repository = Repository(tmp_path / "models")
    publish_version(repository, source, scratch=False, options=ONE_INSTANCE)
    path = repository.root / "tiny" / "config.pbtxt"
    path.write_text(path.read_text().replace('backend: "onnxruntime"', 'backend: "no_such_backend"'))
    with pytest.raises(ServerError, match="no_such_backend"):
        publish_version(repository, source)
    assert repository.versions("tiny") == [1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"files": {"model.onnx": "0" * 64}}, ArtifactError, "sha256 does not match"),
        ({"files": {}}, ArtifactError, "does not name model.onnx"),
        ({"kind": "checkpoint"}, ArtifactError, "wrong kind of artifact"),
        ({"classes": ["only one"]}, ArtifactError, "number of classes: expected 1 as its card says, found 4"),
        ({"checks": [{"step": "onnx", "passed": False}]}, ParityError, r"records a failed check \(onnx\)"),
    ],
)
def test_publish_rejects_inconsistent_source(
    tmp_path: Path,
    make_model: MakeModel,
    change: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    model_file, card = make_model(seed=2)
    with pytest.raises(error, match=message):
        publish_version(Repository(tmp_path / "models"), written(model_file, replace(card, **change)))  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Iterator[TritonServer]:
    root = tmp_path_factory.mktemp("live") / "models"
    Repository(root).add("tiny", *make_model(seed=0), options=ONE_INSTANCE)
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(root, ServerOptions(log_file=log)) as server:
        yield server


@pytest.mark.parametrize("live", [True, False])
def test_publish_rejects_source_that_changes_meanwhile(live_server: TritonServer, source: Path, live: bool) -> None:
    repository = Repository(live_server.repository)
    before = state(repository, "tiny")

    def swap(line: str) -> None:
        if line.startswith("verified"):
            (source / "model.onnx").write_bytes(b"another file")

    with Client(live_server.grpc_url) as client:
        wanted = Live(client) if live else None
        with pytest.raises(ArtifactError, match=r"changed while it is published|sha256 does not match"):
            publish_version(repository, source, live=wanted, scratch=False, say=swap)
        assert client.models() == ["tiny"]
    assert state(repository, "tiny") == before


def test_publish_rejects_external_weights(tmp_path: Path, make_model: MakeModel) -> None:
    model_file, card = make_model(seed=2)
    (model_file.parent.parent / "secret").write_bytes(bytes(48))
    model = onnx.load(model_file)
    (weight,) = (one for one in model.graph.initializer if one.name == "weight")
    onnx.external_data_helper.set_external_data(weight, "../secret")
    weight.ClearField("raw_data")
    model_file.write_bytes(model.SerializeToString())
    folder = written(model_file, replace(card, files={"model.onnx": sha256_file(model_file)}))
    with pytest.raises(ArtifactError, match=r"escapes model directory|its weights are outside its folder"):
        publish_version(Repository(tmp_path / "models"), folder)


def test_publish_rejects_name_of_a_candidate(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match=r"one that does not end in \.candidate, found tiny\.candidate"):
        publish_version(Repository(tmp_path / "models"), source, name="tiny.candidate")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_live_comparison_gate_and_rollback(live_server: TritonServer, source: Path, protocol: str) -> None:
    repository, printed = Repository(live_server.repository), []
    with Client(getattr(live_server, f"{protocol}_url")) as client:
        active = client.model_info("tiny").version
        refusing = Live(client, photos(12), ShadowLimits(flips=0.0))
        with pytest.raises(GateError, match=r"of the predictions differ, at most 0\.00%"):
            publish_version(repository, source, live=refusing, scratch=False)
        assert (client.model_info("tiny").version, client.models()) == (active, ["tiny"])
        place = publish_version(repository, source, live=Live(client, photos(12)), scratch=False, say=printed.append)
        assert client.model_info("tiny").version == int(place.name) > active
        assert any(line.startswith("compared on 12 requests:") for line in printed)
        assert roll_back_version(repository, "tiny", active, Live(client)) == active
        assert client.model_info("tiny").version == repository.active("tiny") == active
        assert client.models() == ["tiny"], "the candidate is gone"


def test_failed_live_load_restores_the_old_version(
    live_server: TritonServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails: Triton cannot load the version after its folder is in place."""
    repository = Repository(live_server.repository)
    before = state(repository, "tiny")
    commit = Change.commit

    def commit_and_damage(change: Change, *, hidden: Collection[str] = ()) -> None:
        commit(change, hidden=hidden)
        newest = max(repository.versions("tiny"))
        (repository.root / f"tiny/{newest}/model.onnx").unlink()
        (repository.root / f"tiny/{newest}/model.onnx").write_bytes(b"damaged after it was checked")

    monkeypatch.setattr(Change, "commit", commit_and_damage)
    with Client(live_server.grpc_url) as client:
        active = client.model_info("tiny").version
        with pytest.raises(RequestError, match="load failed"):
            publish_version(repository, source, live=Live(client), scratch=False)
        assert client.model_info("tiny").version == active
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
    assert state(repository, "tiny") == before


def test_publish_compares_the_engine_that_the_server_runs(tmp_path: Path, make_model: MakeModel) -> None:
    """The server runs an engine whose predictions differ from those of ``model.onnx``."""
    int8 = Engine("int8", "onnxruntime", "model.int8.onnx", "int8")
    folders = []
    for seed in (0, 1):
        model_file, card = make_model(seed=seed)
        shutil.copyfile(make_model(seed=50 + seed)[0], model_file.with_name(int8.file))
        files = {**card.files, int8.file: sha256_file(model_file.with_name(int8.file))}
        folders.append(written(model_file, replace(card, files=files, details={"engines": {"int8": engine_of(int8)}})))
    repository = Repository(tmp_path / "models")
    publish_version(repository, folders[0], options=ONE_INSTANCE, scratch=False)
    options = ServerOptions(engine="int8", log_file=tmp_path / "log")
    images = np.full((1, 8, 8, 3), 99, np.uint8)
    tried: list[int] = []
    with TritonServer(repository.root, options) as server, Client(server.grpc_url) as client:

        def say(line: str) -> None:
            if "warmed up" in line:
                tried.append(client.model_info("tiny.candidate").max_batch_size)

        live, two = Live(client, photos(4)), ServingConfig(max_batch_size=2)
        place = publish_version(repository, folders[1], options=two, live=live, scratch=False, say=say)
        assert tried == [2], "the candidate has the options that the version gets"
        assert (client.model_info("tiny").precision, client.model_info("tiny").version) == ("int8", 2)
        expected = OnnxModel(place / int8.file).predict(images)
        np.testing.assert_allclose(client.infer("tiny", images)[0], expected, rtol=1e-5)
        assert roll_back_version(repository, "tiny", None, Live(client)) == 1
        printed: list[str] = []
        without = written(*make_model(seed=9))
        publish_version(repository, without, live=Live(client, photos(4)), scratch=False, say=printed.append)
        assert "version 3 is served in float32 (before: int8)" in "\n".join(printed)
        roll_back_version(repository, "tiny", 2, Live(client), printed.append)
        assert "version 2 is served in int8 (before: float32)" in printed[-1]


def engine_of(engine: Engine) -> dict[str, object]:
    return {key: value for key, value in engine.to_dict().items() if value}


def test_publish_rejects_server_of_another_repository(
    live_server: TritonServer, source: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    elsewhere = Repository(tmp_path / "models")
    elsewhere.add("tiny", *make_model(seed=3), version=40)
    with Client(live_server.grpc_url) as client, pytest.raises(RequestError, match="does not serve this repos"):
        publish_version(elsewhere, source, live=Live(client), scratch=False)
    assert elsewhere.versions("tiny") == [40]


def test_rollback_rejects_missing_versions(tmp_path: Path, source: Path) -> None:
    repository = Repository(tmp_path / "models")
    publish_version(repository, source, scratch=False)
    with pytest.raises(ConfigError, match="no version before 1"):
        roll_back_version(repository, "tiny")
    with pytest.raises(ConfigError, match="no such version: expected one of 1, found 7"):
        roll_back_version(repository, "tiny", 7)


def test_publish_accepts_public_and_classifier_name(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add("tiny_classifier", *make_model(0))
    place = publish_version(repository, written(*make_model(1)), name="tiny", scratch=False)
    assert place == repository.root / "tiny_classifier" / "2"
    assert roll_back_version(repository, "tiny") == 1


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_client_follows_version_with_another_contract(
    live_server: TritonServer, make_model: MakeModel, protocol: str
) -> None:
    """A version with another image size and other classes is published between two calls of one client."""
    repository = Repository(live_server.repository)
    url = getattr(live_server, f"{protocol}_url")
    sources = photos(9)

    async def across(publish_next: Callable[[], object]) -> list[list[Prediction]]:
        async with AsyncClient(url) as client:
            predictions = [await client.classify(sources, "tiny")]
            await asyncio.to_thread(publish_next)
            return [*predictions, await client.classify(sources, "tiny")]

    def publish_next(size: int, classes: int) -> None:
        source = written(*make_model(seed=size, size=size, classes=classes))
        with Client(url) as owner:
            publish_version(repository, source, live=Live(owner), scratch=False)

    with Client(url) as client:
        first = client.classify(sources, "tiny")
        publish_next(16, 7)
        second = client.classify(sources, "tiny")
        assert {label for label, _ in second} != {label for label, _ in first}
        assert client.model_info("tiny").preprocess.size == 16
    assert asyncio.run(across(lambda: publish_next(8, 4)))[0] == second
    with Client(url) as client:
        assert client.model_info("tiny").preprocess.size == 8


def test_rollback_does_not_wait_for_a_version_that_is_tried_out(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    for seed in (0, 1):
        repository.add("tiny", *make_model(seed))
    publisher = Repository(repository.root)
    with publisher.locked(lock.PUBLISH):
        assert roll_back_version(Repository(repository.root, wait=0), "tiny") == 1
        with pytest.raises(ArtifactError, match="another publisher is still at work"):
            publish_version(Repository(repository.root, wait=0), written(*make_model(2)), scratch=False)


def test_publish_refuses_repository_that_changed_meanwhile(
    live_server: TritonServer, source: Path, make_model: MakeModel
) -> None:
    repository = Repository(live_server.repository)
    number = repository.active("tiny")

    def change(line: str) -> None:
        if "loaded and warmed up" in line:
            Repository(repository.root).configure("tiny", ServingConfig(max_batch_size=3, warmup=False))

    with Client(live_server.grpc_url) as client:
        with pytest.raises(ArtifactError, match="was changed while the new version was tried out"):
            publish_version(repository, source, live=Live(client), scratch=False, say=change)
        assert client.model_info("tiny").version == repository.active("tiny") == number
    repository.configure("tiny", ONE_INSTANCE)


def test_refused_version_is_undone_on_a_full_disk(
    live_server: TritonServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the live server refuses the version: undoing it writes nothing."""
    repository = Repository(live_server.repository)
    before = state(repository, "tiny")

    def refuse(*_: object) -> str:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "mkdir", full)
        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr(Path, "write_bytes", full)
        for module in (atomic, config_text, activation):
            monkeypatch.setattr(module, "write_atomic", full)
        raise RequestError("the server refuses")

    with Client(live_server.grpc_url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(live, "confirm_version", refuse)
            with pytest.raises(RequestError, match="the server refuses"):
                publish_version(repository, source, live=Live(client), scratch=False)
        monkeypatch.undo()
        assert state(repository, "tiny") == before
        assert client.model_info("tiny").version == repository.active("tiny")


def test_error_of_undoing_is_a_note_of_the_first_error(
    live_server: TritonServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(live_server.repository)

    def refuse(client: Client, *_: object) -> str:
        monkeypatch.setattr(client, "load", lambda *_: (_ for _ in ()).throw(RequestError("the server is gone")))
        raise ParityError("it predicts differently")

    monkeypatch.setattr(live, "confirm_version", refuse)
    with (
        Client(live_server.grpc_url) as client,
        pytest.raises(ParityError, match="it predicts differently") as caught,
    ):
        publish_version(repository, source, live=Live(client), scratch=False)
    (note,) = getattr(caught.value, "__notes__")  # noqa: B009 - Python 3.10 does not declare it
    assert "the server is gone" in note
    monkeypatch.undo()
    with Client(live_server.grpc_url) as client:
        client.load("tiny")


TRY_OUT = """
import sys, time
from pathlib import Path
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.publish.live import Live
from shrinkserve.serving.publish.publish import publish_version
from shrinkserve.serving.repository.writer import Repository

def stay(line):
    if "loaded and warmed up" in line:
        print(line, flush=True)
        time.sleep(600)

root, source, url = sys.argv[1:]
with Client(url) as client:
    publish_version(Repository(Path(root)), Path(source), live=Live(client), scratch=False, say=stay)
"""


def test_candidate_of_a_killed_publisher_disappears(live_server: TritonServer, source: Path) -> None:
    command = [sys.executable, "-c", TRY_OUT, str(live_server.repository), str(source), live_server.grpc_url]
    with triton.InferenceServerClient(live_server.grpc_url.removeprefix("grpc://")) as client:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline()
            assert client.is_model_ready("tiny.candidate")
            publisher.kill()
        for _ in range(600):
            if not client.is_model_ready("tiny.candidate"):
                break
            time.sleep(0.1)
        assert not client.is_model_ready("tiny.candidate")
        assert client.is_model_ready("tiny")


PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.publish.live import Live
from shrinkserve.serving.publish.publish import publish_version
from shrinkserve.serving.repository.writer import Repository

root, source, url = sys.argv[1:]
with Client(url) as client:
    live = Live(client)
    while True:
        publish_version(Repository(Path(root)), Path(source), live=live, scratch=False, say=lambda _: print(flush=True))
"""


def test_killed_publisher_leaves_a_loadable_repository(
    live_server: TritonServer, source: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    """The publisher is killed at random moments. The server goes on, and the next publisher does not have to wait."""
    repository = Repository(live_server.repository)
    command = [sys.executable, "-c", PUBLISH_FOR_EVER, str(repository.root), str(source), live_server.grpc_url]
    with Client(live_server.grpc_url) as client:
        rng = random.Random()
        for steps, delay in ((rng.randint(1, 4), rng.uniform(0, 0.3)) for _ in range(8)):
            with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
                assert publisher.stdout is not None
                for _ in range(steps):
                    assert publisher.stdout.readline()
                time.sleep(delay)
                publisher.kill()
            assert list(problems(repository, "tiny")) == []
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        place = publish_version(repository, source, live=Live(client), scratch=False)
        assert client.model_info("tiny").version == int(place.name)
        assert client.models() == ["tiny"]
    with (
        TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log")) as fresh,
        Client(fresh.http_url) as client,
    ):
        assert client.model_info("tiny").version == int(place.name)


class Traffic:
    """Requests that are sent all the time until `stop`, their replies and errors.

    Args:
        url: of the server.
        model: its name.
        under_way: number of concurrent requests.
        images: input of each request.
    """

    def __init__(self, url: str, model: str, under_way: int, images: Images) -> None:
        self.replies: Counter[tuple[int, bytes]] = Counter()
        self.errors: list[BaseException] = []
        self._done = threading.Event()
        asked = InferRequest(model, images, {PROBABILITIES: 0}, tensor=ENCODED if images.ndim == 2 else INPUT)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all(url, asked, under_way)))
        self._thread.start()

    async def _all(self, url: str, asked: InferRequest, under_way: int) -> None:
        async with AsyncClient(url) as client:
            await asyncio.gather(*(self._ask(client, asked) for _ in range(under_way)))

    async def _ask(self, client: AsyncClient, asked: InferRequest) -> None:
        while not self._done.is_set():
            try:
                reply = await client.send(asked)
                self.replies[reply.version, reply.tensors[PROBABILITIES].tobytes()] += 1
            except BaseException as exc:  # noqa: BLE001 - any of them is a failed request
                self.errors.append(exc)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def test_no_request_fails_while_versions_come_and_go(tmp_path: Path, make_model: MakeModel) -> None:
    """Publish four versions and reject a bad one, with 100 concurrent requests over each protocol.

    Every reply must have the predictions of the version that it names. If the server decodes, the reply names none, and
    must have the predictions of one of the versions.
    """
    decodes = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    name, photo = f"tiny{CLASSIFIER}", photos(1)[0]
    pixels = Preprocess(size=8).evaluate_bytes(photo)[None]
    repository = Repository(tmp_path / "models")
    repository.add(name, *make_model(seed=0), options=ONE_INSTANCE, encoded=decodes)
    right = {1: OnnxModel(repository.root / name / "1" / "model.onnx").infer(pixels)[PROBABILITIES]}
    with (
        TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log")) as server,
        Client(server.grpc_url) as client,
    ):
        urls = (server.http_url, server.grpc_url)
        traffic = [Traffic(url, name, 100, pixels) for url in urls]
        if decodes:
            traffic += [Traffic(url, "tiny", 4, np.frombuffer(photo, np.uint8)[None]) for url in urls]
        try:
            for seed in range(20, 24):
                source = written(*make_model(seed=seed))
                place = publish_version(repository, source, name=name, live=Live(client), scratch=False)
                right[int(place.name)] = OnnxModel(source / "model.onnx").infer(pixels)[PROBABILITIES]
                if seed == 21:
                    with pytest.raises(ArtifactError):
                        publish_version(
                            repository, refused_source(make_model), name=name, live=Live(client), scratch=False
                        )
        finally:
            for one in traffic:
                one.stop()
    assert [error for one in traffic for error in one.errors] == []
    assert all(sum(one.replies.values()) > 300 for one in traffic[:2])
    for version, reply in (entry for one in traffic[:2] for entry in one.replies):
        np.testing.assert_allclose(np.frombuffer(reply, np.float32), right[version][0], rtol=1e-5)
    for _, reply in (entry for one in traffic[2:] for entry in one.replies):
        apart = [float(np.abs(np.frombuffer(reply, np.float32) - one[0]).max()) for one in right.values()]
        assert min(apart) < 0.02
