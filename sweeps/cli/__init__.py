"""The console command `imagine-sweep`."""

from sweeps.cli.root import main as main
