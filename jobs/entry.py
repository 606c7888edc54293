"""The worker process of the local launcher, which trains one pack after another. Torch-free.

`python -m jobs.entry` reads tasks from standard input, one per line, trains them, and prints one JSON event per line.
When its input ends it saves the pack that it trains, and ends. The local launcher starts one such
process per core or GPU. `jobs.worker` is loaded by name, because it imports torch.

Environment:
    IMAGINE_DB: the store.
    IMAGINE_DEVICE: a torch device; by default a GPU if there is one, else the CPU.
    IMAGINE_THREADS: threads of the trainer on the CPU; default: 1.
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

from imagination.schema import ConfigError
from jobs.pack import Task
from jobs.provenance import provenance
from jobs.run_log import RunLog
from results_db.files import Files
from results_db.spool.delivery import delivery


def read_tasks(lines: TextIO, tasks: "queue.SimpleQueue[str | None]", launcher_gone: threading.Event) -> None:
    """Put tasks into the queue as they arrive. If the launcher dies, its pipe closes and this worker stops."""
    for line in lines:
        if line.endswith("\n"):  # else the launcher died while it wrote the line
            tasks.put(line)
    launcher_gone.set()
    tasks.put(None)


def main() -> int:
    """Train packs until there are no more of them."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Only events go to standard output; all other output goes to the log.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the launcher stops its workers
    tasks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=read_tasks, args=(sys.stdin, tasks, stop), daemon=True).start()

    def report(event: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # the launcher died; the runs did not fail
            print(json.dumps(event), file=events)

    worker: Any = importlib.import_module("jobs.worker")
    try:
        device = worker.choose_device(
            os.environ.get("IMAGINE_DEVICE", "auto"), threads=int(os.environ.get("IMAGINE_THREADS", "1"))
        )
    except ConfigError as error:
        report({"event": "refused", "error": str(error)})
        return 2
    store = delivery(os.environ["IMAGINE_DB"])
    own = os.environ.get("IMAGINE_LOG")
    log = Files(store.folder).name(Path(own)) if own else None
    me = provenance(launcher="local", device=worker.device_name(device), log=log)
    report({"event": "ready"})
    while (line := tasks.get()) is not None and not stop.is_set():
        task = Task.decode(line)
        tell = RunLog(task.pack, then=report)
        worker.run_pack(task, store, device=device, provenance=me, report=tell, stop=stop.is_set)
        if stop.is_set():
            break  # without asking for more work
        report({"event": "idle"})
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
