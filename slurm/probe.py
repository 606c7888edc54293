"""One short job before anything is submitted: can a node import the project, see the folder, and reach the store?"""

import json
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError
from results_db.contract import Store
from results_db.files import write_atomically
from results_db.words import one_line
from slurm.commands import said, srun_environment
from slurm.dispatch import python, setup_commands
from slurm.launchers import Resources

START_WITHIN_S = 20
_ANSWER_WITHIN_S = 180
_STARTED = "imagine-node-started"
_MINUTES = 5

_OPTIONS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres", "cpus_per_task", "cpus_per_gpu"),
    *("gpus_per_node", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "comment"),
)
_NOT_OF_SRUN = frozenset(
    {"array", "dependency", "output", "error", "open-mode", "requeue", "signal", "time", "begin"}
)


def probe(store: Store, resources: Resources) -> str | None:
    """Let one node look, with the jobs' resources. None: all is well; else why no node has looked.

    Raises:
        ConfigError: a node looked, and jobs would not work there.
    """
    token = secrets.token_hex(8)
    file = store.folder / "jobs" / f"probe-{token}.json"
    write_atomically(file, b"{}")
    file.chmod(0o600)  # before the store's password is in it
    file.write_text(json.dumps({"token": token, "db": store.url}))
    try:
        return _outcome(_srun(file, token, resources))
    finally:
        file.unlink(missing_ok=True)


def _srun(file: Path, token: str, resources: Resources) -> "subprocess.CompletedProcess[str] | None":
    """What srun said; None if it did not end in time."""
    check = shlex.join(["-m", "jobs.node_check", str(file), token])
    script = [*setup_commands(resources), f"echo {_STARTED} $SLURMD_NODENAME", f"exec {python()} {check}"]
    try:
        return subprocess.run(
            [
                "srun",
                f"--immediate={START_WITHIN_S}",
                f"--time={_MINUTES}",
                "--job-name=imagine-probe",
                "--ntasks=1",
                "--nodes=1",
                *options(resources),
                *("bash", "-c", "\n".join(script)),
            ],
            env=srun_environment(resources.asked),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


def options(resources: Resources) -> list[str]:
    """srun's options for what the jobs will ask for."""
    values: Mapping[str, Any] = resources.values
    asked = {key.replace("_", "-"): values[key] for key in _OPTIONS if values[key] is not None}
    if values["mem_gb"] is not None:
        asked["mem"] = f"{values['mem_gb']}G"
    more = {key.replace("_", "-"): value for key, value in resources.additional.items()}
    asked |= {
        key: value
        for key, value in more.items()
        if key not in _NOT_OF_SRUN and not key.startswith("mail") and value not in (None, False)
    }
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in asked.items()]


def _outcome(done: "subprocess.CompletedProcess[str] | None") -> str | None:
    """See `probe`."""
    if done is None:
        return f"the probe did not answer within {_ANSWER_WITHIN_S} s"
    started = [line for line in done.stdout.splitlines() if line.startswith(_STARTED)]
    if not started:
        return f"no node started the probe within {START_WITHIN_S} s ({said(done.stderr)})"
    node = started[0].removeprefix(_STARTED).strip()
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        problem = found["problem"]
    except (ValueError, KeyError, TypeError):
        problem = f"cannot import the project: {_last(done.stderr)}"
    if problem is None:
        return None
    raise ConfigError(f"node {node} {problem}; nothing was submitted (--no-check submits all the same)")


def _last(stderr: str) -> str:
    """The last line that is not srun's own."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("srun:")]
    return one_line(lines[-1]) if lines else "it said nothing"
