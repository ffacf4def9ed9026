"""The client: what a URL serves, and what it answers."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import RequestError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.contract import Contract, from_config
from shrinkserve.serving.model_config import LOGITS, PROBABILITIES
from shrinkserve.serving.transport import Question, Reply, UnavailableError, UnknownModelError, connect

Floats = npt.NDArray[np.float32]


class Client:
    """One connection to a Triton server, for one thread; a context manager.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT`` (``https``, ``grpcs`` with TLS).
        timeout: seconds that one request may take.

    Raises:
        ConfigError: not such a URL.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.url = url
        self._transport = connect(url, timeout)

    def ready(self) -> bool:
        """Whether a server is there and ready."""
        try:
            return self._transport.ready()
        except UnavailableError:
            return False

    def models(self) -> list[str]:
        """Names of the models that are ready, sorted.

        Raises:
            RequestError: the server is not there.
        """
        # Not from the repository index: that belongs to the model control API, which servers close to the public.
        return sorted({one["name"] for one in self._transport.statistics()})

    def contract(self, model: str) -> Contract:
        """What the model expects and what its answers mean.

        Raises:
            RequestError: the server is not there, or has no such model or one of another origin.
        """
        try:
            config = self._transport.config(model)
            contract = from_config(config, classes=[])
            contract.classes.extend(self._classes(contract, config.output[-1].dims[0]))
        except UnknownModelError as fault:
            raise self._unknown(model) from fault
        return contract

    def infer(
        self, model: str, images: Pixels, *, version: int | None = None, priority: int = 0
    ) -> tuple[Floats, Floats]:
        """Have images classified.

        Args:
            model: its name.
            images: uint8 [N, S, S, 3], RGB at the network's size, N at most the model's ``max_batch_size``.
            version: of the model; the one that answers when None.
            priority: 1 is served first; 0 for the model's default.

        Returns:
            Logits and probabilities, float32 [N, classes] each.

        Raises:
            RequestError: the server is not there, went away, has no such model or refuses the images.
        """
        reply = self.ask(
            Question(model, images, {LOGITS: 0, PROBABILITIES: 0}, "" if version is None else str(version), priority)
        )
        return reply.tensors[LOGITS], reply.tensors[PROBABILITIES]

    def ask(self, question: Question) -> Reply:
        """Send one request as it is; `infer` and what the server says of its answer.

        Raises:
            RequestError: as `infer`.
        """
        try:
            return self._transport.infer(question)
        except UnknownModelError as fault:
            raise self._unknown(question.model, question.version) from fault

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own account of a model: counts and nanoseconds in queue and computation since it was loaded.

        Returns:
            ``model_stats`` of Triton's statistics extension: ``inference_count``, ``inference_stats``,
            ``batch_stats`` and so on; fields that are zero may be missing.

        Raises:
            RequestError: the server is not there or has no such model.
        """
        try:
            return max(self._transport.statistics(model), key=lambda one: int(one["version"]))
        except UnknownModelError as fault:
            raise self._unknown(model) from fault

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _classes(self, contract: Contract, count: int) -> list[str]:
        # Triton hands out labels with answers only: ask for all classes of a blank image.
        blank = np.zeros((1, contract.preprocess.size, contract.preprocess.size, 3), np.uint8)
        question = Question(contract.model, blank, {PROBABILITIES: count})
        names = [str(index) for index in range(count)]
        for entry in self._transport.infer(question).tensors[PROBABILITIES].ravel():
            _, index, *label = entry.decode().split(":", 2)
            names[int(index)] = label[0] if label else index
        return names

    def _unknown(self, model: str, version: str = "") -> RequestError:
        served = self._transport.statistics()
        versions = ", ".join(one["version"] for one in served if one["name"] == model)
        if versions:
            return RequestError(f"{self.url}: no such version of {model} is ready", expected=versions, found=version)
        names = ", ".join(sorted({one["name"] for one in served})) or "none"
        return RequestError(f"{self.url}: no such model is ready", expected=f"one of {names}", found=model)
