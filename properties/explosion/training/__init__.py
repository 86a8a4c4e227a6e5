"""Training runs: a small decoder with any residual, many runs of it at once, and what they show of gains and rates."""
