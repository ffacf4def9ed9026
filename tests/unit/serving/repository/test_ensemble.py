from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError, ParityError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.async_client import AsyncClient
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.prediction import ClassifyResult
from shrinkserve.serving.config_text import to_text
from shrinkserve.serving.names import model_names
from shrinkserve.serving.publish import live
from shrinkserve.serving.publish.live import Live
from shrinkserve.serving.publish.publish import publish_version
from shrinkserve.serving.repository.dali_pipeline import pipeline_source, serialise_pipeline
from shrinkserve.serving.repository.trust import runs_code
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.loadable import Skip
from shrinkserve.serving.server.selection import select, shown_names
from shrinkserve.serving.server.server import ServerOptions, TritonServer

dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
MakeModel = Callable[..., tuple[Path, Card]]
CLASSIFIER = "tiny_classifier"
PARTS = ["tiny", "tiny_classifier", "tiny_lines", "tiny_preprocess", "tiny_text"]


def photo(seed: int, width: int, height: int, mode: str = "RGB") -> bytes:
    """A smooth picture as JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    stream = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def run(preprocess: Preprocess, *encoded: bytes) -> np.ndarray:  # type: ignore[type-arg]
    return run_serialised(serialise_pipeline(preprocess, len(encoded)), *encoded)


def test_pipeline_has_no_paths_of_the_machine_that_wrote_it() -> None:
    serialised = serialise_pipeline(Preprocess(), 2)
    assert b".py" not in serialised
    assert str(Path(__file__).parents[4]).encode() not in serialised


def run_serialised(serialised: bytes, *encoded: bytes) -> np.ndarray:  # type: ignore[type-arg]
    pipeline = dali.Pipeline.deserialize(serialised, batch_size=len(encoded), num_threads=1, device_id=None)
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
def test_pipeline_pixels_equal_preprocess(width: int, height: int, fraction: float, interpolation: str) -> None:
    preprocess = Preprocess(size=32, crop_fraction=fraction, interpolation=interpolation)  # type: ignore[arg-type]
    encoded = photo(width, width, height)
    difference = np.abs(run(preprocess, encoded)[0].astype(int) - preprocess.evaluate_bytes(encoded))
    assert difference.mean() < 0.5
    assert difference.max() <= 6


GREY: dict[str, object] = {"channel_order": "L", "mean": (0.5,), "std": (0.5,)}


@settings(max_examples=25)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    change=st.sampled_from(
        [
            {"geometry": "stretch"},
            {"geometry": "tpu"},
            {"geometry": "center"},
            {"geometry": "center", "crop_fraction": 0.95, "channel_order": "BGR"},
            {"geometry": "resize_crop", "resize_size": 40, "interpolation": "bilinear"},
            {"geometry": "resize_crop", "resize_size": 20},
            {"geometry": "letterbox", "fill": (200, 100, 50)},
            {"geometry": "letterbox", "fill": (200, 100, 50), "channel_order": "BGR"},
            {"geometry": "letterbox", "fill": (200, 100, 50), **GREY},
            {"interpolation": "bilinear", "antialias": False},
        ]
    ),
)
@example(width=5, height=5, change={"interpolation": "bilinear", "antialias": False})
@example(width=2, height=5, change={"interpolation": "bilinear", "antialias": False})
@example(width=9, height=8, change={"interpolation": "bilinear", "antialias": False, "geometry": "tpu"})
@example(width=7, height=9, change={"interpolation": "lanczos", "antialias": False})
def test_pipeline_pixels_equal_preprocess_for_every_geometry(
    width: int, height: int, change: dict[str, object]
) -> None:
    preprocess = Preprocess(size=32, **change)  # type: ignore[arg-type]
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo(width, width, height))).save(stream, "PNG")  # tiny JPEGs are decoded differently
    encoded = stream.getvalue()
    difference = np.abs(run(preprocess, encoded)[0].astype(int) - preprocess.evaluate_bytes(encoded))
    assert difference.mean() < 1  # in images of a few pixels; below 0.5 in others
    thin = 32 * min(width, height) < 4 * max(width, height)  # letterboxed to less than four pixels
    assert difference.max() <= (32 if thin else 12)


def test_pipeline_resizes_a_panorama_within_its_memory() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (60_000, 1), (9, 8, 7)).save(stream, "JPEG")
    preprocess = Preprocess(size=32, geometry="resize_crop", resize_size=256)
    assert np.abs(run(preprocess, stream.getvalue())[0].astype(int) - (9, 8, 7)).max() <= 2


def test_pipeline_applies_exif_on_request() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo(1, 60, 40))).save(stream, "JPEG", exif=exif, quality=95)
    preprocess = Preprocess(size=16, apply_exif=True)
    difference = np.abs(
        run(preprocess, stream.getvalue())[0].astype(int) - preprocess.evaluate_bytes(stream.getvalue())
    )
    assert difference.mean() < 0.7


def test_pipeline_handles_grey_and_rotated_images() -> None:
    preprocess = Preprocess(size=16)
    rotated = Image.open(io.BytesIO(photo(1, 60, 40)))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(stream, "JPEG", exif=exif, quality=95)
    for encoded in (photo(2, 50, 70, "L"), stream.getvalue()):
        difference = np.abs(run(preprocess, encoded)[0].astype(int) - preprocess.evaluate_bytes(encoded))
        assert difference.mean() < 0.5


AUTOSERIALISE = """
import importlib.util, sys
from nvidia.dali._utils.autoserialize import invoke_autoserialize

spec = importlib.util.spec_from_file_location("autoserialize_mod", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["autoserialize_mod"] = module
spec.loader.exec_module(module)
invoke_autoserialize(module, sys.argv[2])
"""


def test_pipeline_source_gives_the_pixels_of_the_serialised_pipeline(tmp_path: Path) -> None:
    """Run the source as NVIDIA's backend does (dali_backend, src/model_provider/model_provider.h)."""
    preprocess = Preprocess(size=24, crop_fraction=0.9, interpolation="bilinear")
    (tmp_path / "dali.py").write_bytes(pipeline_source(preprocess, 2))
    command = [sys.executable, "-c", AUTOSERIALISE, str(tmp_path / "dali.py"), str(tmp_path / "made")]
    subprocess.run(command, check=True, cwd=tmp_path)
    images = [photo(1, 60, 50), photo(2, 41, 77)]
    np.testing.assert_array_equal(run_serialised((tmp_path / "made").read_bytes(), *images), run(preprocess, *images))


def test_only_our_pipeline_source_is_no_foreign_code(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0), encoded=True)
    folder = repository.root / "tiny_preprocess"
    assert runs_code(folder) is None
    path = folder / "1/dali.py"
    path.write_bytes(path.read_bytes() + b"\nimport os\n")
    assert runs_code(folder) == "1/dali.py"


def test_approximate_pipeline_is_no_foreign_code(tmp_path: Path, make_model: MakeModel) -> None:
    model_file, card = make_model(0)
    other = replace(card, preprocess=Preprocess(size=8, interpolation="bicubic_tf1").to_dict())
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, model_file, other, encoded=True, approximate_decoder=True)
    assert (repository.root / "tiny_preprocess/1/dali.py").is_file()
    assert runs_code(repository.root / "tiny_preprocess") is None


@pytest.mark.parametrize(
    "change",
    [{"antialias": False}, {"interpolation": "bicubic_tf1"}],
)
def test_pipeline_rejects_contract_that_it_cannot_compute(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot take encoded images: "):
        serialise_pipeline(replace(Preprocess(), **change), 1)  # type: ignore[arg-type]


def test_model_with_unsupported_contract_takes_pixels_only(tmp_path: Path, make_model: MakeModel) -> None:
    printed: list[str] = []
    model_file, card = make_model(0)
    other = replace(card, preprocess=Preprocess(size=8, interpolation="bicubic_tf1").to_dict())
    repository = Repository(tmp_path / "models", say=printed.append)
    repository.add(CLASSIFIER, model_file, other, encoded=True)
    assert repository.models() == [CLASSIFIER]
    assert "takes pixels only" in printed[0]


def test_approximate_decoder_is_written_on_request_and_kept(tmp_path: Path, make_model: MakeModel) -> None:
    model_file, card = make_model(0)
    other = replace(card, preprocess=Preprocess(size=8, interpolation="bicubic_tf1").to_dict())
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, model_file, other, encoded=True)
    with pytest.raises(ConfigError, match="--approximate-decoder"):
        repository.add_jpeg(CLASSIFIER)
    repository.add_jpeg(CLASSIFIER, approximate_decoder=True)
    assert sorted(path.name for path in repository.root.iterdir() if not path.name.startswith(".")) == PARTS
    third = replace(card, preprocess=Preprocess(size=8, crop_fraction=1.0, interpolation="bicubic_tf1").to_dict())
    repository.add(CLASSIFIER, model_file, third)  # the ensemble is written again, without the option
    assert repository.active("tiny") == 2


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("jpeg") / "models")
    repository.add(CLASSIFIER, *make_model(0), options=ServingConfig(max_batch_size=4), encoded=True)
    return repository


@pytest.fixture(scope="module")
def server(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(repository.root, ServerOptions(log_file=log)) as server:
        yield server


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_encoded_images_get_predictions_of_prepared_ones(server: TritonServer, protocol: str, tmp_path: Path) -> None:
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


def test_bad_image_fails_alone(server: TritonServer, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [photo(1, 60, 50), b"no image", tmp_path / "missing.jpg", photo(2, 60, 50)]
    with Client(server.grpc_url) as client:
        outcomes = list(client.stream_encoded(sources, "tiny", top=1))
    assert [bool(outcome.predictions) for outcome in outcomes] == [True, False, False, True]
    assert "image 1" in str(outcomes[1].error)
    assert "cannot be read" in str(outcomes[2].error)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_async_client_streams_encoded_images(server: TritonServer, protocol: str, tmp_path: Path) -> None:
    url = getattr(server, f"{protocol}_url")
    sources: list[bytes | Path] = [photo(seed, 60 + seed, 50) for seed in range(20)]
    sources[3:3] = [b"no image", tmp_path / "missing.jpg"]

    async def ask() -> list[ClassifyResult]:
        async with AsyncClient(url) as client:
            return [outcome async for outcome in client.stream_encoded(sources, "tiny", top=4)]

    with Client(url) as client:
        expected = list(client.stream_encoded(sources, "tiny", top=4))
    for found, wanted in zip(asyncio.run(ask()), expected, strict=True):
        assert (found.name, found.predictions, found.version) == (wanted.name, wanted.predictions, wanted.version)
        assert str(found.error) == str(wanted.error)


def test_public_name_stands_for_all_models(server: TritonServer, repository: Repository) -> None:
    assert repository.classifiers() == [CLASSIFIER]
    assert repository.models() == server.models == PARTS
    assert repository.classifier("tiny") == repository.classifier(CLASSIFIER) == CLASSIFIER
    assert list(problems(repository, CLASSIFIER)) == []
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with Client(server.http_url) as client:
        assert client.only_model() == "tiny"
        assert client.model_info("tiny") == client.model_info(CLASSIFIER)
        np.testing.assert_array_equal(client.infer("tiny", images)[0], client.infer(CLASSIFIER, images)[0])


def test_stock_client_gets_class_names_for_jpeg(server: TritonServer) -> None:
    """Use Triton's own client library and its classification extension."""
    encoded = np.frombuffer(photo(1, 60, 50), np.uint8)[None]
    given = triton.InferInput("jpeg", encoded.shape, "UINT8")
    given.set_data_from_numpy(encoded)
    with triton.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
        best, _ = client.infer("tiny", [given], outputs=wanted).as_numpy("probabilities")[0]
    assert best.decode().partition(":")[2].startswith(tuple(f"{n}:class {n}: a name" for n in range(4)))


def text_of(url: str, encoded: bytes) -> list[dict[str, object]]:
    """Return the lines of the reply to a file alone, after Triton's description."""
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{url}/v2/models/tiny_text/infer", encoded, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        content = reply.read()
    description, *lines = map(json.loads, content.splitlines())
    assert b"\0" not in content, "curl does not print it"
    assert [output["name"] for output in description["outputs"]] == ["text"]
    return lines


def test_file_alone_gets_names_and_probabilities(server: TritonServer) -> None:
    encoded = photo(3, 60, 50)
    with Client(server.http_url) as client:
        (expected,) = client.stream_encoded([encoded], "tiny", top=4)
    lines = text_of(server.http_url, encoded)
    assert [line["name"] for line in lines] == [one.label for one in expected.predictions]
    probabilities = [one.probability for one in expected.predictions]
    assert [line["probability"] for line in lines] == pytest.approx(probabilities, abs=5.1e-5)


def test_text_has_one_line_for_each_image_of_a_batch(server: TritonServer) -> None:
    encoded = np.stack([np.frombuffer(photo(1, 60, 50), np.uint8)] * 3)
    given = triton.InferInput("jpeg", encoded.shape, "UINT8")
    given.set_data_from_numpy(encoded)
    with triton.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        texts = client.infer("tiny_text", [given]).as_numpy("text")
    assert len({bytes(text) for text in texts}) == 1
    assert len(texts) == 3


def test_file_that_is_no_image_gets_an_error(server: TritonServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        text_of(server.http_url, b"no image")
    assert "cannot decode image" in json.loads(caught.value.read())["error"]


def test_classifier_without_ensemble_says_so(tiny_server: TritonServer) -> None:
    with Client(tiny_server.grpc_url) as client, pytest.raises(RequestError, match="shrinkserve repo add-jpeg tiny"):
        next(client.stream_encoded([b"any"], "tiny"))


def configs(repository: Repository) -> dict[str, bytes]:
    return {part: (repository.root / part / "config.pbtxt").read_bytes() for part in PARTS}


def test_ensemble_follows_the_classifier(tmp_path: Path, make_model: MakeModel) -> None:
    """Change the image size and the largest batch, and back. Each change is one transaction."""
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0), encoded=True)
    first = configs(repository)
    repository.add(CLASSIFIER, *make_model(1))
    assert configs(repository)["tiny"] == first["tiny"], "the next version of the same contract"
    repository.add(CLASSIFIER, *make_model(1, size=16, classes=3))
    assert repository.config("tiny_preprocess").output[0].dims == [16, 16, 3]
    assert (repository.root / "tiny/labels.txt").read_text().count("\n") == 3
    assert list(problems(repository, CLASSIFIER)) == []
    repository.activate(CLASSIFIER, 2)
    assert configs(repository)["tiny"] == first["tiny"]
    repository.configure(CLASSIFIER, ServingConfig(max_batch_size=3))
    assert [repository.config(part).max_batch_size for part in PARTS] == [3] * 5
    assert select(repository.root).models == PARTS


def test_text_follows_the_class_names(tmp_path: Path, make_model: MakeModel) -> None:
    """Publish other names of the same length, and go back."""
    repository = Repository(tmp_path / "models")
    model_file, card = make_model(0)
    other = replace(card, classes=[name.replace("class", "kind ") for name in card.classes])
    path = repository.root / "tiny_lines/1/model.onnx"
    contents = []
    for change in (
        lambda: repository.add(CLASSIFIER, model_file, card, encoded=True),
        lambda: repository.add(CLASSIFIER, model_file, other),
        lambda: repository.activate(CLASSIFIER, 1),
    ):
        change()
        assert list(problems(repository, CLASSIFIER)) == []
        contents.append(path.read_bytes())
    assert b'"class 0: a name"' in contents[0]
    assert b'"kind  0: a name"' in contents[1]
    assert contents[2] == contents[0]
    path.write_bytes(contents[1])
    (line,) = problems(repository, CLASSIFIER)
    assert "tiny_lines/1/model.onnx: not the classes" in line
    assert "run `shrinkserve repo add-jpeg tiny`" in line


def test_ensemble_loads_without_the_text_and_the_next_version_adds_it(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0), encoded=True)
    for part in ("tiny_lines", "tiny_text"):
        shutil.rmtree(repository.root / part)
    assert select(repository.root).models == ["tiny", CLASSIFIER, "tiny_preprocess"]
    (line,) = problems(repository, CLASSIFIER)
    assert "run `shrinkserve repo add-jpeg tiny`" in line
    repository.add(CLASSIFIER, *make_model(1))
    assert select(repository.root).models == PARTS


def test_stream_goes_on_while_the_contract_changes(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0), encoded=True)
    done, encoded = threading.Event(), photo(1, 60, 50)

    def sources() -> Iterator[bytes]:
        while not done.is_set():
            yield encoded

    def ask(url: str) -> list[ClassifyResult]:
        with Client(url) as client:
            return list(client.stream_encoded(sources(), "tiny", top=1, workers=2))

    with (
        TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log")) as server,
        ThreadPoolExecutor() as pool,
    ):
        streams = [pool.submit(ask, url) for url in (server.http_url, server.grpc_url)]
        try:
            with Client(server.http_url) as client:
                for size, classes in ((16, 5), (8, 4), (16, 5)):
                    model_file, card = make_model(size, size=size, classes=classes)
                    card.write(model_file.parent)
                    with pytest.raises(ConfigError, match=r"JPEG requests would fail briefly.*--allow-gap"):
                        publish_version(
                            repository, model_file.parent, name=CLASSIFIER, live=Live(client), scratch=False
                        )
                    live = Live(client, allow_gap=True)
                    publish_version(repository, model_file.parent, name=CLASSIFIER, live=live, scratch=False)
                    assert client.model_info("tiny").preprocess.size == size
                    assert {line["name"] for line in text_of(server.http_url, encoded)} == set(card.classes)
        finally:
            done.set()
        outcomes = [outcome for stream in streams for outcome in stream.result()]
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert len(outcomes) > 100


def test_rejected_new_model_leaves_nothing(
    server: TritonServer, repository: Repository, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last check fails after a live server has loaded all models."""
    model_file, card = make_model(5)
    card.write(model_file.parent)

    def refuse(*_: object) -> None:
        loaded.extend(client.models())
        raise ParityError("it predicts differently")

    monkeypatch.setattr(live, "confirm_version", refuse)
    loaded: list[str] = []
    with Client(server.grpc_url) as client:
        wanted = {"name": "new_classifier", "encoded": True, "live": Live(client), "scratch": False}
        with pytest.raises(ParityError, match="it predicts differently"):
            publish_version(repository, model_file.parent, **wanted)  # type: ignore[arg-type]
        assert loaded == sorted([*PARTS, *model_names("new")])
        assert repository.models() == PARTS
        assert client.models() == PARTS


def test_misfit_is_skipped_and_add_jpeg_repairs_it(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0), encoded=True)
    path = repository.root / CLASSIFIER / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 32", "max_batch_size: 2"))
    (line,) = problems(repository, CLASSIFIER)
    assert "run `shrinkserve repo add-jpeg tiny`" in line
    found = select(repository.root)
    assert found.models == [CLASSIFIER, "tiny_lines", "tiny_preprocess"]
    assert found.skipped["tiny"].kind is Skip.MISFIT
    assert shown_names(found) == [CLASSIFIER]  # `serve` does not say that it serves what it has skipped
    assert found.skipped["tiny"].hint == f"run: shrinkserve repo add-jpeg tiny --repository {repository.root}"
    repository.add_jpeg("tiny")
    assert list(problems(repository, CLASSIFIER)) == []
    assert select(repository.root, ["tiny"]).models == PARTS
    assert select(repository.root, [CLASSIFIER]).models == [CLASSIFIER]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_add_jpeg_rejects_a_damaged_preprocessing(tmp_path: Path, make_model: MakeModel, text: str) -> None:
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0))
    config = repository.config(CLASSIFIER)
    config.parameters["shrinkserve.preprocess"].string_value = text
    (repository.root / CLASSIFIER / "config.pbtxt").write_text(to_text(config))
    with pytest.raises(ArtifactError, match=r"shrinkserve\.preprocess"):
        repository.add_jpeg("tiny")
    assert repository.models() == [CLASSIFIER]


def test_machine_without_dali_serves_pixels(repository: Repository) -> None:
    hint = "pip install 'shrinkserve[dali]'"
    found = select(repository.root, ["tiny"], how_to_get=lambda backend: hint if backend == "dali" else None)
    assert found.models == [CLASSIFIER]
    assert {name: (reason.kind, reason.hint) for name, reason in found.skipped.items()} == {
        **dict.fromkeys(["tiny", "tiny_lines", "tiny_text"], (Skip.DEPENDS, "")),
        "tiny_preprocess": (Skip.NO_BACKEND, hint),
    }


def test_add_jpeg_does_not_replace_another_model(tmp_path: Path, make_model: MakeModel) -> None:
    repository = Repository(tmp_path / "models")
    repository.add("tiny", *make_model(0))
    with pytest.raises(ConfigError, match="shrinkserve did not write this model"):
        repository.add(CLASSIFIER, *make_model(1), encoded=True)
    with pytest.raises(ConfigError, match="expected a name that ends in _classifier"):
        repository.add_jpeg("tiny")
    assert repository.models() == ["tiny"]


@pytest.mark.parametrize("part", ["tiny", "tiny_preprocess", "tiny_text"])
def test_model_of_the_user_is_not_replaced(tmp_path: Path, make_model: MakeModel, part: str) -> None:
    """An ensemble or pipeline that has one of the names, but was not written by shrinkserve."""
    repository = Repository(tmp_path / "models")
    repository.add(CLASSIFIER, *make_model(0))
    kind = 'backend: "dali"' if part == "tiny_preprocess" else 'platform: "ensemble"'
    path = repository.root / part / "config.pbtxt"
    path.parent.mkdir()
    path.write_text(f'name: "{part}"\n{kind}\n# tuned by hand\n')
    before = path.read_bytes()
    repository.add(CLASSIFIER, *make_model(1, size=16))
    assert path.read_bytes() == before
    assert list(problems(repository, CLASSIFIER)) == []
    with pytest.raises(ConfigError, match="shrinkserve did not write this model"):
        repository.add_jpeg("tiny")
    with pytest.raises(ConfigError, match="shrinkserve did not write this model"):
        repository.add(CLASSIFIER, *make_model(2), encoded=True)
    assert path.read_bytes() == before
    assert repository.versions(CLASSIFIER) == [1, 2]
