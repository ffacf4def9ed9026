"""Where a tensor's own channels are among the padded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shrinkserve.exporting.passes.editing import Array


@dataclass(frozen=True)
class ChannelLayout:
    """`places[i]` is the position of channel i among `size` channels; the others are padding."""

    places: tuple[int, ...]
    size: int

    @classmethod
    def dense(cls, count: int) -> ChannelLayout:
        """No padding."""
        return cls(tuple(range(count)), count)

    @classmethod
    def blocked(cls, count: int, groups: int, block: int) -> ChannelLayout:
        """Each of `groups` equal runs of channels padded at its end to whole blocks."""
        each = count // groups
        room = -(-each // block) * block
        return cls(tuple(g * room + i for g in range(groups) for i in range(each)), groups * room)

    @classmethod
    def joined(cls, layouts: Sequence[ChannelLayout]) -> ChannelLayout:
        """Of a concat."""
        starts = np.cumsum([0, *(layout.size for layout in layouts)])
        places = [int(start) + p for start, layout in zip(starts, layouts, strict=False) for p in layout.places]
        return cls(tuple(places), int(starts[-1]))

    @property
    def is_dense(self) -> bool:
        return self.places == tuple(range(self.size))

    def parts(self, groups: int) -> list[ChannelLayout] | None:
        """What the groups of a convolution read, or None where channels of one group are in another one's part."""
        if self.size % groups or len(self.places) % groups:
            return None
        each, room = len(self.places) // groups, self.size // groups
        cut = [[p - g * room for p in self.places[g * each : (g + 1) * each]] for g in range(groups)]
        if any(not 0 <= place < room for places in cut for place in places):
            return None
        return [ChannelLayout(tuple(places), room) for places in cut]

    def spread(self, array: Array, axis: int = 0) -> Array:
        """`array` with zeros for the padding on `axis`."""
        shape = list(array.shape)
        shape[axis] = self.size
        result = np.zeros(shape, array.dtype)
        np.moveaxis(result, axis, 0)[list(self.places)] = np.moveaxis(array, axis, 0)
        return result

    def gathered(self, array: Array) -> Array:
        """The channels without the padding, on the first axis."""
        return array[list(self.places)]
