from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client import Client
from shrinkserve.serving.jpeg import add_jpeg, serialise
from shrinkserve.serving.repository import Repository
from shrinkserve.serving.server import ServerOptions, TritonServer
from shrinkserve.serving.verification import problems

dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
MakeModel = Callable[..., tuple[Path, Card]]


def photo(seed: int, width: int, height: int, mode: str = "RGB") -> bytes:
    """A smooth picture as JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    stream = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def run(preprocess: Preprocess, *encoded: bytes) -> np.ndarray:  # type: ignore[type-arg]
    pipeline = dali.Pipeline.deserialize(
        serialise(preprocess, len(encoded)), batch_size=len(encoded), num_threads=1, device_id=None
    )
    pipeline.build()
    pipeline.feed_input("DALI_INPUT_0", [np.frombuffer(one, np.uint8) for one in encoded])
    return np.array(pipeline.run()[0].as_tensor())


@settings(max_examples=25)
@given(
    width=st.integers(40, 400),
    height=st.integers(40, 400),
    fraction=st.sampled_from([1.0, 0.875, 0.9, 0.7]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
def test_pixels_are_those_of_the_one_description(width: int, height: int, fraction: float, interpolation: str) -> None:
    preprocess = Preprocess(size=32, crop_fraction=fraction, interpolation=interpolation)  # type: ignore[arg-type]
    encoded = photo(width, width, height)
    difference = np.abs(run(preprocess, encoded)[0].astype(int) - preprocess.evaluate_bytes(encoded))
    assert difference.mean() < 0.5
    assert difference.max() <= 6


def test_grey_and_rotated_pictures() -> None:
    preprocess = Preprocess(size=16)
    rotated = Image.open(io.BytesIO(photo(1, 60, 40)))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(stream, "JPEG", exif=exif, quality=95)
    for encoded in (photo(2, 50, 70, "L"), stream.getvalue()):
        difference = np.abs(run(preprocess, encoded)[0].astype(int) - preprocess.evaluate_bytes(encoded))
        assert difference.mean() < 0.5


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("jpeg") / "models")
    repository.add("tiny", *make_model(0), options=ServingConfig(max_batch_size=4))
    assert [path.name for path in add_jpeg(repository, "tiny")] == ["tiny_preprocess", "tiny_jpeg"]
    return repository


@pytest.fixture(scope="module")
def server(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(repository.root, ServerOptions(log_file=log)) as server:
        yield server


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_encoded_images_get_the_answers_of_prepared_ones(server: TritonServer, protocol: str, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [photo(seed, 60 + seed, 50) for seed in range(9)]
    (tmp_path / "a.jpg").write_bytes(photo(20, 90, 30))
    sources.append(tmp_path / "a.jpg")
    with Client(getattr(server, f"{protocol}_url")) as client:
        prepared = list(client.stream(sources, "tiny", top=4))
        encoded = list(client.stream_encoded(sources, "tiny", top=4))
        for mine, theirs in zip(encoded, prepared, strict=True):
            assert mine.name == theirs.name
            assert [p.label for p in mine.predictions] == [p.label for p in theirs.predictions]
            np.testing.assert_allclose(
                [p.probability for p in mine.predictions], [p.probability for p in theirs.predictions], atol=0.02
            )


def test_a_bad_image_fails_alone(server: TritonServer, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [photo(1, 60, 50), b"no image", tmp_path / "missing.jpg", photo(2, 60, 50)]
    with Client(server.grpc_url) as client:
        outcomes = list(client.stream_encoded(sources, "tiny", top=1))
    assert [bool(outcome.predictions) for outcome in outcomes] == [True, False, False, True]
    assert "image 1" in str(outcomes[1].fault)
    assert "cannot be read" in str(outcomes[2].fault)


def test_the_repository_lists_classifiers_only(repository: Repository) -> None:
    assert repository.classifiers() == ["tiny"]
    assert repository.models() == ["tiny", "tiny_jpeg", "tiny_preprocess"]
    assert list(problems(repository, "tiny")) == []


def test_another_contract_is_found_and_mended(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add("tiny", *make_model(0))
    add_jpeg(repository, "tiny")
    repository.add("tiny", *make_model(1))
    assert list(problems(repository, "tiny")) == [], "the next version of the same contract"
    repository.add("tiny", *make_model(1, size=16))
    (line,) = problems(repository, "tiny")
    assert "run `repo add-jpeg tiny`" in line
    add_jpeg(repository, "tiny")
    assert list(problems(repository, "tiny")) == []
