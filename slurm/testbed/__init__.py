"""A real Slurm on one Debian machine."""
