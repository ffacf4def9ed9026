"""The files of a version that is published, and the comparison of a server with them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from shrinkserve.artifact import Card
from shrinkserve.engines import Engine, engines_of
from shrinkserve.errors import ArtifactError, ParityError
from shrinkserve.preprocess import Pixels
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.model_info import ModelInfo

TOLERANCE = 1e-3
"""Largest difference between the server's logits and ONNX Runtime's on this machine, relative to the largest logit.
Both run the same file, but processors and batches may differ."""
LOOSE = {
    ("openvino", "bfloat16"): 0.1,
    ("openvino", "int8"): 0.5,
    ("tensorrt", "float16"): 0.02,
    ("tensorrt", "bfloat16"): 0.1,
    ("tensorrt", "int8"): 0.5,
}
"""Tolerance by backend and precision for engines that are compared with the float32 graph. It only shows that the
engine is of the right network; `export` has compared the engine itself."""


@dataclass(frozen=True)
class VersionFiles:
    """A version to publish.

    Attributes:
        card: its card, with the model's name.
        model: its ``model.onnx``; the files of its other engines are in the same folder.
    """

    card: Card
    model: OnnxModel

    def engine(self, served: ModelInfo) -> Engine | None:
        """Return the engine of this version that a server will run, given what it runs now; None for the default."""
        if (served.backend, served.precision) == ("onnxruntime", self.card.precision):
            return None
        wanted = (served.backend, served.precision)
        return next((one for one in engines_of(self.card) if (one.backend, one.precision) == wanted), None)

    def reference(self, served: ModelInfo) -> tuple[OnnxModel, float]:
        """Return the graph to compare a server with, and the tolerance relative to the largest logit."""
        engine = self.engine(served)
        if engine is None:
            return self.model, TOLERANCE
        if engine.backend != "onnxruntime":
            return self.model, LOOSE.get((engine.backend, engine.precision), TOLERANCE)
        return OnnxModel(self.model.path.with_name(engine.file)), TOLERANCE

    def read(self, file: str) -> bytes:
        """Return the content of one of the files.

        Raises:
            ArtifactError: the file has changed since its card was read.
        """
        path = self.model.path.with_name(file)
        content = path.read_bytes()
        if sha256(content).hexdigest() != self.card.files[file]:
            raise ArtifactError(f"{path}: changed while it is published", hint="try again")
        return content


def check_predictions(client: Client, name: str, version: VersionFiles) -> float:
    """Compare a server's logits with those of the file that it runs, over batches of several sizes.

    Returns:
        The worst difference.

    Raises:
        ParityError: a difference is beyond the tolerance of `VersionFiles.reference`.
    """
    served = client.model_info(name)
    reference, tolerance = version.reference(served)
    worst, largest = 0.0, served.max_batch_size or 1
    for count in sorted({1, min(2, largest), min(5, largest), largest}):
        images = random_images(served.preprocess.shape, count)
        expected = reference.predict(images)
        difference = float(np.abs(client.infer(name, images)[0] - expected).max())
        limit = tolerance * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:  # NaN fails too
            raise ParityError(
                f"{client.url}: {name} predicts differently from {reference.path.name} of {version.card.name} "
                f"at batch {count}",
                expected=f"logits within {limit:.1e}",
                found=f"{difference:.1e}",
            )
        worst = max(worst, difference)
    return worst


def random_images(shape: tuple[int, int, int], count: int) -> Pixels:
    """Return images of random blocks, the same in every call: uint8 [count, *shape]."""
    size, _, channels = shape
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), np.uint8)
    index = np.arange(size) * 8 // size
    return coarse[:, index][:, :, index]
