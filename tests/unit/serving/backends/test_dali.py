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
    """What the pipeline makes of images without any server."""
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
def test_decodes_what_the_pipeline_decodes(client: triton.InferenceServerClient, kind: str, mode: str) -> None:
    encoded = picture(3, kind, mode)
    np.testing.assert_array_equal(pixels(client, "plain", encoded), directly(encoded))


def test_rows_of_one_request_may_be_padded_to_one_length(client: triton.InferenceServerClient) -> None:
    images = [picture(seed) for seed in range(3)]
    np.testing.assert_array_equal(pixels(client, "plain", *images), directly(*images))


def test_images_of_different_lengths_come_in_one_batch(
    client: triton.InferenceServerClient, together: Together
) -> None:
    images = [picture(seed) for seed in range(4)]
    assert len(set(map(len, images))) == 4
    answers = together([lambda image=image: pixels(client, "waits", image) for image in images])
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer, directly(image))
    batches = client.get_inference_statistics("waits").model_stats[0].batch_stats
    assert [int(batch.batch_size) for batch in batches] == [4]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "zero|empty|not an image|shape"),
        (b"hello, this is no picture", r"not an image \(of no format that is known\)"),
        (b"\0" * 300, "not an image"),
        (picture(5)[:100], "not an image"),
        (picture(5, "EPS"), r"not an image \(of no format that is known\)"),
        (picture(5)[:-200], "Failed to decode"),
        (claims(60_000, 60_000), "too large|limit"),
        (claims(11_000, 11_000), "too large"),
    ],
    ids=["nothing", "text", "zeros", "header", "format", "truncated", "bomb", "large"],
)
def test_only_the_request_with_a_bad_image_fails(
    client: triton.InferenceServerClient, together: Together, bad: bytes, reason: str
) -> None:
    images = [picture(1), picture(2), picture(3)]
    sent = (images[0], bad, images[1], images[2])
    answers = together([lambda one=one: pixels(client, "waits", one) for one in sent])
    for image, answer in zip(images, answers[:1] + answers[2:], strict=True):
        np.testing.assert_array_equal(answer, directly(image))
    assert isinstance(answers[1], InferenceServerException)
    assert re.search(reason, str(answers[1]))


@pytest.mark.parametrize("change", [("max_batch_size: 8", ""), ("UNCHANGED", "UNCHANGED")])
def test_pipeline_that_cannot_be_loaded(tmp_path: Path, change: tuple[str, str]) -> None:
    write(tmp_path / "models/bad", CONFIG.replace(*change))
    if change[0] == change[1]:
        (tmp_path / "models/bad/1/model.dali").write_bytes(b"no pipeline")
    with (
        pytest.raises(ServerError, match="model 'bad' cannot be loaded: "),
        TritonServer(tmp_path / "models", ServerOptions(log_file=tmp_path / "triton.log")),
    ):
        pass
