"""From what a caller has (path, encoded bytes, open file, picture or array) to the pixels that a model expects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_BYTES, Pixels, Preprocess, as_decoded
from shrinkserve.serving.client.errors import shown

if TYPE_CHECKING:
    from PIL.Image import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[np.uint8] | Image"
"""An image: its path, its encoded bytes, a binary file with them, a Pillow image, or its pixels.

Pixels are uint8, height x width x 3, RGB, of any size.
"""
ENCODED_TYPES = bytes | bytearray | memoryview


def numbered(sources: Iterable[Source]) -> Iterator[tuple[int, Source]]:
    """Yield images with their positions.

    Raises:
        DataError: the argument is one image, or nothing that can be iterated over.
    """
    single = isinstance(sources, str | os.PathLike | np.ndarray | ENCODED_TYPES) or hasattr(sources, "read")
    if single or not hasattr(sources, "__iter__"):
        found = f"one {type(sources).__name__}"
        raise DataError("images", expected="a list or another iterable of images", found=found, hint="write [image]")
    return enumerate(sources)


def name_of(source: Source, position: int) -> str:
    """Return the name of an image in messages: its path, or its position."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {position}"


def encoded_bytes(source: Source, name: str) -> bytes:
    """Return the encoded bytes of an image, for a server that decodes it.

    Raises:
        DataError: the file cannot be read or is too large, or the image is not encoded.
    """
    encoded = _read(source, name)
    if encoded is None:
        raise DataError(f"{shown(name)}: not encoded", expected="a path, bytes or a file", found=type(source).__name__)
    if not 0 < len(encoded) <= MAX_BYTES:
        raise DataError(f"{shown(name)}: not an image", expected=f"1 to {MAX_BYTES} bytes", found=len(encoded))
    return encoded


def prepare(source: Source, preprocess: Preprocess, name: str) -> Pixels:
    """Crop and resize an image for a model.

    Returns:
        uint8, shape (size, size, 3), RGB.

    Raises:
        DataError: the image cannot be read or decoded, is too large, or has another type or shape.
    """
    encoded = _read(source, name)
    if encoded is not None:
        return preprocess.evaluate_bytes(encoded, shown(name))
    from PIL import Image

    if isinstance(source, Image.Image):
        try:
            grey = preprocess.channel_order == "L"
            return preprocess.evaluate(as_decoded(source, grey=grey, apply_exif=preprocess.apply_exif))
        except (OSError, ValueError, SyntaxError) as exc:  # Pillow decodes files as late as here
            raise DataError(f"{name}: cannot decode image ({exc})") from exc
    if isinstance(source, np.ndarray):
        if source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3 and source.size:
            return preprocess.evaluate(Image.fromarray(source))
        found = f"{source.dtype} {list(source.shape)}"
        raise DataError(f"{name}: wrong array", expected="uint8 [height, width, 3]", found=found)
    expected = "a path, bytes, a binary file, a Pillow image or a uint8 array"
    raise DataError(f"{name}: not an image", expected=expected, found=type(source).__name__)


def _read(source: Source, name: str) -> bytes | None:
    """Return the encoded bytes of a source, at most `MAX_BYTES` + 1; None for pixels, which are not encoded.

    Raises:
        DataError: they cannot be read.
    """
    if isinstance(source, ENCODED_TYPES):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(os.fspath(source), name)
    if not callable(getattr(source, "read", None)):
        return None
    try:
        encoded = source.read(MAX_BYTES + 1)  # type: ignore[union-attr]
    except (OSError, ValueError) as exc:  # a closed file, or text that is not UTF-8
        raise DataError(f"{name}: cannot be read ({exc})", hint="open the file in binary mode") from exc
    if not isinstance(encoded, bytes):
        hint = "open the file in binary mode"
        raise DataError(f"{name}: cannot be read", expected="bytes", found=type(encoded).__name__, hint=hint)
    return encoded


def _read_file(path: str, name: str) -> bytes:
    if "://" in path:
        raise DataError(f"{shown(name)}: not a path", expected="a local file", found="a URL", hint="download it first")
    if not path:
        raise DataError("image path", expected="a file name", found="an empty text")
    try:
        with Path(path).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise DataError(f"{shown(name)}: cannot be read ({why})", hint="check the path") from exc
