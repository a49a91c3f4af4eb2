"""Which strategy a problem gets, and how much budget: one allocator, one file."""
