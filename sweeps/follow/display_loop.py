"""Looks in a thread of its own, so that a key is answered at once however long Slurm takes."""

import os
import queue
import select
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live

from results_db.contract import StoreError
from sweeps.follow.display import screen
from sweeps.follow.watch import Snapshot

_KEYS_EVERY_S = 0.1
_RECENT = 4


class Looks:
    """Snapshots, one after the other, each some seconds after the last one.

    Args:
        look: takes one.
        every_s: seconds from the end of a look to the next.
    """

    def __init__(self, look: Callable[[], Snapshot], *, every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._over = threading.Event()
        self._taken: queue.SimpleQueue[Snapshot | BaseException] = queue.SimpleQueue()
        # Slurm may take long to answer; nobody who leaves shall wait for that.
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)

    def __enter__(self) -> "Looks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=1.0)

    def next(self, *, within_s: float) -> Snapshot | StoreError | None:
        """The next snapshot, or why there is none; None if it does not come within this time.

        Raises:
            BaseException: whatever went wrong in the thread, but for a store that is away.
        """
        try:
            found = self._taken.get(timeout=within_s)
        except queue.Empty:
            return None
        if isinstance(found, BaseException) and not isinstance(found, StoreError):
            raise found
        return found

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._taken.put(self._look())
            except BaseException as error:
                self._taken.put(error)
                if not isinstance(error, StoreError):
                    return
            self._over.wait(self._every_s)


def watch_lines(looks: Looks, show: Callable[[Snapshot], None], complain: Callable[[str], None]) -> Snapshot:
    """Show one snapshot after the other until no run is active any more; the last of them."""
    while True:
        found = looks.next(within_s=60.0)
        if isinstance(found, StoreError):
            complain(f"{found}; looking again")
        elif found is not None:
            show(found)
            if not found.active:
                return found


def watch_screen(looks: Looks, console: Console) -> Snapshot | None:
    """The same on a terminal, until q is pressed or no run is active any more; the last snapshot, if there was one."""
    last: Snapshot | None = None
    recent: deque[str] = deque(maxlen=_RECENT)
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys() as pressed:
        live.update("looking ...", refresh=True)
        while not pressed("q"):
            found = looks.next(within_s=_KEYS_EVERY_S)
            if isinstance(found, StoreError):
                recent.append(f"{time.strftime('%H:%M:%S')} {found}")
            elif found is not None:
                last = found
                recent.extend(f"{time.strftime('%H:%M:%S')} {line}" for line in found.found.lines)
            if found is not None and last is not None:
                size = console.size
                footer = f"  ·  {time.strftime('%H:%M:%S')}  ·  q leaves"
                live.update(
                    screen(last, width=size.width, height=size.height, recent=list(recent), footer=footer),
                    refresh=True,
                )
                if not last.active:
                    break
    return last


@contextmanager
def _keys() -> Iterator[Callable[[str], bool]]:
    """Tells whether a key was pressed since it was last asked; without a terminal to read from none ever is."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield lambda key: False
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed(key: str) -> bool:
        found = False
        while select.select([descriptor], [], [], 0)[0]:
            typed = os.read(descriptor, 64).decode(errors="replace").lower()
            found = found or key in typed
            if not typed:
                break
        return found

    try:
        yield pressed
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
