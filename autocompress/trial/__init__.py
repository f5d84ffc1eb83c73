"""One trial: what a worker executes."""
