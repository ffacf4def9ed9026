"""Import of AutoShrink's ``.prototxt`` network and ``.solver`` training files as a recipe.

A solver file has ``key=value`` lines; quotes around words are optional. Its learning rate is for one GPU with 128
images per step; the reference implementation multiplies it by the number of GPUs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shrinkserve.arch.importer import read_network
from shrinkserve.arch.prototxt import Parsed, Reader, malformed, read_bytes, read_lines, value_reader
from shrinkserve.arch.spec import Attribute
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.errors import SpecError
from shrinkserve.paths import StrPath

IMAGES_PER_GPU = 128
WARMUP_EPOCHS = 10
PRECISION = "float16"
"""Automatic mixed precision, as in the published training. It is not in the files."""


def _number(kind: type, low: float, high: float, expected: str) -> Reader:
    return replace(value_reader(Attribute(kind, low, high)), expected=expected)


READERS: dict[str, Reader] = {
    "optimizer": value_reader(Attribute(str, choices=("rmsprop_imagenet",))),
    "lr": _number(float, 1e-12, 1e6, "a learning rate above 0"),
    "decay_method": value_reader(Attribute(str, choices=("cosine_decay",))),
    "decay_steps": _number(
        int, WARMUP_EPOCHS, 10**6, f"a number of epochs, at least the {WARMUP_EPOCHS} of the warm-up"
    ),
    "decay": _number(float, 1, 1, "1.0: cosine decay has no factor"),
}


def parse_solver(content: bytes) -> dict[str, Parsed]:
    """Return the values of a solver file.

    Raises:
        SpecError: the file is invalid; names the line.
    """
    values: dict[str, Parsed] = {}
    line = 0
    for line, text in enumerate(read_lines(content), start=1):
        if not text or text.startswith("#"):
            continue
        key, sign, value = (part.strip().strip("'\"") for part in text.partition("="))
        if not sign or key not in READERS or key in values:
            expected = f"key=value with one of {', '.join(known for known in READERS if known not in values)}"
            raise malformed(line, "unknown key", expected, text)
        values[key] = READERS[key].read(value)
        if values[key] is None:
            raise malformed(line, key, READERS[key].expected, value)
    if missing := [key for key in READERS if key not in values]:
        raise malformed(line, "the solver is incomplete", f"also {', '.join(missing)}")
    return values


def import_recipe(proto: StrPath, solver: StrPath) -> Recipe:
    """Return the recipe of a network and a solver file; other settings have the defaults of a recipe.

    Args:
        proto: the network file; the recipe refers to it by this path.
        solver: the solver file.

    Returns:
        The recipe; `Recipe.to_toml` gives the text of its file.

    Raises:
        SpecError: cannot read a file, or it is invalid; names the line.
        ConfigError: the values are no valid recipe.

    Example::

        recipe = shrinkserve.import_recipe("net.prototxt", "net.solver")
    """
    network = read_network(Path(proto))
    try:
        values = parse_solver(read_bytes(Path(solver)))
    except SpecError as exc:
        raise SpecError(f"{solver}, {exc}") from None
    raw = {
        "name": network.name,
        "model": {
            "network": str(proto),
            "classes": network.classes,
            "input_size": network.input_size,
            "dropout": network.dropout,
        },
        "optimizer": {"lr": values["lr"], "reference_batch": IMAGES_PER_GPU, "l2": network.l2},
        "schedule": {"epochs": values["decay_steps"], "warmup_epochs": WARMUP_EPOCHS},
        "train": {"label_smoothing": network.label_smoothing, "precision": PRECISION},
    }
    return parse_recipe(raw, f"{proto} with {solver}")
