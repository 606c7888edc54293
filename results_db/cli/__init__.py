"""The console command `imagine-results`."""

from results_db.cli.root import main as main
