"""`python -m slurm.testbed`."""

from slurm.testbed.cli import main

main()
