"""Accuracy, latency and capacity of a trained, exported and served model."""
