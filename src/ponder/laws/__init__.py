"""Quality against compute: one law, one file."""
