"""From cells and runs to packs that train, here or on Slurm."""
