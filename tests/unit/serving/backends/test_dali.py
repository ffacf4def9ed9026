"""Our DALI backend in a real tritonserver."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from shrinkserve.errors import ServerError
from shrinkserve.serving.server.server import ServerOptions, TritonServer

Together = Callable[[Sequence[Callable[[], Any]]], list[Any]]
dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")

CONFIG = """
backend: "dali"
max_batch_size: 8
input [{ name: "DALI_INPUT_0" data_type: TYPE_UINT8 dims: [-1] allow_ragged_batch: true }]
output [{ name: "pixels" data_type: TYPE_UINT8 dims: [16, 16, 3] }]
"""
WAITS = "dynamic_batching { max_queue_delay_microseconds: 500000 preferred_batch_size: [4] }"


def pipeline() -> Any:
    pipe = dali.Pipeline(batch_size=8, num_threads=1, device_id=None)
    with pipe:
        encoded = dali.fn.external_source(name="DALI_INPUT_0", ndim=1, dtype=dali.types.UINT8)
        image = dali.fn.decoders.image(encoded, device="cpu", output_type=dali.types.RGB)
        pipe.set_outputs(dali.fn.resize(image, resize_x=16, resize_y=16))
    return pipe


def write(folder: Path, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    pipeline().serialize(filename=str(folder / "1/model.dali"))
    (folder / "config.pbtxt").write_text(f'name: "{folder.name}"\n{config}')


def picture(seed: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A smooth picture whose file's length depends on the seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((40 + seed, 30 + 2 * seed)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def directly(*encoded: bytes) -> np.ndarray[Any, Any]:
    """Return the pipeline's pixels without a server."""
    pipe = pipeline()
    pipe.build()
    pipe.feed_input("DALI_INPUT_0", [np.frombuffer(one, np.uint8) for one in encoded])
    return np.array(pipe.run()[0].as_tensor())


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a picture of that size."""
    body = picture(1, "PNG")
    place = body.index(b"IHDR") + 4
    header = struct.pack(">II", width, height)
    changed = body[place - 4 : place] + header + body[place + 8 : place + 13]
    return body[: place - 4] + changed + struct.pack(">I", zlib.crc32(changed)) + body[place + 17 :]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    root = tmp_path_factory.mktemp("dali") / "models"
    write(root / "waits", CONFIG + WAITS)
    write(root / "plain", CONFIG + 'parameters { key: "num_threads" value: { string_value: "1" } }')
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with (
        TritonServer(root, ServerOptions(log_file=log)) as server,
        triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
    ):
        yield client


def given(*encoded: bytes) -> list[triton.InferInput]:
    longest = max(map(len, encoded))
    array = np.stack([np.frombuffer(one.ljust(longest, b"\0"), np.uint8) for one in encoded])
    tensor = triton.InferInput("DALI_INPUT_0", array.shape, "UINT8")
    tensor.set_data_from_numpy(array)
    return [tensor]


def pixels(client: triton.InferenceServerClient, model: str, *encoded: bytes) -> np.ndarray[Any, Any]:
    array = client.infer(model, given(*encoded)).as_numpy("pixels")
    assert array is not None
    return array


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("BMP", "RGB")])
def test_pixels_are_those_of_the_pipeline(client: triton.InferenceServerClient, kind: str, mode: str) -> None:
    encoded = picture(3, kind, mode)
    np.testing.assert_array_equal(pixels(client, "plain", encoded), directly(encoded))


def test_rows_of_one_request_may_be_padded_to_one_length(client: triton.InferenceServerClient) -> None:
    images = [picture(seed) for seed in range(3)]
    np.testing.assert_array_equal(pixels(client, "plain", *images), directly(*images))


def test_images_of_different_lengths_are_batched(client: triton.InferenceServerClient, together: Together) -> None:
    images = [picture(seed) for seed in range(4)]
    assert len(set(map(len, images))) == 4
    replies = together([lambda image=image: pixels(client, "waits", image) for image in images])
    for image, reply in zip(images, replies, strict=True):
        np.testing.assert_array_equal(reply, directly(image))
    batches = client.get_inference_statistics("waits").model_stats[0].batch_stats
    assert [int(batch.batch_size) for batch in batches] == [4]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "zero|empty|cannot decode|shape"),
        (b"hello, this is no picture", "cannot decode image: unknown format"),
        (b"\0" * 300, "cannot decode image"),
        (picture(5)[:100], "cannot decode image"),
        (picture(5, "EPS"), "cannot decode image: unknown format"),
        (picture(5)[:-200], "cannot decode image"),
        (claims(60_000, 60_000), "too large|limit"),
        (claims(6_000, 5_000), "too large"),
    ],
    ids=["nothing", "text", "zeros", "header", "format", "truncated", "bomb", "large"],
)
def test_only_the_request_with_a_bad_image_fails(
    client: triton.InferenceServerClient, together: Together, bad: bytes, reason: str
) -> None:
    images = [picture(1), picture(2), picture(3)]
    sent = (images[0], bad, images[1], images[2])
    replies = together([lambda one=one: pixels(client, "waits", one) for one in sent])
    for image, reply in zip(images, replies[:1] + replies[2:], strict=True):
        np.testing.assert_array_equal(reply, directly(image))
    assert isinstance(replies[1], InferenceServerException)
    assert re.search(reason, str(replies[1]))


def test_images_of_many_pixels_are_decoded_in_several_runs() -> None:
    from shrinkserve.serving.backends.dali import MAX_RUN_PIXELS, split_runs

    half, tiny = MAX_RUN_PIXELS // 2, 1000
    assert [run.indices(9)[:2] for run in split_runs([half, half, half, tiny, half])] == [(0, 2), (2, 4), (4, 5)]
    assert [run.indices(9)[:2] for run in split_runs([tiny] * 8)] == [(0, 8)]
    assert [run.indices(9)[:2] for run in split_runs([MAX_RUN_PIXELS, MAX_RUN_PIXELS])] == [(0, 1), (1, 2)]


def test_large_images_in_one_batch_are_all_decoded(client: triton.InferenceServerClient) -> None:
    """Together they have more pixels than one run may have."""
    large = io.BytesIO()
    Image.new("L", (4000, 4000), 200).save(large, "JPEG")
    images = [large.getvalue(), picture(1), large.getvalue()]
    decoded = pixels(client, "plain", *images)
    np.testing.assert_array_equal(decoded[1], directly(images[1])[0])
    assert (decoded[0] == decoded[2]).all()
    assert abs(int(decoded[0].mean()) - 200) < 3


def test_sixteen_bit_grey_is_decoded_as_everywhere_else(client: triton.InferenceServerClient) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32), 128 * 257, np.uint16)).save(stream, "PNG")
    assert set(np.unique(pixels(client, "plain", stream.getvalue()))) == {128}


@pytest.mark.parametrize("change", [("max_batch_size: 8", ""), ("UNCHANGED", "UNCHANGED")])
def test_server_names_a_pipeline_that_cannot_be_loaded(tmp_path: Path, change: tuple[str, str]) -> None:
    write(tmp_path / "models/bad", CONFIG.replace(*change))
    if change[0] == change[1]:
        (tmp_path / "models/bad/1/model.dali").write_bytes(b"no pipeline")
    with (
        pytest.raises(ServerError, match="model 'bad' cannot be loaded: "),
        TritonServer(tmp_path / "models", ServerOptions(log_file=tmp_path / "triton.log")),
    ):
        pass


@pytest.mark.parametrize(
    ("parameters", "applies"),
    [({}, False), ({"apply_exif": True}, True), ({"size": 8}, False)],
)
def test_backend_reads_from_the_contract_if_exif_is_applied(parameters: dict[str, Any], applies: bool) -> None:
    import json

    from shrinkserve.serving.backends.dali import _applies_exif

    config = {"parameters": {"shrinkserve.preprocess": {"string_value": json.dumps(parameters)}}} if parameters else {}
    assert _applies_exif(config) is applies
