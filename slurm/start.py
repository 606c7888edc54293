"""What Slurm executes: `python -m slurm.start FOLDER`, with the folder of the dispatch.

It handles signals before it imports anything slow.
"""

import sys

from slurm.signals import Signals


def main(folder: str) -> int:
    """Train a task of the dispatch in this folder; the exit code."""
    signals = Signals()
    signals.listen()
    from slurm.job import Job

    return Job(folder, signals=signals).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
