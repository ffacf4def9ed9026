"""Calibration of a classifier: reliability, expected calibration error (ECE) and the best temperature.

The confidence of a prediction is its softmax probability. A calibrated model is correct for 80 % of the images with a
confidence of 80 % (Guo et al., ICML 2017). All figures are sums over images, so memory is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]

BINS = 15
"""Bins of equal width for the confidence, as in Guo et al."""
TEMPERATURES = np.geomspace(0.25, 4.0, 17)
"""Temperatures at which the negative log-likelihood is measured."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Images of one range of confidence: their number, mean confidence and accuracy."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationRecord:
    """Calibration of a classifier.

    Attributes:
        ece: mean difference between confidence and accuracy over the bins, weighted by their images.
        temperature: divisor of the logits with the highest likelihood of the labels. Above 1, the model is
            overconfident. 0.25 and 4 are the ends of the range that is searched.
        bins: bins that have images, by ascending confidence.
    """

    ece: float
    temperature: float
    bins: list[ReliabilityBin]


@dataclass
class Calibration:
    """Sums over images whose logits are finite: by bin of the confidence, and by temperature."""

    images: list[int] = field(default_factory=lambda: [0] * BINS)
    right: list[int] = field(default_factory=lambda: [0] * BINS)
    confidence: list[float] = field(default_factory=lambda: [0.0] * BINS)
    nll: list[float] = field(default_factory=lambda: [0.0] * len(TEMPERATURES))

    def add(self, logits: Logits, labels: npt.NDArray[np.int64]) -> None:
        """Count a batch: finite logits [N, C], labels [N]."""
        if not len(logits):
            return
        values = logits.astype(np.float64)
        values -= values.max(axis=1, keepdims=True)
        confidence = 1 / np.exp(values).sum(axis=1)
        right = values.argmax(axis=1) == labels
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        part = Calibration(
            images=np.bincount(bins, minlength=BINS).tolist(),
            right=np.bincount(bins, right, minlength=BINS).astype(int).tolist(),
            confidence=np.bincount(bins, confidence, minlength=BINS).tolist(),
            nll=[_nll(values / temperature, labels) for temperature in TEMPERATURES],
        )
        self.merge(part)

    def merge(self, other: Calibration) -> None:
        """Add the sums of other images."""
        self.images = [a + b for a, b in zip(self.images, other.images, strict=True)]
        self.right = [a + b for a, b in zip(self.right, other.right, strict=True)]
        self.confidence = [a + b for a, b in zip(self.confidence, other.confidence, strict=True)]
        self.nll = [a + b for a, b in zip(self.nll, other.nll, strict=True)]

    def to_record(self) -> CalibrationRecord | None:
        """Return the figures; None without an image."""
        total = sum(self.images)
        if not total:
            return None
        gaps = (abs(right - confidence) for right, confidence in zip(self.right, self.confidence, strict=True))
        sums = zip(self.images, self.confidence, self.right, strict=True)
        bins = [ReliabilityBin(count, confidence / count, right / count) for count, confidence, right in sums if count]
        return CalibrationRecord(sum(gaps) / total, _lowest(np.log(TEMPERATURES), np.array(self.nll)), bins)


def _nll(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Return the summed negative log-likelihood of the labels; the largest logit of each row is 0."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(logits).sum(axis=1)) - own).sum())


def _lowest(logs: npt.NDArray[np.float64], nll: npt.NDArray[np.float64]) -> float:
    """Return the temperature at the minimum of a parabola through the lowest point and its neighbours."""
    best = int(nll.argmin())
    if best in {0, len(nll) - 1}:
        return float(np.exp(logs[best]))
    before, at, after = nll[best - 1 : best + 2]
    curvature = before - 2 * at + after
    shift = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(np.exp(logs[best] + shift * (logs[1] - logs[0])))
