from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve import config
from shrinkserve.config import keys, loading
from shrinkserve.errors import ConfigError


def test_defaults_are_the_published_recipe() -> None:
    recipe = config.parse_recipe({"name": "a"})
    # Zhang et al. 2020 (arXiv 1911.09251) and the published solver
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.reference_batch) == ("rmsprop", 0.1, 256)
    assert (recipe.optimizer.decay, recipe.optimizer.momentum, recipe.optimizer.epsilon) == (0.9, 0.9, 1.0)
    assert (recipe.optimizer.l2, recipe.train.label_smoothing, recipe.train.ema_decay) == (4e-5, 0.1, 0.999)
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs, recipe.train.batch_size) == (300, 10, 128)
    assert (recipe.model.batch_norm_decay, recipe.model.dropout) == (0.999, 0.0)


def test_load_recipe_reports_all_errors_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\n[modle]\n[model]\ninput_size = "large"\nclases = 3\n[train]\nbatch_size = 0\n')
    with pytest.raises(ConfigError) as caught:
        config.load_recipe(path)
    message = str(caught.value)
    assert "modle: unknown key, did you mean model?" in message
    assert "model.clases: unknown key, did you mean classes?" in message
    assert "model.input_size: " in message
    assert "train.batch_size: " in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.seed=7", "train", "seed", 7),
        ("optimizer.lr=1e-3", "optimizer", "lr", 1e-3),
        ("model.network=shrinkcnn-b", "model", "network", "shrinkcnn-b"),
        ('model.network="shrinkcnn-b"', "model", "network", "shrinkcnn-b"),
        ("augment.crop_area=[0.5, 1.0]", "augment", "crop_area", (0.5, 1.0)),
        ("augment.flip=false", "augment", "flip", False),
    ],
)
def test_load_recipe_applies_overrides(tmp_path: Path, override: str, section: str, key: str, value: object) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n')
    assert getattr(getattr(config.load_recipe(path, [override]), section), key) == value


@pytest.mark.parametrize("override", ["train.seed", "=3", "name.x=3", "train.sed=3", "train.seed=many"])
def test_load_recipe_rejects_bad_overrides(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n')
    with pytest.raises(ConfigError):
        config.load_recipe(path, [override])


@pytest.mark.parametrize("raw", [{"name": "../x"}, {"name": ""}, {"name": ".x"}, {"name": "a b"}, {}])
def test_parse_recipe_rejects_names_that_cannot_be_folders(raw: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="name"):
        config.parse_recipe(raw)


def test_parse_recipe_rejects_values_that_do_not_fit_each_other() -> None:
    raw = {
        "name": "x",
        "augment": {"crop_area": [1.0, 0.5]},
        "schedule": {"epochs": 3, "warmup_epochs": 5},
        "input": {"std": [1.0, 0.0, 1.0]},
    }
    with pytest.raises(ConfigError) as caught:
        config.parse_recipe(raw)
    for key in ("augment.crop_area", "schedule.warmup_epochs", "input.std"):
        assert key in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("key", ["optimizer.lr", "augment.crop_area", "serving.queue_delay_us"])
def test_load_recipe_rejects_infinity_and_nan(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n')
    value = f"[0.1, {value}]" if key == "augment.crop_area" else value
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        config.load_recipe(path, [f"{key}={value}"])


def test_to_toml_round_trip(tmp_path: Path) -> None:
    recipe = config.parse_recipe({"name": "x", "model": {"classes": 11}, "train": {"seed": 3}})
    path = tmp_path / "r.toml"
    path.write_text(recipe.to_toml())
    assert config.load_recipe(path) == recipe


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"[a\n"])
def test_load_recipe_rejects_files_that_are_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load_recipe(path)


def test_load_recipe_finds_shipped_recipes_by_name() -> None:
    names = config.recipe_names()
    assert "digits" in names
    for name in names:
        assert config.load_recipe(name).name
    with pytest.raises(ConfigError, match="did you mean digits"):
        config.load_recipe("digit")


@pytest.mark.parametrize(
    "override",
    [
        "train.seed=-1",
        "train.seed=1e23",
        "train.seed=4294967296",
        "augment.crop_aspect=[0,1]",
        "augment.erase_aspect=[0,1]",
        "augment.crop_area=[0,0]",
        "augment.crop_area=[2,3]",
        "augment.erase_area=[0.5,1.5]",
        "augment.contrast=[-1,1]",
        "model.input_size=100000",
    ],
)
def test_load_recipe_rejects_values_out_of_range(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        config.load_recipe("digits", [override])


def test_load_recipe_takes_overrides_as_mapping() -> None:
    recipe = config.load_recipe("digits", {"schedule.epochs": 3, "model.network": "shrinkcnn-b"})
    assert (recipe.schedule.epochs, recipe.model.network) == (3, "shrinkcnn-b")


def test_load_recipe_takes_one_override_as_text() -> None:
    assert config.load_recipe("digits", "schedule.epochs=3").schedule.epochs == 3


@pytest.mark.parametrize("overrides", [{"schedule": {"epochs": 3}}, {"schedule": 3}, "schedule={epochs=3}"])
def test_load_recipe_rejects_an_override_of_a_section(overrides: str | dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="a section"):
        config.load_recipe("digits", overrides)


def test_every_key_has_a_meaning_and_values() -> None:
    found = {key.name: key for key in config.recipe_keys()}
    flat = {f"{s}.{k}" for s, v in config.load_recipe("digits").to_dict().items() if isinstance(v, dict) for k in v}
    assert flat < found.keys()
    assert all(key.meaning.endswith(".") and key.values for key in found.values())
    assert found["train.seed"].values == "integer, >= 0 and <= 4294967295"
    assert (found["name"].required, found["model.classes"].default) == (True, None)


def test_document_recipe_is_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    for recipe in (config.load_recipe("digits"), config.load_recipe("shrinkcnn-a", {"model.classes": 7})):
        path.write_text(config.document_recipe(recipe))
        assert config.load_recipe(path) == recipe
    path.write_text(config.document_recipe())
    assert config.load_recipe(path, {"name": "x"}) == config.parse_recipe({"name": "x"})


def test_examples_of_config_run() -> None:
    for module in (keys, loading):
        result = doctest.testmod(module)
        assert (result.failed, result.attempted > 0) == (0, True)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
sections = st.sampled_from([*config.Recipe.__dataclass_fields__, "other"])


@given(st.dictionaries(sections, plain, max_size=4))
def test_parse_recipe_returns_a_recipe_or_raises_config_error(raw: dict[str, object]) -> None:
    json.dumps(raw)
    try:
        recipe = config.parse_recipe(raw)
    except ConfigError:
        return
    assert config.parse_recipe(recipe.to_dict()) == recipe
