"""The one description of what happens to an image before the network.

Training's evaluation, the exporter's parity checks, the server's DALI pipeline and the client all read this
description, so there is one answer to "which pixels does the network see". Between stages an image is
always **uint8, HWC, RGB at the network's size**; the normalisation is inside the exported graph.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 64 << 20
"""The largest encoded image that is read, in bytes."""
MAX_SIZE = 4096
"""The largest input height and width of a network, in pixels."""
LIMIT = 1e9
"""Numbers of a description are smaller than this: refuses infinity, NaN and integers that no float represents."""
MAX_PIXELS = 80_000_000
"""The largest image that is decoded, in pixels: a small file can claim a huge picture."""


@dataclass(frozen=True)
class Preprocess:
    """Evaluation preprocessing: central crop, resize, and the normalisation ``(x / 255 - mean) / std``.

    The defaults are ShrinkCNN's: central 87.5 % of height and width, bicubic to 224x224, ``(x - 0.5) * 2``.

    Attributes:
        size: the network's input height and width in pixels.
        crop_fraction: part of the height and of the width that is kept, in (0, 1].
        interpolation: resampling filter, antialiased when it shrinks.
        mean: per channel (RGB), on the scale [0, 1].
        std: per channel (RGB), on the scale [0, 1].
    """

    size: int = 224
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, for cards and Triton's config parameters."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Preprocess:
        """Read back what `to_dict` wrote; raises `DataError` when it is something else."""
        try:
            found = cls(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})
        except (TypeError, KeyError) as exc:
            raise DataError(f"not a preprocessing description ({exc})", hint="export the model again") from exc
        for name, (valid, expected) in found._checks().items():
            if not valid:
                shown = repr(getattr(found, name))[:60]
                what = f"preprocessing description: {name}"
                raise DataError(what, expected=expected, found=shown, hint="export the model again")
        return found

    def _checks(self) -> dict[str, tuple[bool, str]]:
        """Return for each field if its value is valid, and what is expected."""
        filters = get_args(Interpolation)
        size_valid = type(self.size) is int and 0 < self.size <= MAX_SIZE
        return {
            "size": (size_valid, f"an integer from 1 to {MAX_SIZE}"),
            "crop_fraction": (_is_number(self.crop_fraction) and 0 < self.crop_fraction <= 1, "above 0 and up to 1"),
            "interpolation": (self.interpolation in filters, f"one of {', '.join(filters)}"),
            "mean": (len(self.mean) == 3 and all(map(_is_number, self.mean)), "three finite numbers"),
            "std": (len(self.std) == 3 and all(_is_number(x) and x > 0 for x in self.std), "three numbers above 0"),
        }

    @property
    def contract(self) -> str:
        """A short hash of the description: two sides with the same one feed the network the same pixels."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The central crop as whole pixels: left, top, right, bottom."""
        kept_w = max(1, round(width * self.crop_fraction))
        kept_h = max(1, round(height * self.crop_fraction))
        left, top = (width - kept_w) // 2, (height - kept_h) // 2
        return left, top, left + kept_w, top + kept_h

    def evaluate(self, image: Image.Image) -> Pixels:
        """The pixels that the network sees.

        Returns:
            uint8, shape (size, size, 3), RGB.
        """
        from PIL import Image as pil

        resample = pil.Resampling[self.interpolation.upper()]
        shrunk = image.resize((self.size, self.size), resample, box=self.crop_box(*image.size))
        return np.asarray(shrunk, dtype=np.uint8)

    def evaluate_bytes(self, encoded: bytes, name: str = "image") -> Pixels:
        """`decode` and `evaluate` in one step."""
        return self.evaluate(decode(encoded, name))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LIMIT


def decode(encoded: bytes, name: str = "image") -> Image.Image:
    """Decode an encoded image (JPEG, PNG, ...) of any colour model to RGB.

    The EXIF orientation is not applied: the ImageNet pipelines that published results come from ignore it.

    Args:
        encoded: the file's bytes.
        name: what to call it in a message.

    Raises:
        DataError: not an image, a damaged one, or one beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    if len(encoded) > MAX_BYTES:
        raise DataError(f"{name}: the file is too large", expected=f"at most {MAX_BYTES} bytes", found=len(encoded))
    try:
        image = pil.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}x{image.height}"
            raise DataError(f"{name}: the picture is too large", expected=f"at most {MAX_PIXELS} pixels", found=size)
        return image.convert("RGB")
    except DataError:
        raise
    except Exception as exc:  # Pillow's decoders raise many kinds, down to SyntaxError and struct.error
        # The message of the first kind is an address in memory.
        why = "of no format that is known" if isinstance(exc, UnidentifiedImageError) else exc
        raise DataError(f"{name}: not an image that can be decoded ({why})", hint="give a whole JPEG or PNG") from exc


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Pillow's names of the formats of `IMAGE_SUFFIXES`. Its other decoders are more to attack: EPS starts Ghostscript."""


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as they are given, folders as the images in them, sorted by name.

    Raises:
        DataError: a path that does not exist, or a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(f"{path}: no image in this folder", expected=f"files ending in {kinds}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder", hint="check the path")
    return found
