"""`python -m jobs.node_check FILE TOKEN` on a node, before jobs are submitted: can it do what they must?

FILE was written by the launcher into the sweep's folder. Prints JSON: the node, and what is wrong (null: nothing).
"""

import importlib
import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path

from results_db.contract import StoreError
from results_db.text import one_line


def problem(file: Path, token: str) -> str | None:
    """What keeps this node from running jobs; None: nothing.

    Args:
        file: holds the token and the store's URL.
        token: what the launcher wrote into it.
    """
    try:
        shared = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        return (
            f"does not see the shared folder {file.parent} ({reason}); name a store on a disk that nodes see"
        )
    if shared["token"] != token:
        return f"sees another folder at {file.parent}; name a store on a disk that nodes see"
    try:
        worker = importlib.import_module("jobs.worker")
    except Exception as error:  # whatever it is, the jobs would meet it, too
        return f"cannot import the project: {one_line(error)}"
    try:
        worker.choose_device(os.environ.get("IMAGINE_DEVICE", "auto"))
    except Exception as error:
        return f"cannot train: {one_line(error)}"
    return _store_problem(shared["db"])


def _store_problem(url: str) -> str | None:
    from results_db.store import open_store

    try:
        with closing(open_store(url, create=False, read_only=True)) as store:
            store.states([])
    except StoreError as error:
        return f"cannot reach the store: {one_line(error)}"
    return None


def main() -> None:
    """See the module."""
    file, token = sys.argv[1:]
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    print(json.dumps({"node": node, "problem": problem(Path(file), token)}))


if __name__ == "__main__":
    main()
