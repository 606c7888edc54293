"""What a worker executes: run configs, run identity, packs and the worker."""
