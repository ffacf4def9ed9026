"""Write planned TFRecord shards: in parallel, and without those that an interrupted run has finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from shrinkserve.atomic import unwritable, write_atomic
from shrinkserve.data.packing.packed_image import Shrink, as_jpeg, read_source
from shrinkserve.data.packing.sources import Collection, SourceImage
from shrinkserve.data.packing.writing import example
from shrinkserve.data.storage.records import BACKGROUND
from shrinkserve.data.storage.shards import LABELS
from shrinkserve.data.storage.tfrecord import append_record
from shrinkserve.errors import DataError
from shrinkserve.text import check_class_names

PLAN = ".pack.json"
"""File of a target that is not finished: the hash of its plan."""


@dataclass(frozen=True)
class ShardPlan:
    """Shard to write: its path and its images."""

    path: Path
    sources: list[SourceImage]


def write_shards(
    collection: Collection,
    shards: list[ShardPlan],
    target: Path,
    *,
    workers: int,
    shrink: Shrink | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the shards, except those that an interrupted run has finished.

    Args:
        collection: the images.
        shards: from `plan_shards`.
        target: the dataset's folder.
        workers: processes.
        shrink: how to shrink large images; None keeps them.
        skip_bad: leave out images that cannot be decoded instead of stopping.
        progress: called with the number of finished shards and of all shards.

    Returns:
        One message for each image that was left out.

    Raises:
        DataError: a bad image, a target that contains other files, or a process that was killed.
    """
    check_class_names([*collection.synsets, *collection.texts], DataError)
    _claim(target, shards, shrink)
    for folder in {shard.path.parent for shard in shards}:
        folder.mkdir(exist_ok=True)
    write = partial(_write_shard, synsets=collection.synsets, texts=collection.texts, shrink=shrink, skip_bad=skip_bad)
    bad: list[str] = []
    try:
        for done, messages in enumerate(_in_processes(write, shards, workers), start=1):
            bad += messages
            if progress is not None:
                progress(done, len(shards))
    except BrokenProcessPool as exc:
        what = f"{target}: a packing process was killed; it may be out of memory"
        hint = "run the same command with fewer --workers: finished shards are kept"
        raise DataError(what, hint=hint) from exc
    names = [BACKGROUND, *collection.texts]
    write_atomic(target / LABELS, ("\n".join(names) + "\n").encode())
    for shard in shards:
        _log(shard).unlink(missing_ok=True)
    (target / PLAN).unlink()
    return sorted(bad)


def _in_processes(
    write: Callable[[ShardPlan], list[str]], shards: list[ShardPlan], workers: int
) -> Iterator[list[str]]:
    """Yield ``write(shard)`` of each shard, computed in processes, in the order in which they finish.

    Each process has an executor. One executor for all can wait forever: Python 3.11 ends its processes when one was
    killed, but not the process that `submit` starts at that moment.
    """
    count = min(workers, len(shards))
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in range(count)]
        futures: list[Future[list[str]]] = []
        try:
            for number, shard in enumerate(shards):
                futures.append(pools[number % count].submit(write, shard))
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _claim(target: Path, shards: list[ShardPlan], shrink: Shrink | None) -> None:
    """Reserve `target` for this plan; continue an unfinished one only if its plan is the same."""
    digest = hashlib.sha256(b"" if shrink is None else json.dumps(astuple(shrink)).encode())
    for shard in shards:
        digest.update(json.dumps([shard.path.name, *map(astuple, shard.sources)]).encode())
    mine = json.dumps({"plan": digest.hexdigest()}).encode()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        before = (target / PLAN).read_bytes() if (target / PLAN).is_file() else None
        if before != mine:
            what = (
                "contains other files" if before is None else "contains an unfinished packing of other images or sizes"
            )
            raise DataError(f"{target}: {what}", expected="a new folder", hint="choose another place or remove it")
    write_atomic(target / PLAN, mine)


def _write_shard(
    shard: ShardPlan, *, synsets: list[str], texts: list[str], shrink: Shrink | None, skip_bad: bool
) -> list[str]:
    log = _log(shard)
    if shard.path.exists():
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    aside = shard.path.with_name(f".{shard.path.name}.part")
    bad: list[str] = []
    with unwritable(aside), aside.open("wb") as stream:
        for source in shard.sources:
            try:
                jpeg, size = as_jpeg(read_source(source), source, shrink)
            except DataError as exc:
                if not skip_bad:
                    aside.unlink()
                    raise
                bad.append(" ".join(str(exc).split()))
                continue
            synset, text = synsets[source.label - 1], texts[source.label - 1]
            append_record(
                stream,
                example(jpeg, size=size, label=source.label, synset=synset, text=text, filename=source.filename),
            )
        stream.flush()
        os.fsync(stream.fileno())
    if len(bad) == len(shard.sources):
        aside.unlink()
        raise DataError(f"{shard.path.name}: every image is bad, the first: {bad[0]}", hint="write fewer shards")
    if bad:
        write_atomic(log, "\n".join(bad).encode())
    aside.replace(shard.path)
    return bad


def _log(shard: ShardPlan) -> Path:
    """Return the file with the messages of a finished shard, until all shards are finished."""
    return shard.path.with_name(f".{shard.path.name}.bad")
