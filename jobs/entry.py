"""What a launcher executes: a process that trains one pack after another. Torch-free, so launchers may import it.

`python -m jobs.entry` reads paths of pack files from standard input, a line each, trains them, and prints one JSON
event a line; end of input ends it after the pack at hand is saved. It is the process that the local launcher
starts once per core or GPU. The worker, and torch with it, is loaded by name.

Environment:
    IMAGINE_DB: the store.
    IMAGINE_DEVICE: a torch device (default: a GPU if there is one, else the CPU).
    IMAGINE_THREADS: threads of the trainer on the CPU.
"""

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from jobs.pack import Pack
from jobs.provenance import provenance
from results_db.spool.worker_store import SpooledStore
from results_db.store import open_store


class Stop:
    """Set once, by a signal or by the launcher's end; asked by the trainer before every step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self, *_: object) -> None:
        """Ask to stop; usable as a signal handler."""
        self._event.set()


def read_packs(lines: TextIO, packs: "queue.SimpleQueue[Path | None]", launcher_gone: Stop) -> None:
    """Hand on pack paths as they come. A launcher that died closes the pipe: then its workers stop, too."""
    for line in lines:
        packs.put(Path(line.strip()))
    launcher_gone.set()
    packs.put(None)


def main() -> int:
    """See the module."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Events have the standard output to themselves: whatever else prints goes to the log.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.set)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the launcher, which ends its workers in order
    packs: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
    threading.Thread(target=read_packs, args=(sys.stdin, packs, stop), daemon=True).start()

    def report(event: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # the launcher died; that must not count as a failure of the runs
            print(json.dumps(event), file=events)

    worker: Any = importlib.import_module("jobs.worker")
    device = worker.choose_device(
        os.environ.get("IMAGINE_DEVICE", "auto"), threads=int(os.environ.get("IMAGINE_THREADS", "0"))
    )
    me = provenance(
        launcher="local", device=worker.device_name(device), log=os.environ.get("IMAGINE_LOG") or None
    )
    opened = open_store(os.environ["IMAGINE_DB"], create=True)
    store = SpooledStore(opened.folder, lambda: opened)
    report({"event": "ready"})
    while (path := packs.get()) is not None and not stop():
        worker.run_pack(Pack.read(path), store, device=device, provenance=me, report=report, stop=stop)
        if stop():
            break  # a worker that was told to stop asks for no more work
        report({"event": "idle"})
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
