"""A short job before the submission. Can a node import the project, see the shared folder, and reach the store?"""

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError
from results_db.contract import Store
from results_db.files import Files
from results_db.text import one_line
from slurm.client.client import Slurm, SlurmError, said, srun_environment
from slurm.submit.dispatch import setup_commands
from slurm.submit.launchers import Resources

START_WITHIN_S = 20
_SOON_S = 1
_ANSWER_WITHIN_S = 180
_END_WITHIN_S = 10
_MINUTES = 5
_STARTED = "imagine-node-started"
_SET_UP = "imagine-node-set-up"
_FREE_LATER = re.compile(r"busy|[Ii]mmediate|Required (node|partition) not available")
_AFTER_ALLOCATION = re.compile(r"timed out|contact|revoked|[Ll]aunch|\btask\b|[Ss]tep")

_OPTIONS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres", "cpus_per_task", "cpus_per_gpu"),
    *("gpus_per_node", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "comment"),
)
_NOT_OF_SRUN = frozenset(
    (
        *("array", "dependency", "output", "error", "open-mode", "requeue", "no-requeue", "signal", "time"),
        *("begin", "export-file", "get-user-env", "gid", "uid", "ignore-pbs", "nodefile", "parsable", "wrap"),
    )
)


def check_node(store: Store, resources: Resources, *, waits: Callable[[], None] = lambda: None) -> str | None:
    """Run `jobs.node_check` on one node, with the jobs' resources.

    Args:
        store: the store for the jobs' results.
        resources: what the jobs ask for.
        waits: called once if the answer takes longer than a second.

    Returns:
        None if all is well, else why no node was checked.

    Raises:
        ConfigError: the jobs would not work on the node, or Slurm refused such a job.
    """
    token = secrets.token_hex(8)
    folder = store.folder / "jobs" / f"check-{token}"
    Files(store.folder).make_folder("jobs", folder.name, mode=0o700)  # the store's password is in it
    file = folder / "check.json"
    file.write_text(json.dumps({"token": token, "db": store.url}))
    try:
        return _outcome(_srun(_script(file, token, resources), resources, waits=waits))
    except subprocess.TimeoutExpired:
        return f"the check did not answer within {_ANSWER_WITHIN_S} s"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _srun(
    script: str, resources: Resources, *, waits: Callable[[], None]
) -> "subprocess.CompletedProcess[str]":
    """The ended srun. Its job never stays in the queue.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    name = f"imagine-check-{secrets.token_hex(4)}"
    command = [
        *("srun", f"--immediate={START_WITHIN_S}", f"--time={_MINUTES}", f"--job-name={name}"),
        *("--ntasks=1", "--nodes=1", *options(resources), "bash", "-c", script),
    ]
    process = subprocess.Popen(
        command,
        env=srun_environment(resources.asked),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        try:
            out, err = process.communicate(timeout=_SOON_S)
        except subprocess.TimeoutExpired:
            waits()
            out, err = process.communicate(timeout=_ANSWER_WITHIN_S)
    except BaseException:
        _end(process, name)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _script(file: Path, token: str, resources: Resources) -> str:
    check = shlex.join([sys.executable, "-m", "jobs.node_check", str(file), token])
    lines = [
        f"echo {_STARTED} $SLURMD_NODENAME",
        *setup_commands(resources),
        f"printf '\\n%s\\n' {_SET_UP}",
        f"exec {check}",
    ]
    return "\n".join(lines)


def _end(process: "subprocess.Popen[str]", name: str) -> None:
    """End srun and its job. SIGTERM makes srun cancel its job; after SIGKILL the job would stay in the queue."""
    process.terminate()
    try:
        process.communicate(timeout=_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    with suppress(SlurmError):
        Slurm().run("scancel", f"--name={name}", within_s=_END_WITHIN_S)


def options(resources: Resources) -> list[str]:
    """The options of srun for what the jobs ask for."""
    values: Mapping[str, Any] = resources.values
    asked = {key.replace("_", "-"): values[key] for key in _OPTIONS if values[key] is not None}
    if values["mem_gb"] is not None:
        asked["mem"] = f"{values['mem_gb']}G"
    for key, value in resources.additional.items():
        option = key.replace("_", "-")
        if option not in _NOT_OF_SRUN and not option.startswith("mail") and value not in (None, False):
            asked[option] = value
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in asked.items()]


def _outcome(done: "subprocess.CompletedProcess[str]") -> str | None:
    """See `check_node`."""
    started = [line for line in done.stdout.splitlines() if line.startswith(_STARTED)]
    if not started:
        return _not_started(said(done.stderr))
    problem = _problem(done)
    if problem is None:
        return None
    node = started[0].removeprefix(_STARTED).strip()
    raise ConfigError(f"node {node} {problem}; nothing was submitted (--no-check submits anyway)")


def _not_started(words: str) -> str:
    """Why srun started nothing.

    Raises:
        ConfigError: Slurm will never start such a job.
    """
    if _FREE_LATER.search(words):
        return f"no node started the check within {START_WITHIN_S} s ({words})"
    if _AFTER_ALLOCATION.search(words):
        return f"the check was not started ({words})"
    raise ConfigError(f"Slurm refused the jobs: {words}; nothing was submitted (--no-check submits anyway)")


def _problem(done: "subprocess.CompletedProcess[str]") -> str | None:
    """What is wrong with the node, or None."""
    lines = done.stdout.splitlines()
    if _SET_UP not in lines:
        return (
            f"did not finish the setup commands: they ended with exit code {done.returncode} "
            f"({_last(done.stderr)}); correct launcher.setup"
        )
    try:
        problem: str | None = json.loads(lines[-1])["problem"]
    except (ValueError, KeyError, TypeError):
        return f"cannot import the project: {_last(done.stderr)}"
    return problem


def _last(stderr: str) -> str:
    """The last line that is not srun's own."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("srun:")]
    return one_line(lines[-1]) if lines else "no message"
