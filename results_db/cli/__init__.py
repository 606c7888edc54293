"""The console command `imagine-results`."""

import os

# With several threads, importing numpy takes a tenth of a short command's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from results_db.cli.root import main as main
