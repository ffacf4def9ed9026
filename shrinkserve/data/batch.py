"""The batches that loaders return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shrinkserve.preprocess import Pixels

if TYPE_CHECKING:
    from torch import Tensor

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Images with their labels, for evaluation.

    Attributes:
        images: uint8 [N, S, S, channels] at the network's size, not normalised.
        labels: int64 [N], positions in the dataset's `classes`.
        indices: int64 [N], positions in the dataset.
    """

    images: Pixels
    labels: Labels
    indices: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ColourMaps:
    """Changes of colour that a loader leaves to the device; `shrinkserve.training.update.colour` applies them.

    Attributes:
        matrices: float32 [N, 3, 4], for each image an affine map of RGB in [0, 255]; the last column is the offset.
        erased: int32 [N, 4], left, top, right and bottom of the box of each image whose colours stay as they are.
    """

    matrices: npt.NDArray[np.float32]
    erased: npt.NDArray[np.int32]


@dataclass(frozen=True)
class TrainBatch:
    """Augmented images with their labels.

    Attributes:
        images: uint8 [N, S, S, 3], RGB at the network's size, not normalised. DALI on a GPU returns a CUDA tensor,
            every other loader an array.
        labels: int64 [N], positions in the dataset's `classes`.
        indices: int64 [N], positions in the dataset.
        colour: the changes of colour that `images` lack; None if nothing is left to do.
    """

    images: Pixels | Tensor
    labels: Labels
    indices: Labels
    colour: ColourMaps | None = None

    def __len__(self) -> int:
        return len(self.labels)
