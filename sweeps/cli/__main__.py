"""`python -m sweeps.cli` is `imagine-sweep`."""

from sweeps.cli.root import main

main()
