"""Plans, durable runs, stores, recommendations."""
