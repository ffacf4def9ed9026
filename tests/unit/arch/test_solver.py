from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.arch.solver import import_recipe, parse_solver
from shrinkserve.config import load_recipe
from shrinkserve.errors import SpecError

SMALL = Path(__file__).parent / "small.prototxt"
REFERENCE = Path(__file__).parents[4] / "shared" / "reference"
SOLVER = "optimizer='rmsprop_imagenet'\nlr=0.025\ndecay_method=cosine_decay\n\ndecay_steps=90\ndecay=1.0"


def test_import_recipe_of_network_and_solver(tmp_path: Path) -> None:
    solver = tmp_path / "my.solver"
    solver.write_text(SOLVER)
    recipe = import_recipe(SMALL, solver)
    assert (recipe.name, recipe.model.network, recipe.model.classes) == ("small-relu", str(SMALL), 7)
    assert (recipe.model.input_size, recipe.model.dropout, recipe.train.label_smoothing) == (32, 0.25, 0.05)
    assert (recipe.optimizer.lr, recipe.optimizer.reference_batch, recipe.optimizer.l2) == (0.025, 128, 1e-4)
    assert recipe.schedule.epochs == 90
    saved = tmp_path / "my.toml"
    saved.write_text(recipe.to_toml())
    assert load_recipe(saved) == recipe


def test_import_recipe_of_published_files() -> None:
    solver = REFERENCE / "imagenet.solver"
    if not solver.is_file():
        pytest.skip("the published files are not next to this checkout")
    recipe = import_recipe(REFERENCE / "shrinkCNN-A-release-repro.prototxt", solver)
    # The README's reference: 0.1 at 256 images in all, 300 epochs, L2 of 4e-5.
    assert recipe.optimizer.lr / recipe.optimizer.reference_batch == pytest.approx(0.1 / 256)
    assert (recipe.schedule.epochs, recipe.optimizer.l2, recipe.train.label_smoothing) == (300, 4e-5, 0.1)
    shipped = load_recipe("shrinkcnn-a")
    for section in ("input", "augment", "schedule", "train", "data", "serving"):
        assert getattr(recipe, section) == getattr(shipped, section)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lr=0.025", "lr=fast", "line 2: lr: .*above 0, found 'fast'"),
        ("lr=0.025", "lr=-1", "line 2: lr: "),
        ("lr=0.025", "lr=nan", "line 2: lr: "),
        ("lr=0.025", "rate=0.025", "line 2: .*lr, .*found 'rate=0.025'"),
        ("lr=0.025", "lr", "line 2: .*key=value"),
        ("lr=0.025", "lr=1\nlr=2", "line 3: .*found 'lr=2'"),
        ("lr=0.025\n", "", "line 5: .*also lr"),
        ("'rmsprop_imagenet'", "adam", "line 1: optimizer: .*rmsprop_imagenet, found 'adam'"),
        ("=90", "=9", "line 5: decay_steps: .*at least the 10"),
    ],
)
def test_parse_solver_names_invalid_line(old: str, new: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_solver(SOLVER.replace(old, new, 1).encode())


def test_import_recipe_names_file(tmp_path: Path) -> None:
    solver = tmp_path / "my.solver"
    solver.write_text("lr=1")
    with pytest.raises(SpecError, match=r"my\.solver, line 1: "):
        import_recipe(SMALL, solver)
    with pytest.raises(SpecError, match=r"absent\.solver: .*No such file"):
        import_recipe(SMALL, tmp_path / "absent.solver")


@given(st.binary(max_size=200) | st.text(alphabet="lr=.0123456789\n'e", max_size=60).map(str.encode))
def test_parse_solver_names_line_for_any_bytes(content: bytes) -> None:
    with pytest.raises(SpecError, match=r"^line \d+: "):
        parse_solver(content)
