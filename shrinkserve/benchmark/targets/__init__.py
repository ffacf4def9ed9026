"""Benchmark targets: what can be measured, and where it is found."""
