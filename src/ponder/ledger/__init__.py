"""What is spent: amounts, limits, prices."""
