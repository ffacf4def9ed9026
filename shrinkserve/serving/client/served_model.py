"""A model behind a server, asked like any other artifact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shrinkserve.serving.client.client import Client


class ServedModel:
    """A served classifier as an `Answerer`.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``.
        model: its name; the server's only model by default.

    Raises:
        RequestError: no server there, no such model, or one that is not a classifier of ours.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self.client = Client(url)
        self.model = model or self.client.only_model()
        contract = self.client.contract(self.model)
        self.name, self.classes = f"{self.model} at {url}", contract.classes
        self.preprocess, self.size = contract.preprocess, contract.preprocess.size
        self.largest = max(1, contract.max_batch_size)

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits, float32 [N, classes]; a batch beyond the server's largest is sent in several requests."""
        starts = range(0, len(images), self.largest)
        return np.concatenate([self.client.infer(self.model, images[i : i + self.largest])[0] for i in starts])
