"""Where and when runs train: local workers, Slurm jobs, and their states."""
