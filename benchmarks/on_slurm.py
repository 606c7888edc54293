"""A real Slurm for a benchmark, in a folder of its own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.testbed import packages
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed


@contextmanager
def on_slurm(made_of: Settings) -> Iterator[tuple[Testbed, Path]]:
    """The testbed, which SLURM_CONF names, and an empty folder. Without Slurm the benchmark is skipped."""
    if missing := packages.missing(accounting=made_of.accounting):
        print(
            f"skipped: Slurm is not installed completely ({', '.join(missing)} missing); {packages.HOW_TO_INSTALL}"
        )
        raise SystemExit(0)
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        testbed = Testbed(Path(folder) / "slurm")
        try:
            testbed.up(made_of)
            os.environ["SLURM_CONF"] = testbed.environment["SLURM_CONF"]
            yield testbed, Path(folder)
        finally:
            testbed.wipe()
