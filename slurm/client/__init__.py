"""The Slurm client and the parser of its answers."""
