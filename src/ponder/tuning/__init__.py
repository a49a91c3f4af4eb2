"""Measuring an engine honestly, tuning its settings, and learning from what was measured which to try first."""
