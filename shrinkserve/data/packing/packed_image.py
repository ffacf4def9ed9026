"""The JPEG that a shard gets for an image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from shrinkserve.data.loading.pixels import plain_jpeg_size
from shrinkserve.data.packing.sources import SourceImage
from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_BYTES, decode

QUALITY = 95
"""JPEG quality of images that are made smaller."""
ORIENTATION = 0x0112
"""EXIF tag."""


@dataclass(frozen=True)
class Shrink:
    """Shorter side to which large images are shrunk with Lanczos, and the quality of their JPEG."""

    side: int
    quality: int = QUALITY

    def apply(self, image: Image.Image, encoded: bytes) -> tuple[bytes, tuple[int, int]]:
        """Return a smaller JPEG of an image, with its EXIF orientation, and its width and height."""
        factor = self.side / min(image.size)
        width, height = (max(self.side, round(factor * side)) for side in image.size)
        stream, exif = io.BytesIO(), Image.Exif()
        with Image.open(io.BytesIO(encoded)) as original:
            if ORIENTATION in (found := original.getexif()):
                exif[ORIENTATION] = found[ORIENTATION]
        smaller = image.resize((width, height), Image.Resampling.LANCZOS)
        smaller.save(stream, "JPEG", quality=self.quality, exif=exif)
        return stream.getvalue(), (width, height)


def read_source(source: SourceImage) -> bytes:
    """Return the encoded bytes of an image.

    Raises:
        DataError: too large, or its file cannot be read.
    """
    if source.size > MAX_BYTES:
        raise DataError(f"{source.filename}: too large", expected=f"at most {MAX_BYTES} bytes", found=source.size)
    try:
        with Path(source.path).open("rb") as stream:
            stream.seek(source.offset)
            return stream.read(source.size)
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", where=source.path, hint="check its permissions") from exc


def as_jpeg(encoded: bytes, source: SourceImage, shrink: Shrink | None) -> tuple[bytes, tuple[int, int]]:
    """Return the image as a JPEG that every reader decodes, with its width and height.

    The bytes of such a JPEG are kept, also of a grey or progressive one. A PNG, or a JPEG in CMYK, is encoded as JPEG.

    Args:
        encoded: the image.
        source: where it comes from, for messages.
        shrink: how to shrink a large image; None keeps its size.

    Raises:
        DataError: it cannot be decoded.
    """
    name = source.path if source.offset == 0 else f"{source.path}: {source.filename}"
    image = decode(encoded, name)
    if shrink is not None and min(image.size) > shrink.side:
        return shrink.apply(image, encoded)
    if plain_jpeg_size(encoded) is None:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=100, subsampling=0)
        encoded = stream.getvalue()
    return encoded, image.size
