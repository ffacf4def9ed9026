from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.data.storage.index import index_path, open_shard
from shrinkserve.data.storage.tfrecord import OVERHEAD, Shard, append_record, masked_crc
from shrinkserve.errors import DataError


def write(path: Path, *records: bytes) -> Path:
    with path.open("wb") as stream:
        for data in records:
            append_record(stream, data)
    return path


def read_all(path: Path) -> list[bytes]:
    shard = Shard.scan(path)
    return [shard.read(number) for number in range(len(shard))]


def test_masked_crc_equals_the_test_vector_of_rfc_3720() -> None:
    # RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; masked by ((crc >> 15) | (crc << 17)) + 0xa282ead8.
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_read_returns_written_records(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    assert read_all(write(tmp_path_factory.mktemp("shard") / "s", *records)) == records


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_read_finds_any_flipped_bit(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    path = write(tmp_path_factory.mktemp("shard") / "s", b"first record", b"second")
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"at byte (0|28)"):
        read_all(path)


@given(st.integers(1, 10**6))
def test_scan_finds_any_truncation(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    path = write(tmp_path_factory.mktemp("shard") / "s", b"first record", b"second")
    whole = path.read_bytes()
    at %= len(whole)
    path.write_bytes(whole[:at])
    if at in (0, len(b"first record") + OVERHEAD):  # a cut between records leaves a valid, shorter file
        assert len(Shard.scan(path)) == (at > 0)
    else:
        with pytest.raises(DataError, match="truncated record"):
            Shard.scan(path)


def test_read_refuses_a_file_that_shrank_after_opening(tmp_path: Path) -> None:
    shard = Shard.scan(write(tmp_path / "s", b"first record", b"second"))
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-1])
    assert shard.read(0) == b"first record"
    with pytest.raises(DataError, match="at byte 28: truncated record"):
        shard.read(1)


def test_tensorboard_reads_and_writes_the_same_format(tmp_path: Path) -> None:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (tmp_path / "theirs").open("wb") as stream:
        RecordWriter(stream).write(b"from tensorboard")
    assert Shard.scan(tmp_path / "theirs").read(0) == b"from tensorboard"

    reader = PyRecordReader_New(str(write(tmp_path / "ours", b"from us")))
    reader.GetNext()
    assert reader.record() == b"from us"


def test_scan_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Shard.scan(tmp_path / "none")


def test_read_refuses_a_huge_record_before_reading_it(tmp_path: Path) -> None:
    size = 3 << 30
    length = struct.pack("<Q", size)
    with (tmp_path / "s").open("wb") as stream:
        stream.write(length + struct.pack("<I", masked_crc(length)))
        stream.truncate(size + OVERHEAD)
    shard = Shard.scan(tmp_path / "s")
    tracemalloc.start()
    with pytest.raises(DataError, match="at byte 0: size of the record"):
        shard.read(0)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("sizes", [(5, 63), (0, 68), (68, 0)])
def test_open_shard_replaces_an_index_with_records_that_are_too_small(tmp_path: Path, sizes: tuple[int, int]) -> None:
    path = write(tmp_path / "s", b"first record", b"second record, longer")
    assert path.stat().st_size == sum(sizes) - 3
    index_path(path).parent.mkdir()
    first, second = sizes[0], path.stat().st_size - sizes[0]
    index_path(path).write_text(f"0 {first}\n{first} {second}\n")
    shard = open_shard(path)
    assert [shard.read(number) for number in range(len(shard))] == [b"first record", b"second record, longer"]


def test_open_shard_replaces_an_index_that_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "s", b"first record")
    index_path(path).parent.mkdir()
    with index_path(path).open("wb") as stream:
        stream.write(b"0 28\n")
        stream.truncate(8 << 30)
    assert open_shard(path).read(0) == b"first record"
    assert index_path(path).read_text() == "0 28\n"


def frame(data: bytes, length: int | None = None) -> bytes:
    """Return a record whose header is valid and claims `length`."""
    header = struct.pack("<Q", len(data) if length is None else length)
    return header + struct.pack("<I", masked_crc(header)) + data + struct.pack("<I", masked_crc(data))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40), st.builds(frame, st.binary(max_size=20), st.none() | st.integers(0, 2**64 - 1))
        )
    )
)
def test_any_file_raises_only_data_error(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("shard") / "s"
    path.write_bytes(b"".join(parts))
    shard, _ = Shard.scan_intact(path)
    for number in range(len(shard)):
        with suppress(DataError):
            shard.read(number)


@given(
    st.binary(max_size=80)
    | st.lists(st.integers(-(2**70), 2**70), max_size=8).map(lambda n: " ".join(map(str, n)).encode())
)
def test_any_index_file_gives_the_records_of_the_shard(tmp_path_factory: pytest.TempPathFactory, index: bytes) -> None:
    path = write(tmp_path_factory.mktemp("shard") / "s", b"first record", b"second")
    index_path(path).parent.mkdir()
    index_path(path).write_bytes(index)
    shard = open_shard(path)
    try:
        assert [shard.read(number) for number in range(len(shard))] == [b"first record", b"second"]
    except DataError:  # an index of plausible sizes that do not match the frames
        assert int(shard.offsets[-1]) == path.stat().st_size
