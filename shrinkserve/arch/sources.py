"""Loading of a network from the zoo or from a ``.prototxt`` file."""

from __future__ import annotations

import os
from pathlib import Path

from shrinkserve.arch import zoo
from shrinkserve.arch.checks import check_spec
from shrinkserve.arch.importer import read_network
from shrinkserve.arch.spec import Spec, output_node
from shrinkserve.config import ModelConfig
from shrinkserve.errors import SpecError
from shrinkserve.paths import StrPath
from shrinkserve.preprocess.timm_config import TIMM

PYTHON = "python:"
CODE = "code"
"""Key in the data of a network that is code."""


def is_code(network: str) -> bool:
    """Return True if a recipe's `model.network` names code."""
    return network.startswith((TIMM, PYTHON))


def load_network(
    source: StrPath,
    *,
    classes: int | None = None,
    input_size: int | None = None,
    width: float = 1.0,
    dropout: float | None = None,
    batch_norm_decay: float = 0.999,
) -> Spec:
    """Load a network.

    Args:
        source: a name in the zoo, or the path of a .prototxt file.
        classes: number of logits; None for that of the file, or 1001 in the zoo.
        input_size: height and width of the image; None for that of the file, or 224 in the zoo.
        width: multiplier of the channels; must be 1 for a file.
        dropout: rate before the last layer; None for that of the file, or 0 in the zoo.
        batch_norm_decay: of the running statistics, in TensorFlow's convention (1 - torch's momentum).

    Returns:
        The spec of a valid network.

    Raises:
        SpecError: unknown name, invalid file, or invalid network.

    Example:
        >>> spec = load_network("shrinkcnn-a", classes=10)
        >>> spec.nodes["head.logits"]["units"]
        10
    """
    if Path(source).suffix != ".prototxt":
        return zoo.build_network(
            os.fspath(source),
            classes=1001 if classes is None else classes,
            input_size=224 if input_size is None else input_size,
            width=width,
            dropout=0.0 if dropout is None else dropout,
            batch_norm_decay=batch_norm_decay,
        )
    if width != 1:
        raise SpecError(f"{source}: width is for networks of the zoo only", expected="width 1", found=width)
    spec = read_network(Path(source), batch_norm_decay=batch_norm_decay).spec
    changes = {"input": ("size", input_size), "dropout": ("rate", dropout)}
    for attributes in spec.nodes.values():
        key, value = changes.get(attributes["op"], ("", None))
        if value is not None:
            attributes[key] = value
    if classes is not None:
        spec.nodes[output_node(spec)]["units"] = classes
    check_spec(spec)
    return spec


def from_recipe(model: ModelConfig, classes: int) -> Spec:
    """Load the network of a recipe.

    Args:
        model: the ``[model]`` section of the recipe.
        classes: number of logits, as in the recipe or in the dataset.

    Raises:
        SpecError: unknown name, invalid file, or invalid network.
    """
    return load_network(
        model.network,
        classes=classes,
        input_size=model.input_size,
        width=model.width,
        dropout=model.dropout,
        batch_norm_decay=0.999 if model.batch_norm_decay == "auto" else model.batch_norm_decay,
    )
