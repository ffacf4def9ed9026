"""The names of what one published model is made of.

```
NAME              encoded images in: the ensemble of the next two
NAME_preprocess   encoded images in, pixels out: a DALI pipeline
NAME_classifier   pixels in: the classifier, with its versions and engines
```

People say NAME, whatever of it there is: without DALI only the classifier. A classifier of another name is a model of
its own, which takes pixels only.
"""

from __future__ import annotations

from collections.abc import Collection

PREPROCESS, CLASSIFIER = "_preprocess", "_classifier"


def public(model: str) -> str:
    """What people call the classifier of a name."""
    return model.removesuffix(CLASSIFIER)


def classifier(name: str) -> str:
    """The name of the classifier that people call `name`; may be given itself."""
    return f"{public(name)}{CLASSIFIER}"


def parts(name: str) -> list[str]:
    """All names that belong to what people call `name`, in the order in which they can be loaded."""
    return [classifier(name), f"{public(name)}{PREPROCESS}", public(name)]


def whole(model: str) -> list[str]:
    """`parts` of a classifier that has such a name; a model of another name is its only part."""
    return parts(model) if model.endswith(CLASSIFIER) else [model]


def known_classifier(name: str, known: Collection[str]) -> str:
    """Which of the names `known` is the classifier that people call `name`; `name` itself when none is."""
    return classifier(name) if classifier(name) in known else name


def known_models(known: Collection[str]) -> list[str]:
    """What people call the models whose parts' names are `known`, sorted."""
    families = {public(model) for model in known if model.endswith(CLASSIFIER)}
    belonging = {part for name in families for part in parts(name)}
    return sorted(families | (set(known) - belonging))
