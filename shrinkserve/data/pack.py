"""Packing images into TFRecord shards in the ImageNet layout: in parallel, resumable, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.data.dataset import Split
from shrinkserve.data.pixels import plain_jpeg_size
from shrinkserve.data.shards import BACKGROUND, LABELS, PREFIXES, shard_name
from shrinkserve.data.sources import Collection, SourceImage
from shrinkserve.data.tfrecord import write_record
from shrinkserve.data.writing import example
from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_BYTES, decode
from shrinkserve.text import check_class_names

PLAN = ".pack.json"
IMAGES_PER_SHARD: dict[Split, int] = {"train": 1252, "validation": 391}
"""What makes 1024 and 128 shards of ImageNet."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: where, and its images."""

    path: Path
    sources: list[SourceImage]


def plan_shards(
    collection: Collection, target: Path, counts: dict[Split, int | None], seed: int = 0
) -> list[ShardPlan]:
    """Decide which image goes into which shard: shuffled, so that each shard is a fair sample.

    Args:
        collection: the images.
        target: the dataset's folder.
        counts: shards a split; None for as many as give them the size of ImageNet's.
        seed: of the order.
    """
    shards = []
    for split, sources in collection.images.items():
        count = counts[split] or -(-len(sources) // IMAGES_PER_SHARD[split])
        order = np.random.RandomState(seed).permutation(len(sources))  # a stream that numpy keeps for ever
        folder, prefix = PREFIXES[split]
        for number, part in enumerate(np.array_split(order, min(count, len(sources)))):
            name = shard_name(prefix, number, min(count, len(sources)))
            shards.append(ShardPlan(target / folder / name, [sources[index] for index in part]))
    return shards


def pack(
    collection: Collection,
    shards: list[ShardPlan],
    target: Path,
    *,
    workers: int,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the shards; those that an interrupted run has finished are kept.

    Args:
        collection: the images.
        shards: from `plan`.
        target: the dataset's folder.
        workers: processes.
        skip_bad: leave out images that cannot be decoded instead of stopping.
        progress: is told the number of shards that are done, and of all.

    Returns:
        A message for each image that was left out.

    Raises:
        DataError: a bad image, or a target that holds something else.
    """
    check_class_names([*collection.synsets, *collection.texts], DataError)
    _claim(target, shards)
    for folder in {shard.path.parent for shard in shards}:
        folder.mkdir(exist_ok=True)
    write = partial(_write_shard, synsets=collection.synsets, texts=collection.texts, skip_bad=skip_bad)
    bad: list[str] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(write, shard) for shard in shards]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                bad += future.result()
                if progress is not None:
                    progress(done, len(shards))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    names = [BACKGROUND, *collection.texts]
    write_atomic(target / LABELS, ("\n".join(names) + "\n").encode())
    for shard in shards:
        _log(shard).unlink(missing_ok=True)
    (target / PLAN).unlink()
    return sorted(bad)


def _claim(target: Path, shards: list[ShardPlan]) -> None:
    """Make `target` this plan's; an unfinished one goes on only if it is the same."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(json.dumps([shard.path.name, *map(astuple, shard.sources)]).encode())
    mine = json.dumps({"plan": digest.hexdigest()}).encode()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        before = (target / PLAN).read_bytes() if (target / PLAN).is_file() else None
        if before != mine:
            what = "holds other things" if before is None else "holds an unfinished packing of other images"
            raise DataError(f"{target}: {what}", expected="a new folder", hint="choose another place or remove it")
    write_atomic(target / PLAN, mine)


def _write_shard(shard: ShardPlan, *, synsets: list[str], texts: list[str], skip_bad: bool) -> list[str]:
    log = _log(shard)
    if shard.path.exists():
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    aside = shard.path.with_name(f".{shard.path.name}.part")
    bad: list[str] = []
    with aside.open("wb") as stream:
        for source in shard.sources:
            try:
                jpeg, size = _as_jpeg(_read(source), source)
            except DataError as exc:
                if not skip_bad:
                    aside.unlink()
                    raise
                bad.append(" ".join(str(exc).split()))
                continue
            synset, text = synsets[source.label - 1], texts[source.label - 1]
            write_record(
                stream,
                example(jpeg, size=size, label=source.label, synset=synset, text=text, filename=source.filename),
            )
        stream.flush()
        os.fsync(stream.fileno())
    if bad:
        write_atomic(log, "\n".join(bad).encode())
    aside.replace(shard.path)
    return bad


def _log(shard: ShardPlan) -> Path:
    """Where the messages of a finished shard are until all are."""
    return shard.path.with_name(f".{shard.path.name}.bad")


def _read(source: SourceImage) -> bytes:
    if source.size > MAX_BYTES:
        raise DataError(f"{source.filename}: too large", expected=f"at most {MAX_BYTES} bytes", found=source.size)
    try:
        with Path(source.path).open("rb") as stream:
            stream.seek(source.offset)
            return stream.read(source.size)
    except OSError as exc:
        raise DataError(f"{source.path}: cannot be read ({exc.strerror})", hint="check its permissions") from exc


def _as_jpeg(encoded: bytes, source: SourceImage) -> tuple[bytes, tuple[int, int]]:
    """The image as a JPEG that every reader takes, and its width and height.

    Its bytes are kept if it is one (grey and progressive ones are); a PNG, or a JPEG in CMYK, is encoded anew.
    """
    name = source.path if source.offset == 0 else f"{source.path}: {source.filename}"
    image = decode(encoded, name)
    if plain_jpeg_size(encoded) is None:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=100, subsampling=0)
        encoded = stream.getvalue()
    return encoded, image.size
