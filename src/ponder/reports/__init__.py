"""Tables, plots and the offline report."""
