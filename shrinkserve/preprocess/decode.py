"""Decode images, by one policy for all stages.

* Formats: JPEG, PNG, BMP and WebP, recognised by content. Of an animation the first frame is taken.
* Colour models: grey, palette, CMYK and RGB become 8-bit RGB, or 8-bit grey for a network of one channel.
* 16 bits: values are scaled from 0..65535 to 0..255.
* Transparency: the image is placed on white.
* EXIF orientation: ignored, as in the pipelines of ImageNet's published results, unless the contract applies it.

DALI gets such images through `dali_bytes`, so that its decoder sees only what it decodes the same way.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np

from shrinkserve.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ChannelOrder = Literal["RGB", "BGR", "L"]
"""Channel order of a network's input; "L" is one channel."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Pillow's names of the formats that are decoded. Other decoders enlarge the attack surface: EPS runs Ghostscript."""
MAX_BYTES = 64 << 20
"""The largest encoded image that is read, in bytes."""
MAX_PIXELS = 80_000_000
"""The largest image that is decoded, in pixels: a small file can claim a huge picture."""
EXIF_ORIENTATION = 0x0112


def decode(encoded: bytes, name: str = "image", *, grey: bool = False, apply_exif: bool = False) -> Image.Image:
    """Decode an image to 8 bits per channel; the module's docstring states the policy.

    Args:
        encoded: the file's bytes.
        name: name of the image in messages.
        grey: return mode L instead of RGB.
        apply_exif: turn the image as its EXIF orientation says.

    Raises:
        DataError: unknown format, damaged image, or one beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    try:
        return as_decoded(_open(encoded, name), grey=grey, apply_exif=apply_exif)
    except DataError:
        raise
    except Exception as exc:  # Pillow's decoders raise many kinds, down to SyntaxError and struct.error
        raise _undecodable(name, str(exc)) from exc


def as_decoded(image: Image.Image, *, grey: bool = False, apply_exif: bool = False) -> Image.Image:
    """Return a Pillow image of any mode as `decode` returns its file."""
    if apply_exif:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    return _opaque(_eight_bits(image)).convert("L" if grey else "RGB")


def dali_bytes(encoded: bytes, name: str = "image", *, apply_exif: bool = False) -> bytes:
    """Return bytes that DALI decodes to the pixels of `decode`.

    A JPEG or PNG in 8-bit grey or RGB is returned as it is. All else (CMYK, palette, transparency, 16 bits, BMP, WebP)
    is decoded here and returned as an uncompressed BMP.

    Raises:
        DataError: not an image, or too large. A damaged JPEG or PNG may pass, since only its header is read.
    """
    try:
        with _open(encoded, name) as image:
            formats = ("JPEG", "MPO") if apply_exif else ("JPEG", "MPO", "PNG")  # DALI reads EXIF of JPEG only
            if image.format in formats and image.mode in ("RGB", "L") and not _has_alpha(image):
                return encoded
    except DataError:
        raise
    except Exception as exc:  # see `decode`
        raise _undecodable(name, str(exc)) from exc
    return as_bmp(decode(encoded, name, apply_exif=apply_exif))


def as_bmp(image: Image.Image) -> bytes:
    """Return an uncompressed file of an image, which every decoder reads the same way."""
    stream = io.BytesIO()
    image.save(stream, "BMP")
    return stream.getvalue()


def _open(encoded: bytes, name: str) -> Image.Image:
    """Read the header, and check the format and the size."""
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    if len(encoded) > MAX_BYTES:
        raise DataError("the file is too large", where=name, expected=f"at most {MAX_BYTES} bytes", found=len(encoded))
    try:
        image = pil.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:  # its message is an address in memory
        raise DataError(
            "cannot decode image: unknown format",
            where=name,
            expected="JPEG, PNG, BMP or WebP",
            found=f"a file that begins with {encoded[:8]!r}",
        ) from None
    except pil.DecompressionBombError as exc:
        raise DataError(f"the picture is too large ({exc})", where=name) from exc
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise DataError("the picture is too large", where=name, expected=f"at most {MAX_PIXELS} pixels", found=size)
    return image


def _undecodable(name: str, reason: str) -> DataError:
    return DataError(f"cannot decode image ({reason})", where=name, hint="replace it with an intact JPEG or PNG")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits. `Image.convert` would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image as pil

    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return pil.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Place an image with transparency on white."""
    if not _has_alpha(image):
        return image
    from PIL import Image as pil

    image = image.convert("RGBA")
    return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
