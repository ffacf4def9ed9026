"""Compare the predictions and the latency of two models of one server on the same images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shrinkserve.errors import GateError
from shrinkserve.serving.client.client import Client


@dataclass(frozen=True)
class ShadowComparison:
    """Result of sending the same images, one a request, to two models.

    Attributes:
        requests: number of images.
        flips: images whose most probable class differs.
        before_ms: latency of each request to the first model in milliseconds.
        after_ms: the same for the second model.
    """

    requests: int
    flips: int
    before_ms: tuple[float, ...]
    after_ms: tuple[float, ...]

    @property
    def slowdown(self) -> float:
        """Median latency of the second model divided by that of the first."""
        return float(np.median(self.after_ms) / np.median(self.before_ms))

    def __str__(self) -> str:
        (b50, b99), (a50, a99) = (np.percentile(times, [50, 99]) for times in (self.before_ms, self.after_ms))
        return (
            f"compared on {self.requests} requests: "
            f"{self.flips} predictions differ ({self.flips / self.requests:.2%}); "
            f"p50 {b50:.2f} -> {a50:.2f} ms, p99 {b99:.2f} -> {a99:.2f} ms"
        )


@dataclass(frozen=True)
class ShadowLimits:
    """Limits of a comparison; None is no limit.

    Attributes:
        flips: largest fraction of predictions that may differ, in [0, 1].
        slowdown: largest `ShadowComparison.slowdown`.
    """

    flips: float | None = None
    slowdown: float | None = None

    def check(self, result: ShadowComparison) -> None:
        """Check a comparison against the limits.

        Raises:
            GateError: names each limit that is exceeded.
        """
        part = result.flips / result.requests
        missed = []
        if self.flips is not None and part > self.flips:
            missed.append(f"{part:.2%} of the predictions differ, at most {self.flips:.2%} is allowed")
        if self.slowdown is not None and result.slowdown > self.slowdown:
            missed.append(f"latency is {result.slowdown:.2f} times as high, at most {self.slowdown:.2f} is allowed")
        if missed:
            raise GateError(f"the new version is rejected: {'; '.join(missed)}")


def compare_shadow(
    client: Client, before: str, after: str, images: Sequence[bytes], warm_up: int = 10
) -> ShadowComparison:
    """Send the same images to two models, each prepared by the model's own contract.

    The models take turns, also at being first, so that a change of the machine's speed affects both.

    Args:
        client: of the server that has both models.
        before: name of the first model.
        after: name of the second model.
        images: encoded images, at least one.
        warm_up: requests to each model that are not counted.

    Raises:
        DataError: an image that cannot be read.
        RequestError: the server is gone or rejects a request.
    """
    contracts = {name: client.model_info(name) for name in (before, after)}
    times: dict[str, list[float]] = {before: [], after: []}
    flips, skipped = 0, min(warm_up, len(images))
    for turn, encoded in enumerate([*images[:skipped], *images]):
        labels = {}
        for name in (before, after) if turn % 2 else (after, before):
            contract = contracts[name]
            pixels = contract.preprocess.evaluate_bytes(encoded, f"image {turn}")[None]
            start = time.perf_counter()
            logits, _ = client.infer(name, pixels)
            times[name].append((time.perf_counter() - start) * 1e3)
            labels[name] = contract.classes[int(logits[0].argmax())]
        flips += turn >= skipped and labels[before] != labels[after]
    return ShadowComparison(len(images), flips, tuple(times[before][skipped:]), tuple(times[after][skipped:]))
