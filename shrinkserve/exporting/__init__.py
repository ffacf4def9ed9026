"""From a checkpoint to everything Triton serves: an ordered list of steps, parity after each."""
