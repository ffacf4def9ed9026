"""Triton's backend `dali` in Python: runs a serialised DALI pipeline on the CPU.

It reads the same config as NVIDIA's C++ backend (github.com/triton-inference-server/dali_backend): the file is
`model.dali`, an input is the `fn.external_source` of its name, the outputs come in the pipeline's order, and
`num_threads` is a parameter. Inputs may be ragged: every row is a sample of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia import dali
from PIL import Image, UnidentifiedImageError

from shrinkserve.preprocess import FORMATS, MAX_BYTES, MAX_PIXELS
from shrinkserve.serving.backends.arguments import ModelArguments
from shrinkserve.serving.backends.batching import Array, Inputs, answer


class TritonPythonModel:
    """One instance of a pipeline."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the pipeline; Triton shows what is raised here as the reason why the model cannot be loaded."""
        self._arguments = ModelArguments.parse(args, "model.dali")
        if not self._arguments.batches:
            raise ValueError("max_batch_size: expected at least 1, as a DALI pipeline has one, found 0")
        self._pipeline = self._build()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton put into one batch."""
        return answer(requests, self._arguments, self._infer)

    def _build(self) -> Any:  # DALI's classes carry no types
        pipeline: Any = dali.Pipeline.deserialize(
            filename=str(self._arguments.file),
            batch_size=int(self._arguments.config["max_batch_size"]),
            num_threads=self._arguments.threads("num_threads"),
            device_id=None,
            prefetch_queue_depth=1,  # a run answers what was fed just before it
            exec_async=False,
            exec_pipelined=False,
        )
        pipeline.build()
        return pipeline

    def _infer(self, requests: Sequence[Inputs], names: Sequence[str]) -> Sequence[Array]:
        for name in requests[0]:
            rows = [row for inputs in requests for row in inputs[name]]
            for row in rows:
                check_image(row)
            self._pipeline.feed_input(name, rows)
        try:
            outputs = self._pipeline.run()
        except RuntimeError as exc:
            self._pipeline = self._build()  # after a fault a pipeline cannot be used any more; a new one takes 1 ms
            raise ValueError(f"not an image that can be decoded ({_cause(exc)})") from None
        # Copies: the memory is the pipeline's, and its next run may come before they are sent.
        results = [np.array(output.as_tensor()) for output in outputs]
        return [results[self._arguments.outputs.index(name)] for name in names]


def check_image(encoded: Array) -> None:
    """Refuse what is no image, or would take too much memory to decode, by its header alone.

    Args:
        encoded: uint8, shape (bytes,).

    Raises:
        ValueError: says what was found.
    """
    if encoded.size > MAX_BYTES:
        raise ValueError(f"the image is too large: expected at most {MAX_BYTES} bytes, found {encoded.size}")
    try:
        with Image.open(io.BytesIO(encoded.tobytes()), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:  # whose message is an address in memory
        raise ValueError("not an image (of no format that is known)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise ValueError(f"not an image ({' '.join(str(exc).split())})") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture is too large: expected at most {MAX_PIXELS} pixels, found {width}x{height}")


def _cause(error: RuntimeError) -> str:
    """The line of DALI's message that says what was wrong with the data."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines[lines.index("encountered:") + 1 :] if "encountered:" in lines else lines
    return after[0] if after else "no reason given"
