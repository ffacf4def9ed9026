"""Networks as data: specs, the zoo, checks, costs, .prototxt import, and the torch module compiled from a spec."""

from shrinkserve.arch.sources import from_recipe, load_network

__all__ = ["from_recipe", "load_network"]
