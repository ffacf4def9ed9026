"""What everything that answers has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""uint8 [N, S, S, 3], RGB at the network's size, not normalised."""
Logits = npt.NDArray[np.float32]
"""float32 [N, classes]."""


class Answerer(Protocol):
    """A network that can be asked, whatever runs it.

    Attributes:
        name: what reports call it.
        size: height and width of the images it takes, in pixels.
        classes: class names in the order of the logits.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def classes(self) -> Sequence[str]: ...

    def answer(self, images: Images) -> Logits:
        """The logits of a batch of any size from 1."""
        ...
