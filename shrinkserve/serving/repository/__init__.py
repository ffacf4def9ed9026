"""Triton model repository: read, write, verify."""
