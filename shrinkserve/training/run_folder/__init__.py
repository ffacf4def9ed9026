"""The folder of a run: recipe, checkpoints, metrics, weights and card."""
