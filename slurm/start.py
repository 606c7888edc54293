"""What Slurm executes: `python -m slurm.start FOLDER`, with the folder of the dispatch.

A job with several GPUs starts itself once more for each of them, with a part of its pack as a further argument. It
handles signals before it imports anything slow.
"""

import sys

from slurm.signals import Signals


def main(folder: str, part: str | None = None) -> int:
    """Train a task of the dispatch in this folder, or a part of it; the exit code."""
    signals = Signals()
    signals.listen()
    from slurm.job import Job

    job = Job(folder, signals=signals)
    return job.run() if part is None else job.run_part(part)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
