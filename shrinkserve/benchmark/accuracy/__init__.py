"""Accuracy of every stage and agreement between stages, on the same images."""
