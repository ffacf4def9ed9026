"""Compare DALI on the CPU with the portable loader; tests/gpu has the GPU path."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import evaluation_batches, open_dataset, train_loader
from shrinkserve.data.loading import dali_pipeline
from shrinkserve.data.loading.dali import decoder_difference
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")


def recipe(loader: str, size: int = 48, **data: object) -> Recipe:
    return parse_recipe(
        {
            "name": "t",
            "model": {"input_size": size},
            "train": {"batch_size": 12},
            "data": {"loader": loader, "workers": 1, **data},
        }
    )


def images(batches: object) -> np.ndarray:
    return np.concatenate([batch.images for batch in batches]).astype(int)  # type: ignore[attr-defined]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [48, 128])
def test_evaluation_pixels_of_both_loaders_agree(photo_folder: Path, interpolation: str, size: int) -> None:
    dataset = open_dataset(photo_folder, "validation")  # includes CMYK, grey, PNG, EXIF-rotated and progressive images
    preprocess = Preprocess(size, interpolation=interpolation)  # type: ignore[arg-type]
    ours = list(evaluation_batches(dataset, preprocess, 7))
    theirs = list(evaluation_batches(dataset, preprocess, 7, loader="dali"))
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.indices, b.indices)
    difference = np.abs(images(ours) - images(theirs))
    assert difference.mean() < 0.5
    assert (difference > 1).mean() < 0.02


def test_training_images_of_both_loaders_agree(photo_folder: Path) -> None:
    dataset = open_dataset(photo_folder, "train")
    ours, theirs = (list(train_loader(dataset, recipe(loader)).epoch(2)) for loader in ("portable", "dali"))
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.indices, b.indices)
        assert np.array_equal(a.labels, b.labels)
    difference = np.abs(images(ours) - images(theirs))
    assert difference.mean() < 1
    assert np.median(difference.mean((1, 2, 3))) < 0.5


def test_dali_epoch_starts_at_any_batch(photo_folder: Path) -> None:
    loader = train_loader(open_dataset(photo_folder, "train"), recipe("dali"))
    whole = images(loader.epoch(0))
    assert np.array_equal(images(loader.epoch(0, 3)), whole[36:])
    assert list(loader.epoch(0, 5)) == []


def test_loader_keeps_its_pipeline_for_whole_epochs(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = dali_pipeline.DaliPipeline.__init__

    def count(self: object, *args: Any, **options: Any) -> None:
        built.append(self)
        build(self, *args, **options)  # type: ignore[arg-type]

    dataset = open_dataset(photo_folder, "train")
    fresh = [images(train_loader(dataset, recipe("dali")).epoch(number)) for number in range(3)]
    monkeypatch.setattr(dali_pipeline.DaliPipeline, "__init__", count)
    loader = train_loader(dataset, recipe("dali"))
    for number in range(3):
        assert np.array_equal(images(loader.epoch(number)), fresh[number])
    assert len(built) == 1
    next(unfinished := loader.epoch(0))
    unfinished.close()  # type: ignore[attr-defined]
    assert np.array_equal(images(loader.epoch(1)), fresh[1])
    assert len(built) == 2


def damaged_copy(photo_folder: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(photo_folder, target)
    whole = (target / "train" / "cat" / "07.jpg").read_bytes()
    (target / "train" / "cat" / "07.jpg").write_bytes(whole[: len(whole) // 2])
    (target / "train" / "cup" / "09.jpg").write_text("no image")
    return target


def test_dali_leaves_out_and_counts_bad_images(photo_folder: Path, tmp_path: Path) -> None:
    root = damaged_copy(photo_folder, tmp_path / "photos")
    loaders = [
        train_loader(open_dataset(root, "train"), recipe(kind, max_bad_fraction=0.1)) for kind in ("portable", "dali")
    ]
    ours, theirs = (list(loader.epoch(0)) for loader in loaders)
    assert [b.indices.tolist() for b in ours] == [b.indices.tolist() for b in theirs]
    assert sorted(message.split(":")[0] for message in loaders[1].bad) == [
        str(root / "train" / "cat" / "07.jpg"),
        str(root / "train" / "cup" / "09.jpg"),
    ]
    assert np.abs(images(ours) - images(theirs)).mean() < 1


def test_dali_raises_on_more_bad_images_than_allowed(photo_folder: Path, tmp_path: Path) -> None:
    root = damaged_copy(photo_folder, tmp_path / "photos")
    with pytest.raises(DataError, match=r"(07|09)\.jpg"):
        list(train_loader(open_dataset(root, "train"), recipe("dali")).epoch(0))
    (root / "val" / "cat" / "01.jpg").write_bytes((root / "val" / "cat" / "01.jpg").read_bytes()[:500])
    with pytest.raises(DataError, match=r"01\.jpg"):
        list(evaluation_batches(open_dataset(root, "validation"), Preprocess(32), 4, loader="dali"))


def test_dali_reads_shards_with_their_index(digits: Path) -> None:
    """Read a shard, its Examples and its index file with an independent implementation."""
    from nvidia.dali import Pipeline, fn, tfrecord

    dataset = open_dataset(digits, "validation")
    folder = digits / "val_tfrecord"
    pipeline = Pipeline(batch_size=20, num_threads=1, device_id=None)
    with pipeline:
        read = fn.readers.tfrecord(
            path=[str(folder / "validation-00000-of-00002")],
            index_path=[str(folder / "index" / "validation-00000-of-00002.idx")],
            features={
                "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
                "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, 0),
            },
        )
        pipeline.set_outputs(read["image/encoded"], read["image/class/label"])
    pipeline.build()
    encoded, labels = pipeline.run()
    for number in range(20):
        record = dataset.record(number)
        assert bytes(encoded.at(number)) == record.encoded
        assert labels.at(number)[0] == record.label


GEOMETRIES: list[dict[str, object]] = [
    {"geometry": "stretch"},
    {"geometry": "center"},
    {"geometry": "resize_crop", "resize_size": 72},
    {"geometry": "resize_crop", "resize_size": 40},
    {"geometry": "tpu"},
    {"geometry": "letterbox", "fill": (200, 100, 50)},
    {"geometry": "letterbox", "fill": (200, 100, 50), "channel_order": "BGR"},
    {"geometry": "center", "channel_order": "L", "mean": (0.5,), "std": (0.5,)},
    {"antialias": False, "interpolation": "bilinear"},
    {"antialias": False, "interpolation": "lanczos"},
    {"apply_exif": True},
]


@pytest.mark.parametrize("change", GEOMETRIES, ids=str)
def test_evaluation_pixels_of_both_loaders_agree_for_every_geometry(
    photo_folder: Path, change: dict[str, object]
) -> None:
    dataset = open_dataset(photo_folder, "validation")
    preprocess = Preprocess(64, **change)  # type: ignore[arg-type]
    assert preprocess.approximate_in_dali() is None
    ours = images(evaluation_batches(dataset, preprocess, 7))
    theirs = images(evaluation_batches(dataset, preprocess, 7, loader="dali"))
    assert ours.shape == theirs.shape == (len(dataset), *preprocess.shape)
    difference = np.abs(ours - theirs)
    assert difference.mean() < 0.5
    assert (difference > 1).mean() < 0.02


@pytest.mark.parametrize(("interpolation", "antialias"), [("bilinear", True), ("bilinear", False), ("lanczos", False)])
def test_evaluation_pixels_of_both_loaders_agree_at_the_edge_of_the_crop_of_a_small_image(
    tmp_path: Path, interpolation: str, antialias: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    save(tmp_path / "val" / "a", "x.png", Image.fromarray(pixels), "PNG")
    dataset = open_dataset(tmp_path, "validation")
    preprocess = Preprocess(32, interpolation=interpolation, antialias=antialias)  # type: ignore[arg-type]
    ours = images(evaluation_batches(dataset, preprocess, 1))
    theirs = images(evaluation_batches(dataset, preprocess, 1, loader="dali"))
    assert np.abs(ours - theirs).max() <= 12


@pytest.mark.parametrize("interpolation", ["bicubic_tf1", "bicubic"])
def test_dali_approximates_filters_that_it_lacks(photo_folder: Path, interpolation: str) -> None:
    dataset = open_dataset(photo_folder, "validation")
    preprocess = Preprocess(64, interpolation=interpolation, antialias=False)  # type: ignore[arg-type]
    assert preprocess.approximate_in_dali()
    ours = images(evaluation_batches(dataset, preprocess, 7))
    theirs = images(evaluation_batches(dataset, preprocess, 7, loader="dali"))
    difference = np.abs(ours - theirs).mean()
    assert 0.5 < difference < 20
    assert decoder_difference(dataset, preprocess) == pytest.approx(difference, rel=1e-4)


def test_dali_evaluates_an_extreme_panorama(tmp_path: Path) -> None:
    (tmp_path / "val" / "a").mkdir(parents=True)
    Image.new("RGB", (400_000, 2), (9, 8, 7)).save(tmp_path / "val" / "a" / "x.png")
    preprocess = Preprocess(64, geometry="resize_crop", resize_size=256)
    (batch,) = evaluation_batches(open_dataset(tmp_path, "validation"), preprocess, 1, loader="dali")
    assert batch.images[0, 30, 30].tolist() == [9, 8, 7]


def save(folder: Path, name: str, image: Image.Image, form: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("wb") as stream:
        image.save(stream, form)


def test_both_loaders_decode_every_format_the_same_way(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 4), np.uint8), "RGBA").resize((60, 50))
    grey = Image.fromarray(np.linspace(0, 65535, 3000).astype(np.uint16).reshape(50, 60))
    folder = tmp_path / "val" / "a"
    for name, image, form in (
        ("alpha.png", photo, "PNG"),
        ("grey16.png", grey, "PNG"),
        ("palette.png", photo.convert("RGB").quantize(16), "PNG"),
        ("photo.webp", photo, "WEBP"),
        ("photo.bmp", photo.convert("RGB"), "BMP"),
        ("cmyk.jpg", photo.convert("CMYK"), "JPEG"),
    ):
        save(folder, name, image, form)
    dataset = open_dataset(tmp_path, "validation")
    ours = images(evaluation_batches(dataset, Preprocess(40), 4))
    theirs = images(evaluation_batches(dataset, Preprocess(40), 4, loader="dali"))
    assert len(ours) == 6
    assert (np.abs(ours - theirs).mean((1, 2, 3)) < 0.5).all()


@pytest.mark.parametrize("loader", ["portable", "dali"])
def test_both_loaders_name_a_gif_under_the_name_of_a_jpeg(tmp_path: Path, loader: Literal["portable", "dali"]) -> None:
    save(tmp_path / "val" / "a", "photo.jpg", Image.new("RGB", (40, 40), (9, 8, 7)), "GIF")
    batches = evaluation_batches(open_dataset(tmp_path, "validation"), Preprocess(32), 1, loader=loader)
    with pytest.raises(DataError, match=r"photo\.jpg: cannot decode image: unknown format.*GIF8.*--quarantine"):
        list(batches)
