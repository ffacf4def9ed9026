"""Accuracy along the chain from checkpoint to server."""
