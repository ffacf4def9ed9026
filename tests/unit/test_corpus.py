"""Read every file of `tests/corpus`, and changed copies of them: a result or one line, never a traceback.

`tests/corpus/README.md` lists the kinds of files and how to add one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.arch.importer import import_network
from shrinkserve.arch.solver import parse_solver
from shrinkserve.artifact import read_card
from shrinkserve.data.storage.index import index_path
from shrinkserve.data.storage.quarantine import read_quarantine
from shrinkserve.data.storage.shards import open_shard
from shrinkserve.data.storage.tfrecord import Shard
from shrinkserve.engines import check_files, engines_of
from shrinkserve.errors import ShrinkServeError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import config_text
from shrinkserve.serving.client import http_codec
from shrinkserve.serving.client.model_info import from_config
from shrinkserve.serving.client.operations import ConfigRequest, InferRequest, StatisticsRequest

CORPUS = Path(__file__).parents[1] / "corpus"
IMAGE = b"\0" * 12


def read_as_card(folder: Path, content: bytes) -> None:
    (folder / "card.json").write_bytes(content)
    card = read_card(folder, verify=False)
    engines_of(card)
    check_files(card)


def read_as_config(folder: Path, content: bytes) -> None:
    (folder / "config.pbtxt").write_bytes(content)
    config_text.read_config(folder / "config.pbtxt")


def read_as_shard(folder: Path, content: bytes) -> None:
    (folder / "shard").write_bytes(content)
    shard, _ = Shard.scan_intact(folder / "shard")
    for number in range(len(shard)):
        shard.read(number)


def read_as_index(folder: Path, content: bytes) -> None:
    path = folder / "shard"
    path.write_bytes((CORPUS / "tfrecord" / "two-records").read_bytes())
    index_path(path).parent.mkdir()
    index_path(path).write_bytes(content)
    shard = open_shard(path)
    for number in range(len(shard)):
        shard.read(number)


def read_as_preprocess(_: Path, content: bytes) -> None:
    with suppress(ValueError, RecursionError):  # not JSON: the caller's reader reports it
        Preprocess.from_dict(json.loads(content))


def read_as_quarantine(folder: Path, content: bytes) -> None:
    (folder / "quarantine.tsv").write_bytes(content)
    read_quarantine(folder)


def read_as_reply(_: Path, content: bytes) -> None:
    import numpy as np

    image = np.frombuffer(IMAGE, np.uint8).reshape(1, 2, 2, 3)
    for request in (StatisticsRequest(), InferRequest("cats", image, {"logits": 0})):
        with suppress(ShrinkServeError):
            http_codec.decode(request, "http://host:1", 200, None, content)
    from_config(http_codec.decode(ConfigRequest("cats"), "http://host:1", 200, None, content))


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "card": read_as_card,
    "config": read_as_config,
    "tfrecord": read_as_shard,
    "index": read_as_index,
    "prototxt": lambda _, content: import_network(content),
    "solver": lambda _, content: parse_solver(content),
    "preprocess": read_as_preprocess,
    "reply": read_as_reply,
    "quarantine": read_as_quarantine,
}
READABLE = {
    "card": {"valid"},
    "config": {"valid", "file-name-for-a-shell", "negative-batch"},
    "tfrecord": {"two-records", "empty", "length-of-2-63", "length-of-3-gib", "truncated"},  # the intact records
    "prototxt": {"valid"},
    "solver": {"valid"},
    "preprocess": {"valid"},
    "reply": {"config"},
    "quarantine": {"valid", "json-name", "broken-json-name", "line-separator"},
}
"""Files that are read; the others are rejected. An index is never rejected: a wrong one is made again."""
FILES = sorted(path for path in CORPUS.glob("*/*") if path.parent.name in READERS)


def read(kind: str, content: bytes) -> bool:
    """Read `content` as a file of a kind; fail on all but a result (True) or an error of one line (False)."""
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            READERS[kind](Path(folder), content)
        except ShrinkServeError as exc:
            message = str(exc)
    assert len(message.splitlines()) <= 1
    assert len(message) < 1000
    return not message


def test_corpus_has_every_kind() -> None:
    assert {path.parent.name for path in FILES} == READERS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_file_is_read_or_rejected_in_one_line(path: Path) -> None:
    readable = READABLE.get(path.parent.name)
    assert read(path.parent.name, path.read_bytes()) == (readable is None or path.name in readable)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_changed_file_is_read_or_rejected_in_one_line(kind: str, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from([path for path in FILES if path.parent.name == kind]))
    content = bytearray(file.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content[start:end] = data.draw(st.binary(max_size=12))
    read(kind, bytes(content))
