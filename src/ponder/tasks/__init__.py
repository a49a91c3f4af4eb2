"""Problem sets with graders: one file each."""
