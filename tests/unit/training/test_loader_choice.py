"""Tests of ``data.loader=auto``: what is measured, kept, recorded and used again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shrinkserve.config import Recipe
from shrinkserve.data import open_dataset
from shrinkserve.data.loading.dali import DaliLoader
from shrinkserve.data.loading.portable import PortableLoader
from shrinkserve.errors import ArtifactError
from shrinkserve.training import loader_choice
from shrinkserve.training.loader_choice import LOADERS, MeasuredSpeeds, faster_loader, known_choice
from shrinkserve.training.loader_speed import LoaderSpeed
from shrinkserve.training.plan import plan_training
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.provenance import starts
from shrinkserve.training.run_folder.run_state import RunState
from shrinkserve.training.train import profile_training, train

AUTO = {"loader": "auto", "workers": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the speeds; there is enough time for a busy machine."""
    monkeypatch.setattr(loader_choice, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(loader_choice, "LIMIT_SECONDS", 100.0)
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that sets the results of the measurements, and returns the list of those that were made."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

    def prepare(**results: float | str) -> list[str]:
        made: list[str] = []

        def measure(_: Recipe, __: Path, name: str) -> LoaderSpeed:
            made.append(name)
            result = results[name]
            return LoaderSpeed(error=result) if isinstance(result, str) else LoaderSpeed(result)

        monkeypatch.setattr(loader_choice, "_measure", measure)
        return made

    return prepare


@pytest.mark.parametrize(
    ("portable", "dali", "loader"),
    [(100.0, 120.0, "dali"), (100.0, 80.0, "portable"), (100.0, 101.0, "portable")],
    ids=["dali-faster", "dali-slower", "within-noise"],
)
def test_faster_loader_is_chosen_and_kept(
    colours: Path,
    tiny: Callable[..., Recipe],
    measured: Callable[..., list[str]],
    portable: float,
    dali: float,
    loader: str,
) -> None:
    made = measured(portable=portable, dali=dali)
    dataset = open_dataset(colours, "train")
    choice = faster_loader(tiny(data=AUTO), dataset)
    assert choice.loader == loader
    assert f"{portable:.0f}" in str(choice)
    assert f"{dali:.0f}" in str(choice)
    assert faster_loader(tiny(data=AUTO), dataset).loader == loader
    assert made == list(LOADERS)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"input_size": 64}},
        {"train": {"batch_size": 4}},
        {"data": {**AUTO, "workers": 2}},
        {"augment": {"brightness": 0.0, "saturation": [1.0, 1.0], "contrast": [1.0, 1.0]}},
    ],
    ids=["image-size", "batch-size", "workers", "colours"],
)
def test_other_conditions_are_measured_again(
    colours: Path,
    tiny: Callable[..., Recipe],
    measured: Callable[..., list[str]],
    sections: dict[str, dict[str, object]],
) -> None:
    made = measured(portable=100.0, dali=120.0)
    dataset = open_dataset(colours, "train")
    faster_loader(tiny(data=AUTO), dataset)
    faster_loader(tiny(**{"data": AUTO, **sections}), dataset)
    assert made == 2 * list(LOADERS)


@pytest.mark.parametrize(
    ("results", "loader"),
    [
        ({"portable": 100.0, "dali": "no CUDA driver"}, "portable"),
        ({"portable": "no memory", "dali": 100.0}, "dali"),
        ({"portable": "no memory", "dali": "no CUDA driver"}, "portable"),
    ],
)
def test_loader_that_fails_is_not_chosen_and_nothing_is_kept(
    colours: Path,
    tiny: Callable[..., Recipe],
    measured: Callable[..., list[str]],
    cache: Path,
    results: dict[str, float | str],
    loader: str,
) -> None:
    measured(**results)
    choice = faster_loader(tiny(data=AUTO), open_dataset(colours, "train"))
    assert choice.loader == loader
    assert all(result in choice.reason for result in results.values() if isinstance(result, str))
    assert not cache.exists()


def test_only_loader_that_can_run_needs_no_measurement(
    colours: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(colours, "train")
    policy = known_choice(tiny(data=AUTO, augment={"rand_augment": "rand-m9"}), dataset)
    monkeypatch.setattr(loader_choice, "dali_installed", lambda: False)
    absent = known_choice(tiny(data=AUTO), dataset)
    assert policy is not None
    assert absent is not None
    assert policy.loader == absent.loader == "portable"
    assert "DALI" in absent.reason


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json", '{"conditions": 3}'])
def test_damaged_cache_is_measured_again(
    colours: Path, tiny: Callable[..., Recipe], measured: Callable[..., list[str]], cache: Path, content: str
) -> None:
    measured(portable=100.0, dali=120.0)
    dataset = open_dataset(colours, "train")
    faster_loader(tiny(data=AUTO), dataset)
    (file,) = cache.iterdir()
    file.write_text(content)
    assert known_choice(tiny(data=AUTO), dataset) is None
    assert faster_loader(tiny(data=AUTO), dataset).loader == "dali"
    assert json.loads(file.read_text())["dali"] == 120


def test_plan_names_the_loader_and_measures_nothing(
    colours: Path, tiny: Callable[..., Recipe], measured: Callable[..., list[str]]
) -> None:
    made = measured(portable=100.0, dali=120.0)
    assert plan_training(tiny(), colours).loader == "portable"
    assert "when the run begins" in plan_training(tiny(data=AUTO), colours).loader
    assert made == []
    faster_loader(tiny(data=AUTO), open_dataset(colours, "train"))
    assert "dali (images/s: portable 100, dali 120" in plan_training(tiny(data=AUTO), colours).loader


def test_both_loaders_are_measured_in_processes(colours: Path, tiny: Callable[..., Recipe], cache: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    choice = faster_loader(tiny(data=AUTO), open_dataset(colours, "train"))
    (file,) = cache.iterdir()
    found = json.loads(file.read_text())
    assert found["portable"] > 0
    assert found["dali"] > 0
    assert choice.loader in LOADERS


def test_loader_that_stands_still_is_ended(
    colours: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_choice, "LIMIT_SECONDS", 0.01)  # less than any process needs to start
    speed = loader_choice._measure(tiny(data=AUTO), colours, "portable")
    assert "no result after" in speed.error


def test_data_that_no_loader_reads_is_reported(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    assert "DataError" in loader_choice._measure(tiny(data=AUTO), tmp_path / "absent", "portable").error


def test_run_records_its_loader_and_resumes_with_it(
    colours: Path,
    tiny: Callable[..., Recipe],
    measured: Callable[..., list[str]],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second half of the run uses DALI although the portable loader is faster by then."""
    made = measured(portable=100.0, dali=120.0)
    used = spy_on_loaders(monkeypatch)
    recipe = tiny(data=AUTO)
    fixed = replace(recipe, data=replace(recipe.data, loader="dali"))
    train(fixed, colours, tmp_path / "unbroken")
    out = tmp_path / "run"
    train(recipe, colours, out)
    for path in checkpoints.listed(out / checkpoints.FOLDER)[-1:]:  # the second epoch is trained again
        path.unlink()
    (out / "card.json").unlink()
    (file,) = cache.iterdir()
    file.unlink()
    measured(portable=500.0, dali=120.0)
    used.clear()
    train(recipe, colours, out, resume=True)
    assert set(used) == {"dali"}
    assert made == list(LOADERS)
    path = checkpoints.listed(out / checkpoints.FOLDER)[-1]
    assert RunState.from_dict(checkpoints.read(path).state, "").loader == "dali"
    assert [start["loader"] for start in starts(out)] == ["dali", "dali"]
    for name in ("ema", "raw"):
        assert (out / f"{name}.safetensors").read_bytes() == (
            tmp_path / "unbroken" / f"{name}.safetensors"
        ).read_bytes()


def test_profile_uses_the_chosen_loader(
    colours: Path, tiny: Callable[..., Recipe], measured: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(portable=100.0, dali=120.0)
    used = spy_on_loaders(monkeypatch)
    assert profile_training(tiny(data=AUTO), colours).images_per_second > 0
    assert set(used) == {"dali"}


def spy_on_loaders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of a loader for each epoch that it begins."""
    used: list[str] = []
    for name, kind in (("portable", PortableLoader), ("dali", DaliLoader)):

        def epoch(self: object, number: int, start: int = 0, name: str = name, begin: object = kind.epoch) -> object:
            used.append(name)
            return begin(self, number, start)  # type: ignore[operator]

        monkeypatch.setattr(kind, "epoch", epoch)
    return used


def test_checkpoint_of_an_unknown_loader_is_refused(tiny: Callable[..., Recipe]) -> None:
    raw = {"position": {}, "recipe": {}, "classes": [], "spec": {}, "loader": "fast"}
    with pytest.raises(ArtifactError, match="loader"):
        RunState.from_dict(raw, "checkpoint")


def test_speeds_have_the_conditions_they_were_measured_under(
    colours: Path, tiny: Callable[..., Recipe], measured: Callable[..., list[str]], cache: Path
) -> None:
    """A file that was copied from another machine does not count."""
    measured(portable=100.0, dali=120.0)
    dataset = open_dataset(colours, "train")
    faster_loader(tiny(data=AUTO), dataset)
    (file,) = cache.iterdir()
    raw = json.loads(file.read_text())
    assert MeasuredSpeeds(**raw).faster == "dali"
    file.write_text(json.dumps(raw | {"conditions": raw["conditions"] | {"cpu": "another"}}))
    assert known_choice(tiny(data=AUTO), dataset) is None
