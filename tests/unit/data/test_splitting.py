from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.data import open_dataset
from shrinkserve.data.splitting import split_dataset
from shrinkserve.errors import ArtifactError, ConfigError, DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with classes of 10, 5 and 2 images."""
    rng = np.random.default_rng(0)
    for name, count in (("a", 10), ("b", 5), ("c", 2)):
        (tmp_path / "photos" / name / "more").mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / name / ("more" if number % 2 else ".") / f"{number}.png")
    (tmp_path / "photos" / "a" / "notes.txt").touch()
    return tmp_path / "photos"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_split_is_stratified_and_complete(tmp_path: Path, photos: Path) -> None:
    report = split_dataset(photos, tmp_path / "data", fraction=0.4)
    assert report.train == {"a": 6, "b": 3, "c": 1}
    assert report.validation == {"a": 4, "b": 2, "c": 1}
    assert sum(report.skipped.values()) == 1
    train, val = files(tmp_path / "data" / "train"), files(tmp_path / "data" / "val")
    assert train | val == {name for name in files(photos) if name.endswith(".png")}
    assert not train & val
    for split, count in (("train", 10), ("validation", 7)):
        dataset = open_dataset(tmp_path / "data", split)  # type: ignore[arg-type]
        assert (len(dataset), dataset.classes) == (count, ["a", "b", "c"])


def test_split_depends_on_the_seed_only(tmp_path: Path, photos: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        split_dataset(photos, tmp_path / name, seed=seed, fraction=0.4)
    assert files(tmp_path / "one") == files(tmp_path / "again") != files(tmp_path / "two")


def test_split_accepts_dataset_without_validation_images(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "root").mkdir()
    photos.rename(tmp_path / "root" / "train")
    assert split_dataset(tmp_path / "root", tmp_path / "data").train["a"] == 8


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_split_rejects_fractions_out_of_range(tmp_path: Path, photos: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        split_dataset(photos, tmp_path / "data", fraction=fraction)


def test_split_rejects_a_class_that_is_too_small_and_leaves_nothing(tmp_path: Path, photos: Path) -> None:
    (photos / "c" / "0.png").unlink()
    before = files(tmp_path)
    with pytest.raises(DataError, match="class c: too few images"):
        split_dataset(photos, tmp_path / "data")
    assert files(tmp_path) == before
    assert not (tmp_path / "data").exists()


def test_split_rejects_an_existing_target_and_a_split_source(tmp_path: Path, photos: Path) -> None:
    split_dataset(photos, tmp_path / "data")
    with pytest.raises(ConfigError, match="exists"):
        split_dataset(photos, tmp_path / "data")
    with pytest.raises(DataError, match="validation images already"):
        split_dataset(tmp_path / "data", tmp_path / "other")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system, where images are copied")
def test_split_on_a_full_disk_is_one_error_and_leaves_nothing(photos: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(ArtifactError, match="out: cannot be written"):
                split_dataset(photos, Path(folder, "out"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(Path(folder).iterdir())
