"""Bad images in training: they are left out, counted and named, and too many of them stop the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from shrinkserve.errors import DataError


@dataclass
class BadImages:
    """The bad images of an epoch.

    Attributes:
        fraction: the recipe's ``data.max_bad_fraction``.
        images: images of the epoch in this process.
        found: one message for each bad image, with its file, or its shard and offset.
    """

    fraction: float
    images: int
    found: list[str] = field(default_factory=list)

    @property
    def allowed(self) -> int:
        """Number of bad images that do not stop the run."""
        return int(self.fraction * self.images)

    def add(self, messages: list[str]) -> None:
        """Count more bad images.

        Raises:
            DataError: there are more than allowed.
        """
        self.found += messages
        if len(self.found) <= self.allowed:
            return
        if not self.fraction:
            skip = "skip a damaged one with `shrinkserve data verify --quarantine`"
            hint = f"restore a missing image and give --resume; {skip}, or allow some with data.max_bad_fraction"
            raise DataError(self.found[0], hint=hint)
        raise DataError(
            f"too many bad images, the last: {self.found[-1]}",
            expected=f"at most {self.allowed} of {self.images} in a process's epoch (data.max_bad_fraction)",
            found=len(self.found),
            hint="list them with `shrinkserve data verify`, or skip them with its --quarantine",
        )


def one_line(error: DataError) -> str:
    """Return the error message on one line, without the hint."""
    return " ".join(str(DataError(error.what, expected=error.expected, found=error.found)).split())


def with_skip_hint(error: DataError) -> DataError:
    """Return the error with the hint how to leave out the image."""
    hint = "restore it, or skip a damaged image with `shrinkserve data verify --quarantine`"
    return DataError(error.reason, where=error.where, expected=error.expected, found=error.found, hint=hint)
