"""Ways to spend compute: one algorithm, one file."""
