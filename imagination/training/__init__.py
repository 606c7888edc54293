"""The trainer: many runs at once, with the run as the first axis."""
