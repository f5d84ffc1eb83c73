"""Training between cuts: on the task's loss, or on the uncompressed model's outputs."""
