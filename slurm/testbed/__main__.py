"""`python -m slurm.testbed`."""

from results_db import console
from slurm.testbed.cli import cli
from slurm.testbed.settings import TestbedError

console.run(cli, errors=(TestbedError,))
