"""Shared by all writers of the ImageNet layout: the record of one image, and the check of the target folder."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.data.storage import quarantine
from shrinkserve.data.storage.example import encode_example
from shrinkserve.data.storage.shards import LABELS, PREFIXES
from shrinkserve.errors import DataError

OURS = frozenset({LABELS, quarantine.FILE, *(folder for folder, _ in PREFIXES.values())})


def example(encoded: bytes, *, size: tuple[int, int], label: int, synset: str, text: str, filename: str) -> bytes:
    """Serialise one image as a `tf.train.Example` with the keys of TensorFlow's public ImageNet builder.

    Args:
        encoded: the JPEG file's bytes.
        size: width and height in pixels.
        label: 1..N.
        synset: the class's identifier, e.g. ``n01440764``.
        text: the class's name for people.
        filename: the image's file name.
    """
    width, height = size
    boxes = {f"image/object/bbox/{edge}": list[float]() for edge in ("xmin", "xmax", "ymin", "ymax")}
    return encode_example(
        {
            "image/encoded": encoded,
            "image/class/label": label,
            "image/class/synset": synset,
            "image/class/text": text,
            "image/height": height,
            "image/width": width,
            "image/channels": 3,
            "image/colorspace": "RGB",
            "image/format": "JPEG",
            "image/filename": filename,
            "image/object/bbox/label": list[int](),
            **boxes,
        }
    )


def refuse_foreign_folder(target: Path) -> None:
    """Refuse to replace a folder that contains anything but a dataset in this layout.

    Raises:
        DataError: names other files that are there.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target}: is a file", expected="a new folder", hint="choose another place")
    foreign = sorted(p.name for p in target.iterdir() if p.name not in OURS)
    if foreign:
        raise DataError(
            f"{target}: contains other files",
            expected="a new folder",
            found=", ".join(foreign[:5]),
            hint="choose another place",
        )
