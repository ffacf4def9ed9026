"""Positions of a tensor's channels among padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shrinkserve.exporting.passes.nodes import Array


@dataclass(frozen=True)
class ChannelLayout:
    """Positions of channels in a padded tensor: `places[i]` is channel i's place among `size` channels."""

    places: tuple[int, ...]
    size: int

    @classmethod
    def dense(cls, count: int) -> ChannelLayout:
        """Return the layout without padding."""
        return cls(tuple(range(count)), count)

    @classmethod
    def blocked(cls, count: int, groups: int, block: int) -> ChannelLayout:
        """Return the layout in which each of `groups` runs of channels is padded at its end to full blocks."""
        each = count // groups
        room = -(-each // block) * block
        return cls(tuple(g * room + i for g in range(groups) for i in range(each)), groups * room)

    @classmethod
    def joined(cls, layouts: Sequence[ChannelLayout]) -> ChannelLayout:
        """Return the layout of a concat."""
        starts = np.cumsum([0, *(layout.size for layout in layouts)])
        places = [int(start) + p for start, layout in zip(starts, layouts, strict=False) for p in layout.places]
        return cls(tuple(places), int(starts[-1]))

    @property
    def is_dense(self) -> bool:
        return self.places == tuple(range(self.size))

    def parts(self, groups: int) -> list[ChannelLayout] | None:
        """Return the layout of each group's input; None if a group's channels lie in the part of another group."""
        if self.size % groups or len(self.places) % groups:
            return None
        each, room = len(self.places) // groups, self.size // groups
        cut = [[p - g * room for p in self.places[g * each : (g + 1) * each]] for g in range(groups)]
        if any(not 0 <= place < room for places in cut for place in places):
            return None
        return [ChannelLayout(tuple(places), room) for places in cut]

    def spread(self, array: Array, axis: int = 0) -> Array:
        """Return `array` with zeros for the padding on `axis`."""
        shape = list(array.shape)
        shape[axis] = self.size
        result = np.zeros(shape, array.dtype)
        np.moveaxis(result, axis, 0)[list(self.places)] = np.moveaxis(array, axis, 0)
        return result

    def gathered(self, array: Array) -> Array:
        """Return the channels on the first axis of `array` without the padding."""
        return array[list(self.places)]
