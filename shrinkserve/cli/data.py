"""`shrinkserve data`: make and look after datasets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.cli.output import say
from shrinkserve.errors import GateError

Root = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset: TFRecord shards or an image folder.")]
Workers = Annotated[int | None, typer.Option(min=1, help="How many at once; default: one a core.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(name="data", help="Make and look after datasets.", no_args_is_help=True)
    for command in (digits, pack, index, verify, info):
        group.command()(command)
    app.add_typer(group)


def digits(target: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the dataset.")]) -> None:
    """Write 1,797 handwritten digits: real images, no download. They are scikit-learn's, as JPEG in TFRecord shards."""
    from shrinkserve.data.digits import write_digits

    counts = write_digits(target)
    say(f"wrote {target}: {counts['train']} training and {counts['validation']} validation images, 10 classes")


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="An image folder, or the folder of ILSVRC2012's tars.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write the shards.")],
    train_shards: Annotated[int | None, typer.Option(min=1, help="Default: 1024 for ImageNet.")] = None,
    validation_shards: Annotated[int | None, typer.Option(min=1, help="Default: 128 for ImageNet.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be decoded.")] = False,
    workers: Workers = None,
) -> None:
    """Pack images into TFRecord shards in the ImageNet layout. Run it again to go on after an interruption."""
    from shrinkserve.data import pack as packing
    from shrinkserve.data.loaders import available_workers
    from shrinkserve.data.sources import find_sources

    collection = find_sources(source)
    shards = packing.plan_shards(collection, target, {"train": train_shards, "validation": validation_shards})
    bad = packing.pack(
        collection,
        shards,
        target,
        workers=workers or available_workers(),
        skip_bad=skip_bad,
        progress=lambda done, count: _progress("shards", done, count),
    )
    for message in bad:
        say(f"left out: {message}", err=True)
    counts = ", ".join(f"{len(sources)} {split}" for split, sources in collection.images.items())
    left_out = f", {len(bad)} left out" if bad else ""
    say(f"wrote {target}: {counts} images{left_out} in {len(shards)} shards, {len(collection.synsets)} classes")


def index(root: Root) -> None:
    """Write the index files of all shards, in DALI's format. Opening a dataset makes those that are absent."""
    from shrinkserve.data.dataset import SPLITS
    from shrinkserve.data.index import write_index
    from shrinkserve.data.shards import ShardDataset
    from shrinkserve.data.tfrecord import Shard
    from shrinkserve.errors import DataError

    folders = [(split, folder) for split in SPLITS if (folder := ShardDataset.find(root, split))]
    if not folders:
        raise DataError(f"{root}: no shards to index", expected=ShardDataset.layout("train"), hint="check the path")
    for split, folder in folders:
        shards = [Shard.scan(path) for path in ShardDataset.files(folder, split)]
        for shard in shards:
            write_index(shard)
        say(f"wrote {folder / 'index'}: {len(shards)} files, {sum(map(len, shards))} records")


def verify(
    root: Root,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Write a skip list that loaders honour.")] = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Read every record: checksums, images, labels. Each bad one is reported by shard and offset.

    Exit code 1 where one is bad that is not in quarantine.
    """
    from shrinkserve.data import verify as verification
    from shrinkserve.data.loaders import available_workers
    from shrinkserve.data.quarantine import read_quarantine, write_quarantine

    known = read_quarantine(root)
    reports = verification.verify_dataset(
        root,
        workers or available_workers(),
        progress=None if as_json else lambda split, done, count: _progress(f"{split} parts", done, count),
    )
    bad = [entry for report in reports for entry in report.bad]
    if as_json:
        say(json.dumps([dataclasses.asdict(report) for report in reports], indent=1))
    new = [entry for entry in bad if entry.offset not in known.get(entry.path, ())]
    for entry in () if as_json else bad:
        say(f"{'bad' if entry in new else 'in quarantine'}: {entry}")
    for report in () if as_json else reports:
        counts = report.counts.values()
        spread = f"{min(counts)} to {max(counts)} a class" if counts else "none good"
        say(f"{report.split}: {sum(counts)} good images, {len(counts)} classes ({spread}), {len(report.bad)} bad")
    if quarantine:
        path = write_quarantine(root, bad)
        say(f"wrote {path}: {len(bad)} entries" if bad else "nothing to quarantine", err=as_json)
    elif new:
        raise GateError(
            f"{root}: {len(new)} bad images", hint="skip them with --quarantine, or pack their shards again"
        )


def info(root: Root, as_json: Json = False) -> None:
    """Tell what a dataset holds."""
    from shrinkserve.data.info import describe_dataset

    splits = describe_dataset(root)
    if as_json:
        say(json.dumps([dataclasses.asdict(split) for split in splits], indent=1))
        return
    for split in splits:
        width, height = split.median_size
        say(
            f"{split.split}: {split.images} images in {split.files} files ({split.layout}), {split.classes} logits, "
            f"median {width}x{height} pixels and {split.median_bytes} bytes, {split.quarantined} in quarantine"
        )


def _progress(what: str, done: int, count: int) -> None:
    """A line each tenth of the way, to stderr."""
    if done == count or done * 10 // count != (done - 1) * 10 // count:
        say(f"{done}/{count} {what}", err=True)
