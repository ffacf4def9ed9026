from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.prediction import best, chunks, in_order
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import TritonServer


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[Client]:
    with Client(getattr(tiny_server, f"{request.param}_url")) as client:
        yield client


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(11):
        colour = rng.integers(0, 256, 3, np.uint8)
        pixels = np.broadcast_to(colour, (20 + index, 31, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return sorted(folder.iterdir())


def expected(repository: Repository, photos: list[Path]) -> list[tuple[str, float]]:
    session = onnxruntime.InferenceSession(repository.root / "tiny" / "1" / "model.onnx")
    images = np.stack([Preprocess(size=8).evaluate(Image.open(path)) for path in photos])
    (rows,) = session.run(["probabilities"], {"images": images})
    classes = repository.card("tiny", 1).classes
    return [(classes[row.argmax()], pytest.approx(row.max(), rel=1e-5)) for row in rows]


def test_paths_bytes_and_arrays_give_the_same(client: Client, tiny_repository: Repository, photos: list[Path]) -> None:
    answers = client.classify(photos, "tiny")
    assert answers == expected(tiny_repository, photos)
    assert len({label for label, _ in answers}) > 1
    assert client.classify([path.read_bytes() for path in photos], "tiny") == answers
    assert client.classify([np.asarray(Image.open(path)) for path in photos], "tiny") == answers
    assert client.classify([str(path) for path in photos], "tiny") == answers


def test_one_image_is_no_list_of_images(client: Client, photos: list[Path]) -> None:
    """A path's letters and an image's bytes can be iterated over, too."""
    for one in (photos[0], str(photos[0]), photos[0].read_bytes()):
        with pytest.raises(DataError, match=r"images: expected a list .*, found one \(.+\); write \[image\]"):
            client.classify(one, "tiny")  # type: ignore[arg-type]


def test_rank_is_best_first(client: Client, photos: list[Path]) -> None:
    for ranked in client.rank(photos, "wide", top=7):
        probabilities = [probability for _, probability in ranked]
        assert len(ranked) == 7
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    assert all(len(ranked) == 4 for ranked in client.rank(photos, "tiny", top=7))


def test_a_bad_image_fails_alone_in_a_stream(client: Client, photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff not a picture")
    sources = [*photos[:2], bad, tmp_path / "missing.png", photos[2], np.zeros((4, 4), np.uint8), b""]
    outcomes = list(client.stream(sources, "tiny", top=1))
    assert [outcome.name for outcome in outcomes] == [*map(str, sources[:5]), "image 5", "image 6"]
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False, True, False, False]
    assert [o.predictions[0] for o in outcomes if o.predictions] == client.classify(photos[:3], "tiny")
    with pytest.raises(DataError, match=r"bad\.jpg: not an image"):
        client.classify(sources, "tiny")


def test_a_stream_of_bad_images_only(client: Client) -> None:
    assert [type(outcome.error) for outcome in client.stream([b"x", b"y"], "tiny")] == [DataError, DataError]
    assert client.classify([], "tiny") == []


def test_stream_takes_images_as_it_needs_them(client: Client, photos: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[0]

    stream = client.stream(endless(), "tiny", workers=2)
    next(stream)
    stream.close()
    assert taken <= 4 * (2 + 1)


def test_the_model_may_be_left_out_when_there_is_one(client: Client, photos: list[Path]) -> None:
    with pytest.raises(RequestError, match=r"which model\?: expected one of tiny, wide"):
        client.classify(photos)


def test_another_contract_is_refused(tiny_server: TritonServer, photos: list[Path]) -> None:
    mine = Preprocess(size=8).fingerprint
    with Client(tiny_server.grpc_url, contract=mine) as client:
        assert client.classify(photos, "tiny")
        with pytest.raises(RequestError, match=f"built for: expected contract {mine}, found"):
            client.classify(photos, "wide")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_prepared_pixels_go_to_the_expected_contract_only(tiny_server: TritonServer, protocol: str) -> None:
    url = getattr(tiny_server, f"{protocol}_url")
    with Client(url, contract=Preprocess(size=8).fingerprint) as client:
        assert client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))[0].shape == (1, 4)
        with pytest.raises(RequestError, match="built for"):
            client.infer("wide", np.zeros((1, 16, 16, 3), np.uint8))


def test_threads_and_connections_are_kept_from_call_to_call(client: Client, photos: list[Path]) -> None:
    def mine() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("shrinkserve-client")} - others

    def connections() -> int:
        return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process().net_connections("tcp"))

    others: set[threading.Thread] = set()  # of clients of other tests, which may be ending
    others = mine()
    client.classify(photos, "tiny")
    before = connections()
    for _ in range(10):
        client.classify(photos, "tiny")
    assert 1 <= len(mine()) <= 4
    assert connections() <= before + 4


def test_one_client_serves_many_threads(client: Client, photos: list[Path]) -> None:
    answers = client.classify(photos, "tiny")
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(client.classify(photos, "tiny"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [answers] * 8


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.integers(1, 9))
def test_best_sorts_stably(probabilities: list[float], top: int) -> None:
    classes = [str(index) for index in range(len(probabilities))]
    ranked = best(np.array(probabilities, np.float32), classes, top)
    assert [(-p, int(label)) for label, p in ranked] == sorted((-p, i) for i, p in enumerate(probabilities))[:top]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_chunks_hold_every_item_once(items: list[int], size: int) -> None:
    made = list(chunks(items, size))
    assert [item for chunk in made for item in chunk] == items
    assert all(len(chunk) == size for chunk in made[:-1])


def test_in_order_passes_faults_on_and_stops() -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        return 1 // (item - 3)

    with ThreadPoolExecutor(8) as pool, pytest.raises(ZeroDivisionError):
        list(in_order(work, iter(range(1000)), pool, workers=2))
    assert len(started) < 20
