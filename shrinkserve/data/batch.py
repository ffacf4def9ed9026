"""What loaders hand over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Batch:
    """Images with their labels.

    Attributes:
        images: uint8 [N, S, S, 3], RGB at the network's size, not normalised.
        labels: int64 [N], positions in the dataset's `classes`.
        indices: int64 [N], positions in the dataset.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)
