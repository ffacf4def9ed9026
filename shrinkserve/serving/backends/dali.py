"""Triton's backend `dali` in Python: run a serialised DALI pipeline on the CPU.

It reads the same configuration as NVIDIA's C++ backend (github.com/triton-inference-server/dali_backend): the file is
`model.dali`, an input is the `fn.external_source` of its name, the outputs are in the pipeline's order, and
`num_threads` is a parameter. Inputs may be ragged: every row is a sample.

NVIDIA's backend lacks two things. An image that DALI would decode to other pixels than `preprocess.decode` is decoded
by Pillow first. And memory is limited: no image and no run of the pipeline has more than `MAX_RUN_PIXELS`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from nvidia import dali
from PIL import Image, UnidentifiedImageError

from shrinkserve.preprocess import FORMATS, dali_bytes
from shrinkserve.serving.backends.arguments import ModelArguments
from shrinkserve.serving.backends.batching import Array, Inputs, TritonRequest, TritonResponse, respond
from shrinkserve.serving.backends.metrics import ExecutionTimes

MAX_RUN_PIXELS = 25_000_000
"""Most pixels of an image, and of all images of one run. Decoding takes about 6 bytes a pixel."""


class TritonPythonModel:
    """One instance of a pipeline."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the pipeline. Triton shows an exception as the reason why the model cannot be loaded."""
        self._times = ExecutionTimes(args)
        self._arguments = ModelArguments.parse(args, "model.dali")
        if not self._arguments.batches:
            raise ValueError("max_batch_size: expected at least 1, as a DALI pipeline has one, found 0")
        self._apply_exif = _applies_exif(self._arguments.config)
        self._pipeline = self._build()

    def execute(self, requests: Sequence[TritonRequest]) -> list[TritonResponse]:
        """Respond to the requests of one batch."""
        return respond(requests, self._arguments, self._infer, self._times)

    def _build(self) -> Any:  # DALI's classes have no types
        pipeline = dali.Pipeline.deserialize(
            filename=str(self._arguments.file),
            batch_size=int(self._arguments.config["max_batch_size"]),
            num_threads=self._arguments.threads("num_threads"),
            device_id=None,
            prefetch_queue_depth=1,  # a run returns the results of what was fed just before it
            exec_async=False,
            exec_pipelined=False,
        )
        pipeline.build()
        return pipeline

    def _infer(self, requests: Sequence[Inputs], names: Sequence[str]) -> Sequence[Array]:
        (name,) = requests[0]
        rows = [row for inputs in requests for row in inputs[name]]
        pixels = [image_pixels(row) for row in rows]
        runs = [self._run(name, rows[part]) for part in split_runs(pixels)]
        results = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*runs, strict=True)]
        return [results[self._arguments.outputs.index(name)] for name in names]

    def _run(self, name: str, rows: Sequence[Array]) -> list[Array]:
        decodable = [np.frombuffer(dali_bytes(row.tobytes(), apply_exif=self._apply_exif), np.uint8) for row in rows]
        self._pipeline.feed_input(name, decodable)
        try:
            outputs = self._pipeline.run()
        except RuntimeError as exc:
            self._pipeline = self._build()  # a pipeline cannot be used after an error; a new one takes 1 ms
            raise ValueError(f"cannot decode image ({_cause(exc)})") from None
        # Copies: the memory belongs to the pipeline, whose next run may come before they are sent.
        return [np.array(output.as_tensor()) for output in outputs]


def _applies_exif(config: Mapping[str, Any]) -> bool:
    """Return True if the contract in a model's configuration turns images by their EXIF orientation."""
    contract = config.get("parameters", {}).get("shrinkserve.preprocess", {}).get("string_value", "{}")
    return json.loads(contract).get("apply_exif") is True


def image_pixels(encoded: Array) -> int:
    """Return the pixels of an encoded image, from its header.

    Args:
        encoded: uint8, shape (bytes,).

    Raises:
        ValueError: not an image, or more than `MAX_RUN_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(encoded.tobytes()), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:  # its message is an address in memory
        raise ValueError("cannot decode image: unknown format; expected JPEG, PNG, BMP or WebP") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise ValueError(f"cannot decode image ({' '.join(str(exc).split())})") from None
    if width * height > MAX_RUN_PIXELS:
        raise ValueError(f"the image is too large: expected at most {MAX_RUN_PIXELS} pixels, found {width}x{height}")
    return width * height


def split_runs(pixels: Sequence[int]) -> Iterator[slice]:
    """Split images into runs of at most `MAX_RUN_PIXELS` together, in order."""
    start = total = 0
    for index, size in enumerate(pixels):
        if total + size > MAX_RUN_PIXELS and index > start:
            yield slice(start, index)
            start, total = index, 0
        total += size
    yield slice(start, len(pixels))


def _cause(error: RuntimeError) -> str:
    """Return the line of DALI's message that names the problem in the data."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines[lines.index("encountered:") + 1 :] if "encountered:" in lines else lines
    return after[0] if after else "no reason given"
