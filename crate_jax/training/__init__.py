"""Training: the loop, its pure step, the optimizer, sharding, checkpoints, what a run reports."""
