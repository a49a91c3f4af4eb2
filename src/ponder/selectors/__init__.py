"""Ways to choose among candidates: one file each."""
