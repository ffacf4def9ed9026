"""Requests that a client can make, and their results, independent of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT

T = TypeVar("T")
Tensor = npt.NDArray[Any]
Flow = Generator["Operation[Any]", Any, T]
"""Logic without input and output: yields operations, receives their results or errors, and returns a result."""


class StatisticDuration(TypedDict, total=False):
    """Number and total duration of some events."""

    count: int
    ns: int


class RequestStatistics(TypedDict, total=False):
    """Time of requests in each phase inside the server."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class BatchStatistics(TypedDict, total=False):
    """Executions of one batch size."""

    batch_size: int
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class ModelStatistics(TypedDict, total=False):
    """Statistics of one version of a model since it was loaded. Counts of zero may be missing."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: RequestStatistics
    batch_stats: list[BatchStatistics]


@dataclass(frozen=True)
class InferResult:
    """Output tensors by name, and the version of the model that computed them."""

    tensors: dict[str, Tensor]
    version: int


class Operation(Generic[T]):
    """Step of a `Flow` that a driver performs; `T` is its result."""

    restricted: ClassVar[bool] = False
    """True for requests that a server may restrict to those who know its token."""


def perform(operation: Operation[T]) -> Flow[T]:
    """Yield an operation and return its result, with the type of the result."""
    result: T = yield operation
    return result


@dataclass(frozen=True)
class Pause(Operation[None]):
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Compute(Operation[T]):
    """Call a function that uses the CPU or reads files; asyncio calls it in a thread."""

    function: Callable[[], T]


@dataclass(frozen=True)
class ReadyRequest(Operation[bool]):
    """Ask if the server is ready."""


@dataclass(frozen=True)
class ConfigRequest(Operation[pb.ModelConfig]):
    """Get the configuration of a model."""

    model: str


@dataclass(frozen=True)
class StatisticsRequest(Operation[list[ModelStatistics]]):
    """Get the statistics of all versions of a model, or of all models."""

    model: str = ""


@dataclass(frozen=True)
class InferRequest(Operation[InferResult]):
    """Run one inference.

    Attributes:
        model: name of the model.
        images: uint8 [N, S, S, 3]; or [1, bytes] for an input that takes an encoded image.
        outputs: output name -> 0 for its tensor, or k for its top k as ``b"value:index:label"``.
        version: of the model; empty for the active one.
        priority: 1 is served first; 0 for the model's default.
        tensor: name of the input.
        region: name of the shared memory that contains the images; None to send them.
    """

    model: str
    images: Tensor
    outputs: Mapping[str, int]
    version: str = ""
    priority: int = 0
    tensor: str = INPUT
    region: str | None = None

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the images as one block of memory."""
        return np.ascontiguousarray(self.images, np.uint8)


@dataclass(frozen=True)
class LoadRequest(Operation[None]):
    """Load a model, or load it again.

    Attributes:
        model: name of the model.
        config: with `files`, what to load instead of the repository's model of that name.
        files: contents by path in the model's folder, e.g. ``1/model.onnx``.
    """

    restricted = True
    model: str
    config: pb.ModelConfig | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class UnloadRequest(Operation[None]):
    """Unload a model."""

    restricted = True
    model: str


@dataclass(frozen=True)
class RegisterRegion(Operation[None]):
    """Make a region of shared memory known to the server."""

    restricted = True
    region: str
    size: int


@dataclass(frozen=True)
class UnregisterRegion(Operation[None]):
    """Make the server forget a region of shared memory."""

    restricted = True
    region: str
