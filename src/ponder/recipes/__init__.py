"""Training procedures, and the data for them."""
