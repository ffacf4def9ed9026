"""Where a network comes from: a name of the zoo or a ``.prototxt`` file."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.arch import zoo
from shrinkserve.arch.checks import check
from shrinkserve.arch.importer import read_network
from shrinkserve.arch.spec import Spec, output_node
from shrinkserve.config import ModelConfig
from shrinkserve.errors import SpecError


def load(
    source: str | Path,
    *,
    classes: int | None = None,
    input_size: int | None = None,
    width: float = 1.0,
    dropout: float | None = None,
    batch_norm_decay: float = 0.999,
) -> Spec:
    """The network that `source` names.

    Args:
        source: a name of the zoo, or the path of a .prototxt file.
        classes: number of logits; None: the file's own, 1001 for the zoo.
        input_size: height and width of the image; None: the file's own, 224 for the zoo.
        width: multiplies the channels of the zoo's networks; those of a file are as they are.
        dropout: rate before the last layer; None: the file's own, 0 for the zoo.
        batch_norm_decay: of the running statistics, TensorFlow's convention (1 - torch's momentum).

    Raises:
        SpecError: an unknown name, a file that is malformed, or a network that does not hold together.
    """
    if Path(source).suffix != ".prototxt":
        return zoo.build_network(
            str(source),
            classes=1001 if classes is None else classes,
            input_size=224 if input_size is None else input_size,
            width=width,
            dropout=0.0 if dropout is None else dropout,
            batch_norm_decay=batch_norm_decay,
        )
    if width != 1:
        raise SpecError(f"{source}: a file's channels are not scaled", expected="width 1", found=width)
    spec = read_network(Path(source), batch_norm_decay=batch_norm_decay).spec
    changes = {"input": ("size", input_size), "dropout": ("rate", dropout)}
    for attributes in spec.nodes.values():
        key, value = changes.get(attributes["op"], ("", None))
        if value is not None:
            attributes[key] = value
    if classes is not None:
        spec.nodes[output_node(spec)]["units"] = classes
    check(spec)
    return spec


def from_recipe(model: ModelConfig, classes: int) -> Spec:
    """The network of a recipe.

    Args:
        model: the recipe's ``[model]`` section.
        classes: number of logits, which the data decides where the recipe does not.

    Raises:
        SpecError: an unknown name, or a network that does not hold together.
    """
    return load(
        model.network,
        classes=classes,
        input_size=model.input_size,
        width=model.width,
        dropout=model.dropout,
        batch_norm_decay=model.batch_norm_decay,
    )
