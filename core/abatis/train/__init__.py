"""Training: the plan, one step of it, the loop, checkpoints and resuming."""
