"""Batches of a dataset: order, augmentation, and the portable and the DALI loader."""
