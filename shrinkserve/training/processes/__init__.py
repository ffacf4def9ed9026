"""Processes of a run: their group, signals to them, and global settings of torch."""
