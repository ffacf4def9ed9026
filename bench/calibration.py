"""Measure what a temperature does to the calibration of images that it was not fitted to.

    python bench/calibration.py RUN --data DIR [--splits 20]

The validation images are split in two random halves, again and again. A temperature is fitted to one half, and the
expected calibration error (ECE) of the other half is measured without and with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.calibration import Calibration, CalibrationRecord
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.runtimes.checkpoint import Checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    model = Checkpoint(options.run)
    batches = list(evaluation_batches(open_dataset(options.data, "validation"), model.preprocess, 64))
    logits = np.concatenate([model.predict(batch.images) for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    print(f"{len(labels)} images, top-1 {(logits.argmax(axis=1) == labels).mean():.2%}")
    everything = measure(logits, labels)
    after = measure(logits / np.float32(everything.temperature), labels)
    print(f"fitted and measured on all images: ECE {everything.ece:.3f} before, {after.ece:.3f} after")
    pairs = np.array([held_out(logits, labels, seed) for seed in range(options.splits)])
    (before, after_half), (_, low), (_, high) = (np.quantile(pairs, q, axis=0) for q in (0.5, 0.1, 0.9))
    print(
        f"fitted to one half, measured on the other: ECE {before:.3f} before, {after_half:.3f} after"
        f" (median of {options.splits} splits; 80 % of them from {low:.3f} to {high:.3f})"
    )


def held_out(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Return the ECE of one random half without and with the temperature of the other half."""
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, judged = order[: len(order) // 2], order[len(order) // 2 :]
    temperature = np.float32(measure(logits[fitted], labels[fitted]).temperature)
    halves = (logits[judged], logits[judged] / temperature)
    before, after = (measure(half, labels[judged]).ece for half in halves)
    return before, after


def measure(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> CalibrationRecord:
    calibration = Calibration()
    calibration.add(logits, labels)
    record = calibration.to_record()
    assert record is not None
    return record


if __name__ == "__main__":
    main()
