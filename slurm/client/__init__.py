"""Slurm's commands, and parsers of what they print."""
