"""Two models of one server, asked the same: which answers differ, and which is faster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shrinkserve.errors import GateError
from shrinkserve.serving.client.client import Client


@dataclass(frozen=True)
class ShadowComparison:
    """What the same images, one a request, got from two models.

    Attributes:
        requests: images that each was asked about.
        flips: images whose most probable class differs.
        before_ms: milliseconds of each request to the first, from send to answer.
        after_ms: the same for the second.
    """

    requests: int
    flips: int
    before_ms: tuple[float, ...]
    after_ms: tuple[float, ...]

    @property
    def slowdown(self) -> float:
        """Median time of the second over that of the first."""
        return float(np.median(self.after_ms) / np.median(self.before_ms))

    def __str__(self) -> str:
        (b50, b99), (a50, a99) = (np.percentile(times, [50, 99]) for times in (self.before_ms, self.after_ms))
        return (
            f"compared on {self.requests} requests: {self.flips} answers differ ({self.flips / self.requests:.2%}); "
            f"p50 {b50:.2f} -> {a50:.2f} ms, p99 {b99:.2f} -> {a99:.2f} ms"
        )


@dataclass(frozen=True)
class ShadowLimits:
    """What a comparison must hold; None: anything.

    Attributes:
        flips: largest part of the answers that may differ, in [0, 1].
        slowdown: largest `Comparison.slowdown`.
    """

    flips: float | None = None
    slowdown: float | None = None

    def check(self, result: ShadowComparison) -> None:
        """Refuse a comparison beyond the limits.

        Raises:
            GateError: names each that it missed.
        """
        part = result.flips / result.requests
        missed = []
        if self.flips is not None and part > self.flips:
            missed.append(f"{part:.2%} of the answers differ, at most {self.flips:.2%} may")
        if self.slowdown is not None and result.slowdown > self.slowdown:
            missed.append(f"it takes {result.slowdown:.2f} times as long, at most {self.slowdown:.2f} is allowed")
        if missed:
            raise GateError(f"the new version is refused: {'; '.join(missed)}")


def compare_shadow(
    client: Client, before: str, after: str, images: Sequence[bytes], warm_up: int = 10
) -> ShadowComparison:
    """Ask two models about the same images, each image prepared by either's own contract.

    They take turns, and take turns at being first, so that a machine that changes its pace is fair to both.

    Args:
        client: of the server that has both.
        before: name of the first model.
        after: name of the second.
        images: encoded, at least one.
        warm_up: requests to each that are not counted.

    Raises:
        DataError: an image that cannot be read.
        RequestError: the server went away or refuses.
    """
    contracts = {name: client.model_info(name) for name in (before, after)}
    times: dict[str, list[float]] = {before: [], after: []}
    flips = 0
    for turn, encoded in enumerate([*images[:warm_up], *images]):
        labels = {}
        for name in (before, after) if turn % 2 else (after, before):
            contract = contracts[name]
            pixels = contract.preprocess.evaluate_bytes(encoded, f"image {turn}")[None]
            start = time.perf_counter()
            logits, _ = client.infer(name, pixels)
            times[name].append((time.perf_counter() - start) * 1e3)
            labels[name] = contract.classes[int(logits[0].argmax())]
        flips += turn >= min(warm_up, len(images)) and labels[before] != labels[after]
    skipped = min(warm_up, len(images))
    return ShadowComparison(len(images), flips, tuple(times[before][skipped:]), tuple(times[after][skipped:]))
