"""Train a compact image classifier, ship it to NVIDIA Triton, prove that production answers as training did."""

__version__ = "0.1.0"
