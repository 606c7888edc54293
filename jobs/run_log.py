"""A worker's own log, which `imagine-sweep logs` shows: the lines that `launch` prints without a terminal."""

import re
from collections.abc import Callable, Mapping

from rich.console import Console

from imagination.schema import Scalar
from jobs.config import complete
from jobs.pack import Pack
from jobs.progress import Display
from results_db.text import brief, cell_text

_ROUTINE = re.compile(r"\d\d:\d\d:\d\d [0-9a-f]{10} |[-0-9]{10} [0-9:,]{12} INFO ")
"""The beginning of a line of `RunLog`, or of a worker's logger at level INFO."""


class RunLog:
    """Writes a worker's events to standard error, which is the worker's log. See `jobs.recording.Report`.

    The first line of a run has its config, the others only its seed.

    Args:
        pack: the runs that the worker trains.
        then: is told every event after it is written.
    """

    def __init__(self, pack: Pack, *, then: Callable[[Mapping[str, object]], None] | None = None) -> None:
        self._configs = {run.run_id: run.config for run in pack.runs}
        self._then = then
        # Also in a shell with FORCE_COLOR the log is no terminal.
        self._display = Display([list(self._configs)], console=Console(stderr=True, force_terminal=False))

    def __call__(self, event: Mapping[str, object]) -> None:
        """Writes the event's line, if it has one."""
        config = self._configs[str(event["run_id"])]
        event = {**event, "experiment": config["experiment"]}
        begins = event["event"] == "started"
        self._display.event(event, label(config) if begins else f"seed={config['seed']}")
        if self._then is not None:
            self._then(event)


def label(config: Mapping[str, Scalar]) -> str:
    """The seed of a complete config, and its values that differ from the preset's."""
    usual = complete(str(config["experiment"]), str(config["preset"]))
    shown = {key: value for key, value in config.items() if value != usual[key] or key == "seed"}
    return " ".join(f"{key}={brief(cell_text(value))}" for key, value in shown.items())


def unusual(lines: str) -> list[str]:
    """The lines of a worker's log that may tell what went wrong."""
    return [line for line in lines.splitlines() if line.strip() and not _ROUTINE.match(line)]
