"""The testbed: a real Slurm comes up, breaks on demand, and goes.

The tests of jobs and reconcile use it, so what they show (preemption, memory limits, cut nodes) is not repeated here.
"""

import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from slurm_fixtures import wipe_orphans
from slurm_jobs import WITHIN_S, slurm_state, wait_for_state

from slurm.testbed import ports
from slurm.testbed.processes import TASK, wait_for
from slurm.testbed.settings import Settings, TestbedError
from slurm.testbed.testbed import Testbed

SLOW = pytest.mark.slow


def submit(slurm: Testbed, script: str, *options: str) -> str:
    """The id of a job that runs this shell script."""
    return slurm.run("sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", *options, "--wrap", script)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(path: Path, count: int) -> list[str]:
    wait_for(f"{count} lines", lambda: len(lines(path)) >= count, within_s=WITHIN_S)
    return lines(path)


@SLOW
def test_up_down_up_wipe(slurm_with) -> None:
    testbed = slurm_with(nodes=2)
    assert testbed.up() is False  # everything runs already
    job = submit(testbed, "sleep 300")
    wait_for_state(testbed, job, "RUNNING")
    with pytest.raises(TestbedError, match="up with other settings; take it down first"):
        testbed.up(Settings(nodes=3))
    for left in (testbed.place.folder / "run").glob("*.pid"):
        left.unlink()  # the testbed does not need them
    testbed.down()
    assert testbed.members() == []
    testbed.down()
    assert testbed.up() is True
    # It kept its database and the controller's state.
    assert testbed.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").startswith("CANCELLED")
    assert int(submit(testbed, "true")) == int(job) + 1
    testbed.wipe()
    assert testbed.members() == []
    assert not testbed.place.folder.exists()


@SLOW
def test_the_testbed_of_a_caller_that_was_killed_is_found_and_wiped(slurm) -> None:
    script = (
        "import os, sys; from slurm.testbed.settings import Settings; from slurm.testbed.testbed import Testbed; "
        "from pathlib import Path; testbed = Testbed(Path(f'{sys.argv[1]}/slurm-test-{os.getpid()}-0')); "
        "testbed.up(Settings(nodes=1, accounting=False)); "
        "testbed.run('sbatch', '-o', '/dev/null', '--wrap', 'sleep 300'); "
        "print(testbed.place.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tempfile.gettempdir()], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Testbed(Path(done.stdout.strip()))
    try:
        assert {"munged", "slurmctld", "slurmd"} <= {member.kind for member in left.members()}
        wipe_orphans()
        assert left.members() == []
        assert not left.place.folder.exists()
        assert slurm.node_states()["n1"] == "idle"  # the testbed of a live caller is untouched
    finally:
        left.wipe()


@SLOW
def test_an_array_completes_in_sacct(slurm) -> None:
    job = submit(slurm, "exit $((SLURM_ARRAY_TASK_ID == 3))", "--array=0-5")
    read = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode")
    wait_for(
        "sacct", lambda: len([x for x in slurm.run(*read).splitlines() if "ED|" in x]) == 6, within_s=WITHIN_S
    )
    expected = {f"{job}_{task}|{'FAILED|1:0' if task == 3 else 'COMPLETED|0:0'}" for task in range(6)}
    assert set(slurm.run(*read).splitlines()) == expected


@SLOW
def test_jobs_of_a_node_have_no_gpu_in_common(slurm, tmp_path) -> None:
    script = f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >> {tmp_path}/gpus; sleep 300"
    options = ("--gpus-per-node=1", "--nodelist=n1")
    jobs = [submit(slurm, script, *options) for _ in range(3)]
    assert sorted(wait_for_lines(tmp_path / "gpus", 2)) == ["n1 0", "n1 1"]
    # The third finds no GPU, though there are enough CPUs.
    assert Counter(slurm_state(slurm, job) for job in jobs) == {"RUNNING": 2, "PENDING": 1}


ATTEMPT = 'echo "${SLURM_RESTART_COUNT:-0} $SLURMD_NODENAME $$" >> %s; sleep 300'


@SLOW
def test_a_killed_node_loses_its_tasks_and_slurm_requeues_the_job(slurm, tmp_path) -> None:
    job = submit(slurm, ATTEMPT % (tmp_path / "attempts"), "--requeue")
    (first,) = wait_for_lines(tmp_path / "attempts", 1)
    _, node, _ = first.split()
    slurm.kill_node(node, noticed=True)
    assert not [member for member in slurm.members() if member.node == node]
    count, other, _ = wait_for_lines(tmp_path / "attempts", 2)[1].split()
    assert (count, other != node) == ("1", True)
    assert slurm.node_states()[node].startswith("down")
    # One job, started twice; without -D sacct shows only the latest start.
    wait_for("sacct", lambda: states_of(slurm, job, "-D") == ["NODE_FAIL", "RUNNING"], within_s=WITHIN_S)
    assert states_of(slurm, job) == ["RUNNING"]
    slurm.start_node(node)
    assert slurm.node_states()[node] == "idle"


def states_of(slurm: Testbed, job: str, *options: str) -> list[str]:
    return slurm.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State", *options).splitlines()


@SLOW
def test_reset_repairs_everything(slurm) -> None:
    submit(slurm, "setsid sleep 301 & sleep 300", "--array=0-3", "--ntasks=1")
    wait_for("tasks", lambda: len([m for m in slurm.members() if m.kind == TASK]) >= 12, within_s=WITHIN_S)
    slurm.cut_node("n1", noticed=True)
    slurm.kill_node("n2")
    slurm.kill_controller()
    # A user's shell with SLURM_CONF set is not part of the testbed.
    with subprocess.Popen(["sleep", "300"], env=slurm.environment) as shell:
        slurm.reset()
        assert shell.poll() is None
        shell.kill()
    assert not [member for member in slurm.members() if member.kind in (TASK, "slurmstepd")]
    assert slurm.run("squeue", "-h") == ""
    assert set(slurm.node_states().values()) == {"idle"}


@SLOW
def test_two_testbeds_are_independent(slurm, slurm_with) -> None:
    other = slurm_with(nodes=1, accounting=False)
    assert abs(other.record.port - slurm.record.port) >= ports.BLOCK
    job = submit(slurm, "sleep 300")
    wait_for_state(slurm, job, "RUNNING")
    assert not {member.process for member in slurm.members()} & {member.process for member in other.members()}
    other.wipe()
    assert slurm_state(slurm, job) == "RUNNING"
