"""Results on their way from a worker to the store."""
