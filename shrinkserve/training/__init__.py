"""From a recipe and a dataset to EMA weights: the loop, DDP, optimiser, checkpoints, metrics."""
