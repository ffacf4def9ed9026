"""The network as data: description, zoo, checks and counts, .prototxt import, and the torch module made from it."""

from shrinkserve.arch.sources import from_recipe, load

__all__ = ["from_recipe", "load"]
