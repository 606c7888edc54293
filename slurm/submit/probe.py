"""One short job before anything is submitted: can a node import the project, see the folder, and reach the store?"""

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError
from results_db.contract import Store
from results_db.files import write_atomically
from results_db.text import one_line
from slurm.client.commands import said, srun_environment
from slurm.submit.dispatch import python, setup_commands
from slurm.submit.launchers import Resources

START_WITHIN_S = 20
_SOON_S = 1
_ANSWER_WITHIN_S = 180
_END_WITHIN_S = 10
_MINUTES = 5
_STARTED = "imagine-node-started"
_SET_UP = "imagine-node-set-up"
_FREE_LATER = re.compile(r"busy|[Ii]mmediate|Required (node|partition) not available")
_AFTER_A_GRANT = re.compile(r"timed out|contact|revoked|[Ll]aunch|\btask\b|[Ss]tep")

_OPTIONS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres", "cpus_per_task", "cpus_per_gpu"),
    *("gpus_per_node", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "comment"),
)
_NOT_OF_SRUN = frozenset(
    {
        *(
            "array",
            "dependency",
            "output",
            "error",
            "open-mode",
            "requeue",
            "no-requeue",
            "signal",
            "time",
            "begin",
        ),
        *("export-file", "get-user-env", "gid", "uid", "ignore-pbs", "nodefile", "parsable", "wrap"),
    }
)


def probe(store: Store, resources: Resources, *, waits: Callable[[], None] = lambda: None) -> str | None:
    """Let one node look, with the jobs' resources. None: all is well; else why no node has looked.

    Args:
        store: where the jobs' results shall go.
        resources: what they ask for.
        waits: called once if there is no answer at once.

    Raises:
        ConfigError: a node looked, and jobs would not work there; or Slurm refused such a job.
    """
    token = secrets.token_hex(8)
    file = store.folder / "jobs" / f"probe-{token}.json"
    write_atomically(file, b"{}")
    file.chmod(0o600)  # before the store's password is in it
    file.write_text(json.dumps({"token": token, "db": store.url}))
    try:
        return _outcome(_srun(file, token, resources, waits=waits))
    finally:
        file.unlink(missing_ok=True)


def _srun(
    file: Path, token: str, resources: Resources, *, waits: Callable[[], None]
) -> "subprocess.CompletedProcess[str] | None":
    """What srun said; None if it did not end in time. However this ends, no job is left."""
    name = f"imagine-probe-{secrets.token_hex(4)}"
    command = [
        *("srun", f"--immediate={START_WITHIN_S}", f"--time={_MINUTES}", f"--job-name={name}"),
        *("--ntasks=1", "--nodes=1", *options(resources), "bash", "-c", _script(file, token, resources)),
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
        out, err = _answer(process, waits)
    except subprocess.TimeoutExpired:
        _end(process, name)
        return None
    except BaseException:
        _end(process, name)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _script(file: Path, token: str, resources: Resources) -> str:
    check = shlex.join(["-m", "jobs.node_check", str(file), token])
    return "\n".join(
        [
            f"echo {_STARTED} $SLURMD_NODENAME",
            *setup_commands(resources),
            f"printf '\\n%s\\n' {_SET_UP}",
            f"exec {python()} {check}",
        ]
    )


def _answer(process: "subprocess.Popen[str]", waits: Callable[[], None]) -> tuple[str, str]:
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=_SOON_S)
    waits()
    return process.communicate(timeout=_ANSWER_WITHIN_S)


def _end(process: "subprocess.Popen[str]", name: str) -> None:
    """End srun and its job. By SIGTERM it takes its job with it; killed, it would leave it in the queue."""
    process.terminate()
    try:
        process.communicate(timeout=_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", f"--name={name}"], capture_output=True, timeout=_END_WITHIN_S, check=False)


def options(resources: Resources) -> list[str]:
    """Srun's options for what the jobs will ask for."""
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
        return _not_started(said(done.stderr))
    problem = _problem(done)
    if problem is None:
        return None
    node = started[0].removeprefix(_STARTED).strip()
    raise ConfigError(f"node {node} {problem}; nothing was submitted (--no-check submits all the same)")


def _not_started(words: str) -> str:
    """Why no node has looked, by srun's words.

    Raises:
        ConfigError: by these Slurm will never start such a job.
    """
    if _FREE_LATER.search(words):
        return f"no node started the probe within {START_WITHIN_S} s ({words})"
    if _AFTER_A_GRANT.search(words):
        return f"the probe was not started ({words})"
    raise ConfigError(
        f"Slurm refused the jobs: {words}; nothing was submitted (--no-check submits all the same)"
    )


def _problem(done: "subprocess.CompletedProcess[str]") -> str | None:
    """What is wrong with a node that looked."""
    lines = done.stdout.splitlines()
    if _SET_UP not in lines:
        return (
            f"did not get through the setup commands: they ended with exit code {done.returncode} "
            f"({_last(done.stderr)})"
        )
    try:
        problem: str | None = json.loads(lines[-1])["problem"]
    except (ValueError, KeyError, TypeError):
        return f"cannot import the project: {_last(done.stderr)}"
    return problem


def _last(stderr: str) -> str:
    """The last line that is not srun's own."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("srun:")]
    return one_line(lines[-1]) if lines else "it said nothing"
