"""Ways to build an output step by step: one file each."""
