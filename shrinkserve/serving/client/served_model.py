"""A model behind a server, with the interface of a model in this process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shrinkserve.runtimes.predictor import check_images
from shrinkserve.serving.client.client import Client


class ServedModel:
    """A served classifier as a `Predictor`; a context manager.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT``.
        model: its name; the server's only model by default.

    Raises:
        RequestError: the server is not reachable, or it has no such model, or the model is not from this package.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self.client = Client(url)
        try:
            self.model = model or self.client.only_model()
            info = self.client.model_info(self.model)
        except BaseException:
            self.client.close()
            raise
        self.name, self.classes = f"{self.model} at {url}", info.classes
        self.preprocess, self.size = info.preprocess, info.preprocess.size
        self.largest = max(1, info.max_batch_size)

    def __repr__(self) -> str:
        return f"ServedModel({self.client.url!r}, {self.model!r}, size={self.size}, classes={len(self.classes)})"

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return logits, float32 [N, classes]; a batch beyond the server's limit is sent in several requests."""
        check_images(images, self.size)
        if not len(images):
            return np.empty((0, len(self.classes)), np.float32)
        starts = range(0, len(images), self.largest)
        return np.concatenate([self.client.infer(self.model, images[i : i + self.largest])[0] for i in starts])

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
