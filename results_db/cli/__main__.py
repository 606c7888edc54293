"""`python -m results_db.cli` is `imagine-results`."""

from results_db.cli.root import main

main()
