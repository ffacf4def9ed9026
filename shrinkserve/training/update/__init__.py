"""Update of the weights: network, optimiser, average, loss and metrics."""
