"""What happened: the store, and what it shows."""
