"""From what a caller has, a path, encoded bytes or an array, to the pixels that a model is asked about."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_BYTES, Pixels, Preprocess

Source = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]
"""An image: its path, its encoded bytes, or its pixels (uint8, height x width x 3, RGB, of any size)."""


def numbered(sources: Iterable[Source]) -> Iterator[tuple[int, Source]]:
    """Images with their positions.

    Raises:
        DataError: one image, whose letters or bytes would be taken for many.
    """
    if isinstance(sources, str | os.PathLike | bytes):
        found = f"one ({type(sources).__name__})"
        raise DataError("images", expected="a list or another iterable of them", found=found, hint="write [image]")
    return enumerate(sources)


def name_of(source: Source, position: int) -> str:
    """What to call an image in a message: its path, or its place among the others."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {position}"


def encoded_bytes(source: Source, name: str) -> bytes:
    """An image as a server decodes it: a file's content, or bytes as they are.

    Raises:
        DataError: a file that cannot be read or is too large; pixels, which are not encoded.
    """
    if isinstance(source, np.ndarray):
        raise DataError(f"{name}: not an encoded image", expected="a path or bytes", found="pixels")
    encoded = source if isinstance(source, bytes) else _read(Path(source))
    if not 0 < len(encoded) <= MAX_BYTES:
        raise DataError(f"{name}: not an image", expected=f"1 to {MAX_BYTES} bytes", found=len(encoded))
    return encoded


def prepare(source: Source, preprocess: Preprocess, name: str) -> Pixels:
    """Crop and resize an image as the model's contract says.

    Returns:
        uint8, shape (size, size, 3), RGB.

    Raises:
        DataError: a file that cannot be read, is not an image, or is too large; an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _prepare_array(source, preprocess, name)
    encoded = source if isinstance(source, bytes) else _read(Path(source))
    return preprocess.evaluate_bytes(encoded, name)


def _prepare_array(array: npt.NDArray[np.uint8], preprocess: Preprocess, name: str) -> Pixels:
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"{name}: not an image", expected="uint8 [height, width, 3]", found=f"{array.dtype} {list(array.shape)}"
        )
    return preprocess.evaluate(Image.fromarray(array))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)  # one more than is allowed, for `decode` to see and to say
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror})", hint="check the path") from exc
