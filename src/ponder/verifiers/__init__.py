"""Scores for outputs: one file each."""
