"""Bad images in training: left out, counted, named, and too many of them stop the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from shrinkserve.errors import DataError


@dataclass
class BadImages:
    """The bad images of an epoch.

    Attributes:
        allowed: so many may be met in one epoch.
        found: messages, one an image; each names its file or shard and offset.
    """

    allowed: int
    found: list[str] = field(default_factory=list)

    def add(self, messages: list[str]) -> None:
        """Count more of them; raises `DataError` when they are too many."""
        self.found += messages
        if len(self.found) <= self.allowed:
            return
        if not self.allowed:
            advice = "skip it with `shrinkserve data verify --quarantine`, or allow some with data.max_bad_fraction"
            raise DataError(self.found[0], hint=advice)
        raise DataError(
            f"too many bad images, the last: {self.found[-1]}",
            expected=f"at most {self.allowed} in a process's epoch (data.max_bad_fraction)",
            found=len(self.found),
            hint="look at them with `shrinkserve data verify`",
        )


def one_line(error: DataError) -> str:
    """What a fault says, on one line, without its advice: in training another one is given."""
    return " ".join(str(DataError(error.what, expected=error.expected, found=error.found)).split())
