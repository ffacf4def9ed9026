"""`shrinkserve data`: make, check and describe datasets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkserve.errors import GateError
from shrinkserve.terminal import Progress, print_line, print_table

if TYPE_CHECKING:
    from shrinkserve.data import SplitUsage

Root = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset: TFRecord shards or an image folder.")]
WorkerCount = Annotated[int | None, typer.Option(min=1, help="Processes or threads; default: one per usable core.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(name="data", help="Make, check and describe datasets.", no_args_is_help=True)
    for command in (digits, split, pack, index, verify, info):
        group.command()(command)
    app.add_typer(group)


def digits(target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the new dataset.")]) -> None:
    """Write 1,797 handwritten digits: real images, no download. They are scikit-learn's, as JPEG in TFRecord shards."""
    from shrinkserve.data.digits import write_digits

    counts = write_digits(target)
    print_line(f"wrote {target}: {counts['train']} training and {counts['validation']} validation images, 10 classes")


def split(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder with one folder of images per class.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the new dataset.")],
    fraction: Annotated[float, typer.Option(help="Validation part of each class.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice.")] = 0,
) -> None:
    """Split a folder into training and validation images. Classes get the same fraction; files are linked or copied."""
    from shrinkserve.data.splitting import split_dataset

    report = split_dataset(source, out, fraction=fraction, seed=seed)
    rows = [(name, report.train[name], report.validation[name]) for name in report.train]
    print_table(("class", "training", "validation"), rows)
    for reason, count in report.skipped.items():
        print_line(f"left out: {count} {reason}")
    print_line(f"wrote {out}")


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="An image folder, or the folder of ILSVRC2012's tars.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the new dataset.")],
    train_shards: Annotated[int | None, typer.Option(min=1, help="Default: 1024 for ImageNet.")] = None,
    validation_shards: Annotated[int | None, typer.Option(min=1, help="Default: 128 for ImageNet.")] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="Shrink larger images to this shorter side: they decode faster.")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="With --max-side: JPEG quality.")] = 95,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be decoded.")] = False,
    workers: WorkerCount = None,
) -> None:
    """Pack images into TFRecord shards in the ImageNet layout. After an interruption, run the same command again."""
    from shrinkserve.data.packing.pack import pack_dataset

    with Progress(lines=True) as progress:
        report = pack_dataset(
            source,
            target,
            train_shards=train_shards,
            validation_shards=validation_shards,
            max_side=max_side,
            quality=quality,
            skip_bad=skip_bad,
            workers=workers,
            progress=lambda done, total: progress.update("shards", done, total),
        )
    for message in report.bad:
        print_line(f"left out: {message}", err=True)
    if report.usage:
        _print_usage(report.usage, err=True)
    counts = ", ".join(f"{count} {split}" for split, count in report.images.items())
    left_out = f", {len(report.bad)} left out" if report.bad else ""
    print_line(f"wrote {target}: {counts} images{left_out} in {report.shards} shards, {report.classes} classes")
    if max_side is not None:
        print_line(f"images with a shorter side above {max_side} have {max_side} pixels there, JPEG quality {quality}")


def index(root: Root) -> None:
    """Write the index files of all shards, in DALI's format. Opening a dataset writes those that are absent."""
    from shrinkserve.data.indexing import index_dataset

    for written in index_dataset(root):
        print_line(f"wrote {written.folder}: {written.shards} files, {written.records} records")


def verify(
    root: Root,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Write a skip list that loaders honour.")] = False,
    workers: WorkerCount = None,
    as_json: Json = False,
) -> None:
    """Read every record: checksums, images, labels. Each bad one is reported by shard and offset.

    Exit code 1 if a bad record is not in quarantine.
    """
    from shrinkserve.data.verify import verify_dataset

    with Progress(lines=True, enabled=not as_json) as progress:
        reports = verify_dataset(
            root,
            quarantine=quarantine,
            workers=workers,
            progress=lambda split, done, total: progress.update(f"{split} parts", done, total),
        )
    if as_json:
        print_line(json.dumps([dataclasses.asdict(report) for report in reports], indent=1))
    else:
        for report in reports:
            for entry in report.bad:
                print_line(f"{'bad' if entry in report.new else 'in quarantine'}: {entry}")
        _print_usage([report.usage for report in reports])
        for report in reports:
            counts = report.counts.values()
            spread = f"{min(counts)} to {max(counts)} per class" if counts else "none good"
            print_line(
                f"{report.split}: {sum(counts)} good images, {len(counts)} classes ({spread}), {len(report.bad)} bad"
            )
    bad, new = (sum(len(part) for part in parts) for parts in zip(*((r.bad, r.new) for r in reports), strict=True))
    if quarantine:
        done = f"wrote {root / 'quarantine.tsv'}: {bad} entries" if bad else "nothing to put into quarantine"
        print_line(done, err=as_json)
    elif new:
        raise GateError(f"{root}: {new} bad images", hint="skip them with --quarantine, or pack their shards again")


def info(root: Root, as_json: Json = False) -> None:
    """Describe a dataset."""
    from shrinkserve.data.info import describe_dataset

    splits = describe_dataset(root)
    if as_json:
        print_line(json.dumps([dataclasses.asdict(split) for split in splits], indent=1))
        return
    for split in splits:
        width, height = split.median_size
        print_line(
            f"{split.split}: {split.images} images in {split.files} files ({split.layout}), {split.classes} logits, "
            f"median {width}x{height} pixels and {split.median_bytes} bytes, {split.quarantined} in quarantine"
        )
    _print_usage([split.usage for split in splits])


def _print_usage(usages: Sequence[SplitUsage], *, err: bool = False) -> None:
    from shrinkserve.data.usage import USAGE_HEADINGS, usage_rows

    print_table(USAGE_HEADINGS, usage_rows(usages), left=("why", "classes without images"), err=err)
