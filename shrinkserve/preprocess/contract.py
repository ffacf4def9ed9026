"""The preprocessing contract of a network."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import DataError
from shrinkserve.preprocess.checks import MAX_SIZE, are_numbers, is_colour, is_number, is_size, is_word, one_of
from shrinkserve.preprocess.decode import ChannelOrder, decode
from shrinkserve.preprocess.geometry import (
    Box,
    Geometry,
    ImageLayout,
    crop_box,
    cut_layout,
    letterbox_layout,
    tensorflow_crop_box,
    tpu_box,
)
from shrinkserve.preprocess.render import render
from shrinkserve.preprocess.resize import Interpolation, Pixels

if TYPE_CHECKING:
    from PIL import Image

JsonValue = str | int | float | bool | list[int] | list[float]

OLDEST_FIELDS = ("size", "crop_fraction", "interpolation", "mean", "std")
"""Fields that every description has. Later fields are written only if they differ from their defaults, so that the
descriptions of existing models keep their fingerprint."""
HINT = "export the model again"


@dataclass(frozen=True)
class Preprocess:
    """Evaluation preprocessing: geometry, resize, and the normalisation ``(pixel * scale - mean) / std``.

    The defaults are ShrinkCNN's: central 87.5 % of height and width, bicubic to 224x224, ``(x / 255 - 0.5) * 2``.

    Attributes:
        size: the network's input height and width in pixels.
        crop_fraction: for "squash", the kept part of the height and of the width, in (0, 1]. For "center", `size`
            divided by the shorter side after the resize, as in timm.
        interpolation: resampling filter. "bicubic_tf1" is TensorFlow 1's: no antialiasing, no half-pixel centres.
        mean: per channel, in the network's channel order, on the scale of ``pixel * scale``.
        std: per channel, like `mean`.
        geometry: which part of the image becomes the input.
            "squash": central crop of `crop_fraction`, resized to a square.
            "stretch": the image without a crop, resized to a square.
            "center": timm's default; the shorter side to ``floor(size / crop_fraction)``, then a central crop.
            "resize_crop": torchvision's; the shorter side to `resize_size`, then a central crop.
            "tpu": Google's EfficientNet code; a square of ``size / (size + 32)`` of the shorter side, resized.
            "letterbox": the image fits into the square, with a border of colour `fill`.
        resize_size: the shorter side before the crop, for "resize_crop" only.
        antialias: widen the filter where the image shrinks.
        fill: colour of the letterbox border, RGB.
        scale: factor for the pixels before the normalisation: 1/255, or 1 for a network of values up to 255.
        channel_order: of the network's input; "L" is one grey channel.
        apply_exif: turn an image as its EXIF orientation says.

    Example:
        >>> timm_default = Preprocess(224, 0.875, geometry="center")
        >>> timm_default.layout(500, 375)
        ImageLayout(box=(0, 0, 500, 375), resized=(341, 256), left=58, top=16)
    """

    size: int = 224
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    geometry: Geometry = "squash"
    resize_size: int | None = None
    antialias: bool = True
    fill: tuple[int, int, int] = (0, 0, 0)
    scale: float = 1 / 255
    channel_order: ChannelOrder = "RGB"
    apply_exif: bool = False

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON data, for cards and Triton's config parameters."""
        default = Preprocess()
        found: dict[str, JsonValue] = json.loads(json.dumps(asdict(self)))
        changed = {f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)}
        return {name: value for name, value in found.items() if name in OLDEST_FIELDS or name in changed}

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Preprocess:
        """Read the result of `to_dict`.

        Raises:
            DataError: an unknown or missing field, or a value out of its range.
        """
        names = {f.name for f in fields(cls)}
        if unknown := sorted(map(str, raw.keys() - names)):
            raise DataError("preprocessing description: unknown field", found=", ".join(unknown)[:60], hint=HINT)
        if missing := [name for name in OLDEST_FIELDS if name not in raw]:
            raise DataError("preprocessing description: missing field", expected=", ".join(missing), hint=HINT)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
        found = cls(**values)  # type: ignore[arg-type]
        found.check(hint=HINT)
        return found

    def check(self, hint: str | None = None) -> None:
        """Check each value's type and range.

        Args:
            hint: what to do, for the message.

        Raises:
            DataError: names the first field that is wrong, with what is expected and found.
        """
        for name, expected, found in self.problems():
            raise DataError(f"preprocessing description: {name}", expected=expected, found=found, hint=hint)

    def problems(self) -> list[tuple[str, str, str]]:
        """Return the fields that are wrong: the name, what is expected, and what was found."""
        return [
            (name, expected, repr(getattr(self, name))[:60])
            for name, (valid, expected) in self._checks().items()
            if not valid
        ]

    def _checks(self) -> dict[str, tuple[bool, str]]:
        """Return for each field if its value is valid, and what is expected."""
        known = is_word(self.channel_order, ChannelOrder)
        count = self.channels if known else 3
        if self.geometry == "resize_crop":
            resize_valid, resize_expected = is_size(self.resize_size), f"an integer from 1 to {MAX_SIZE}"
        else:
            resize_valid, resize_expected = self.resize_size is None, "no value (only for geometry resize_crop)"
        return {
            "channel_order": (known, one_of(ChannelOrder)),
            "size": (is_size(self.size), f"an integer from 1 to {MAX_SIZE}"),
            "crop_fraction": (is_number(self.crop_fraction) and 0 < self.crop_fraction <= 1, "above 0 and up to 1"),
            "interpolation": (is_word(self.interpolation, Interpolation), one_of(Interpolation)),
            "mean": (are_numbers(self.mean, count), f"{count} finite numbers"),
            "std": (are_numbers(self.std, count) and all(x > 0 for x in self.std), f"{count} numbers above 0"),
            "geometry": (is_word(self.geometry, Geometry), one_of(Geometry)),
            "resize_size": (resize_valid, resize_expected),
            "antialias": (isinstance(self.antialias, bool), "true or false"),
            "fill": (is_colour(self.fill), "three integers from 0 to 255"),
            "scale": (is_number(self.scale) and self.scale > 0, "a number above 0 (1/255 or 1)"),
            "apply_exif": (isinstance(self.apply_exif, bool), "true or false"),
        }

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return 1 if self.channel_order == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input: height, width, channels."""
        return self.size, self.size, self.channels

    @property
    def fingerprint(self) -> str:
        """Short hash of the description. Two sides with the same fingerprint feed the network the same pixels."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def scale_and_shift(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the normalisation as ``pixel * scale + shift``: two float32 vectors with a value per channel.

        Example:
            >>> scale, shift = Preprocess().scale_and_shift()
            >>> (255 * scale + shift).tolist()
            [1.0, 1.0, 1.0]
        """
        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)

    @property
    def shorter_side(self) -> int:
        """The shorter side after the resize, for "center" (as timm computes it) and "resize_crop"."""
        return self.resize_size or math.floor(self.size / self.crop_fraction)

    def layout(self, width: int, height: int) -> ImageLayout:
        """Return how an image of `width` x `height` pixels becomes the input."""
        size = self.size
        if self.geometry in ("center", "resize_crop"):
            return cut_layout(width, height, self.shorter_side, size)
        if self.geometry == "letterbox":
            return letterbox_layout(width, height, size)
        return ImageLayout(self._resized_box(width, height), (size, size), 0, 0)

    def _resized_box(self, width: int, height: int) -> Box:
        """Return the box of the geometries that resize to the input's size."""
        if self.geometry == "tpu":
            return tpu_box(width, height, self.size)
        if self.geometry == "stretch":
            return 0, 0, width, height
        if self.interpolation == "bicubic_tf1":
            return tensorflow_crop_box(width, height, self.crop_fraction)
        return crop_box(width, height, self.crop_fraction)

    def evaluate(self, image: Image.Image) -> Pixels:
        """Return the pixels that the network sees.

        Args:
            image: from `decode`; for a network of one channel in mode L.

        Returns:
            uint8 [size, size, channels] in the network's channel order.
        """
        mode = "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        layout = self.layout(*image.size)
        pixels = render(image, layout, self.size, self.border(), self.interpolation, self.antialias)
        if self.channel_order == "BGR":
            pixels = pixels[..., ::-1]
        return np.ascontiguousarray(pixels).reshape(self.shape)

    def evaluate_bytes(self, encoded: bytes, name: str = "image") -> Pixels:
        """Return the pixels that the network sees, from an encoded image.

        Raises:
            DataError: not an image that can be decoded.
        """
        return self.evaluate(decode(encoded, name, grey=self.channels == 1, apply_exif=self.apply_exif))

    def border(self) -> int | tuple[int, int, int]:
        """Return the border's colour before the channels are reordered: grey for one channel, else RGB."""
        if self.geometry != "letterbox":
            return (0, 0, 0) if self.channels == 3 else 0
        red, green, blue = self.fill
        return self.fill if self.channels == 3 else (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16

    def approximate_in_dali(self) -> str | None:
        """Return why DALI cannot resize exactly by this description; None where it can, apart from rounding."""
        if self.interpolation == "bicubic_tf1":
            return "DALI has no bicubic filter without half-pixel centres (bicubic_tf1)"
        if self.interpolation == "bicubic" and not self.antialias:
            return "DALI's bicubic filter without antialiasing is another one (a = -0.5, not -0.75)"
        return None
