from __future__ import annotations

import threading
from collections.abc import Iterator
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
from shrinkserve.serving.client.prediction import best, chunks
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import TritonServer


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


def test_classify_accepts_paths_bytes_and_arrays(
    client: Client, tiny_repository: Repository, photos: list[Path]
) -> None:
    results = client.classify(photos, "tiny")
    assert results == expected(tiny_repository, photos)
    assert len({label for label, _ in results}) > 1
    assert client.classify([path.read_bytes() for path in photos], "tiny") == results
    assert client.classify([np.asarray(Image.open(path)) for path in photos], "tiny") == results
    assert client.classify([str(path) for path in photos], "tiny") == results


def test_classify_rejects_a_single_image(client: Client, photos: list[Path]) -> None:
    """The characters of a path and the bytes of an image can be iterated over, too."""
    for one in (photos[0], str(photos[0]), photos[0].read_bytes()):
        with pytest.raises(DataError, match=r"write \[image\]"):
            client.classify(one, "tiny")  # type: ignore[arg-type]


def test_classify_topk_is_sorted(client: Client, photos: list[Path]) -> None:
    for ranked in client.classify_topk(photos, "wide", top=7):
        probabilities = [probability for _, probability in ranked]
        assert len(ranked) == 7
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    assert all(len(ranked) == 4 for ranked in client.classify_topk(photos, "tiny", top=7))


def test_stream_continues_after_bad_image(client: Client, photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff not a picture")
    sources = [*photos[:2], bad, tmp_path / "missing.png", photos[2], np.zeros((4, 4), np.uint8), b""]
    outcomes = list(client.stream(sources, "tiny", top=1))
    assert [outcome.name for outcome in outcomes] == [*map(str, sources[:5]), "image 5", "image 6"]
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False, True, False, False]
    assert [o.predictions[0] for o in outcomes if o.predictions] == client.classify(photos[:3], "tiny")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        client.classify(sources, "tiny")


def test_stream_returns_errors_for_bad_images_only(client: Client) -> None:
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


def test_classify_needs_model_name_when_several_are_served(client: Client, photos: list[Path]) -> None:
    with pytest.raises(RequestError, match="expected one of tiny, wide"):
        client.classify(photos)


def test_classify_refuses_other_contract(tiny_server: TritonServer, photos: list[Path]) -> None:
    mine = Preprocess(size=8).fingerprint
    with Client(tiny_server.grpc_url, contract=mine) as client:
        assert client.classify(photos, "tiny")
        with pytest.raises(RequestError, match=f"expected contract {mine}"):
            client.classify(photos, "wide")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_infer_refuses_other_contract(tiny_server: TritonServer, protocol: str) -> None:
    url = getattr(tiny_server, f"{protocol}_url")
    with Client(url, contract=Preprocess(size=8).fingerprint) as client:
        assert client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))[0].shape == (1, 4)
        with pytest.raises(RequestError, match="another preprocessing"):
            client.infer("wide", np.zeros((1, 16, 16, 3), np.uint8))


def test_connections_are_reused(client: Client, photos: list[Path]) -> None:
    def connections() -> int:
        return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process().net_connections("tcp"))

    client.classify(photos, "tiny")
    before = connections()
    for _ in range(10):
        client.classify(photos, "tiny")
    assert connections() <= before + 4


def test_client_is_shared_by_threads(client: Client, photos: list[Path]) -> None:
    results = client.classify(photos, "tiny")
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(client.classify(photos, "tiny"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [results] * 8


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.integers(1, 9))
def test_best_sorts_stably(probabilities: list[float], top: int) -> None:
    classes = [str(index) for index in range(len(probabilities))]
    ranked = best(np.array(probabilities, np.float32), classes, top)
    assert [(-p, int(label)) for label, p in ranked] == sorted((-p, i) for i, p in enumerate(probabilities))[:top]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_chunks_contain_every_item_once(items: list[int], size: int) -> None:
    made = list(chunks(items, size))
    assert [item for chunk in made for item in chunk] == items
    assert all(len(chunk) == size for chunk in made[:-1])
