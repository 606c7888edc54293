"""`python -m jobs.node_check FILE TOKEN` checks, before the submission, whether jobs can run on this node.

The launcher wrote FILE beside the store. The command prints JSON: `{"problem": ...}`, with null if there is none.
"""

import importlib
import json
import os
import sys
from contextlib import closing
from pathlib import Path

from results_db.contract import StoreError
from results_db.text import one_line
from results_db.trust import open_own

_CHOOSE = "choose a store on a disk that all nodes see (--db)"


def problem(file: Path, token: str) -> str | None:
    """Why this node cannot run jobs; None if it can.

    Args:
        file: a file with the token and the store's URL, in a folder of its own.
        token: the token that the launcher wrote.
    """
    jobs = file.parent.parent
    try:
        with open_own(file) as opened:
            shared = json.loads(opened.read())
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is damaged"
        return f"does not see the shared folder {jobs} ({reason}); {_CHOOSE}"
    if shared["token"] != token:
        return f"sees another folder at {jobs}; {_CHOOSE}"
    try:
        worker = importlib.import_module("jobs.worker")
    except Exception as error:  # the jobs would meet the same error
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
    """Print this node's problem as JSON."""
    file, token = sys.argv[1:]
    print(json.dumps({"problem": problem(Path(file), token)}))


if __name__ == "__main__":
    main()
