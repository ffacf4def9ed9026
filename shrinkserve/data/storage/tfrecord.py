"""TFRecord files: a sequence of records, each framed with its length and masked CRC-32C checksums.

A record is ``uint64 length | uint32 masked crc of length | data | uint32 masked crc of data``, little-endian
(``tensorflow/core/lib/io/record_writer.h``). Opening a file reads the frames only. Data is read and its checksum
verified one record at a time with `os.pread`, so threads can share a `Shard` without blocking each other.
"""

from __future__ import annotations

import os
import shlex
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_BYTES

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
OVERHEAD = HEADER.size + FOOTER.size
MAX_OPEN_FILES = 256
MAX_RECORD = MAX_BYTES + (1 << 20)
"""The largest record that is read, in bytes: the largest image with its labels. A sparse file may claim any length."""
GZIP = b"\x1f\x8b"
HINT = "fetch this shard again, or skip what is damaged with `shrinkserve data verify --quarantine`"


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of `data`, rotated and offset as TFRecord stores it."""
    from crc32c import crc32c

    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def append_record(stream: BinaryIO, data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    stream.write(length + FOOTER.pack(masked_crc(length)) + data + FOOTER.pack(masked_crc(data)))


class Shard:
    """TFRecord file, read by record number.

    Attributes:
        path: the file.
        name: the file's last two parts, for messages.
        offsets: int64 [records + 1], the start of each record's frame, and the end of the last.
    """

    def __init__(self, path: Path, offsets: npt.NDArray[np.int64]) -> None:
        self.path, self.name, self.offsets = path, shard_title(path), offsets

    @classmethod
    def scan(cls, path: Path, damaged: frozenset[int] = frozenset()) -> Shard:
        """Find the records of `path` by reading its frames.

        Args:
            path: the file.
            damaged: offsets of frames that are known to be damaged; the shard ends before the first of them.

        Raises:
            DataError: unreadable, truncated, or damaged in a frame's length; with the offset.
        """
        shard, error = cls.scan_intact(path)
        if error is not None and int(shard.offsets[-1]) not in damaged:
            raise error
        return shard

    @classmethod
    def scan_intact(cls, path: Path) -> tuple[Shard, DataError | None]:
        """Find the records before the first damaged frame; return them with the error of that frame, if any."""
        offsets: list[int] = []
        error = None
        try:
            for offset in walk(path):
                offsets.append(offset)  # noqa: PERF402 - the offsets found before an error are kept
        except DataError as exc:
            error = exc
        return cls(path, np.array(offsets or [0], dtype=np.int64)), error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def where(self, number: int) -> str:
        """Return a record's name for messages: the shard and the frame's offset in bytes."""
        return f"{self.name} at byte {self.offsets[number]}"

    def read(self, number: int) -> bytes:
        """Return the data of record `number` after checking its checksums.

        Raises:
            DataError: unreadable, truncated or damaged; with the offset.
        """
        start, end = int(self.offsets[number]), int(self.offsets[number + 1])
        if not OVERHEAD <= end - start <= MAX_RECORD + OVERHEAD:
            raise _damaged(self.where(number), "size of the record", f"{OVERHEAD} to {MAX_RECORD} bytes", end - start)
        try:
            # Keep a reference while reading: when two threads open a shard at once, only one file stays in the cache.
            file = _open(self)
            raw = os.pread(file.descriptor, end - start, start)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        if len(raw) != end - start:
            raise _damaged(self.where(number), "truncated record", f"{end - start} bytes", len(raw))
        length, length_crc = HEADER.unpack_from(raw)
        if length != end - start - OVERHEAD or length_crc != masked_crc(raw[:8]):
            raise _damaged(self.where(number), "damaged record header")
        data = raw[HEADER.size : -FOOTER.size]
        (expected,) = FOOTER.unpack_from(raw, len(raw) - FOOTER.size)
        if expected != (found := masked_crc(data)):
            raise _damaged(self.where(number), "checksum of the record", f"{expected:#010x}", f"{found:#010x}")
        return data


def shard_title(path: Path) -> str:
    """Return the last two parts of a shard's path, for messages."""
    return f"{path.parent.name}/{path.name}"


class _OpenFile:
    """A descriptor that stays open as long as a reader refers to it; eviction only drops the cache's reference."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=MAX_OPEN_FILES)  # ImageNet has more shards than a process may have open files
def _open(shard: Shard) -> _OpenFile:
    return _OpenFile(shard.path)


def walk(path: Path) -> Iterator[int]:
    """Yield the offsets of a file's frames and of its end.

    Raises:
        DataError: a damaged frame, after its offset was yielded.
    """
    title = shard_title(path)
    try:
        with path.open("rb", buffering=0) as stream:
            size, offset = os.fstat(stream.fileno()).st_size, 0
            while offset < size:
                yield offset
                where = f"{title} at byte {offset}"
                header = os.pread(stream.fileno(), HEADER.size, offset)
                if offset == 0 and header.startswith(GZIP):
                    raise _compressed(path)
                if len(header) < HEADER.size:
                    raise _damaged(where, "truncated record", found="the end of the file")
                length, crc = HEADER.unpack(header)
                if crc != masked_crc(header[:8]):
                    raise _damaged(where, "damaged record header")
                offset += length + OVERHEAD
                if offset > size:
                    raise _damaged(where, "truncated record", f"{offset} bytes in the file", size)
            if offset:
                yield offset
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _compressed(path: Path) -> DataError:
    old, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    hint = f"decompress it: gunzip < {old} > {new} && mv {new} {old}"
    return DataError("compressed with gzip", where=shard_title(path), expected="an uncompressed file", hint=hint)


def _damaged(where: str, reason: str, expected: object = None, found: object = None) -> DataError:
    return DataError(reason, where=where, expected=expected, found=found, hint=HINT)


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path and its permissions")
