"""The testbed: a real Slurm comes up, does what the tests of dispatch need it to do, breaks on demand, and goes."""

import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest
from slurm_fixtures import wipe_orphans

from slurm.testbed import ports
from slurm.testbed.errors import TestbedError
from slurm.testbed.processes import TASK, is_alive, wait_for
from slurm.testbed.settings import Settings
from slurm.testbed.testbed import Testbed

SLOW = pytest.mark.slow
WITHIN_S = 90  # what takes 20 s on an idle machine


def submit(slurm: Testbed, script: str, *options: str) -> str:
    """The id of a job that runs this shell script."""
    return slurm.run("sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", *options, "--wrap", script)


def state(slurm: Testbed, job: str) -> str:
    return slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def wait_until_running(slurm: Testbed, *jobs: str) -> None:
    wait_for("jobs to run", lambda: all(state(slurm, job) == "RUNNING" for job in jobs), within_s=WITHIN_S)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(path: Path, count: int) -> list[str]:
    wait_for(f"{count} lines", lambda: len(lines(path)) >= count, within_s=WITHIN_S)
    return lines(path)


def alive(pid: str) -> bool:
    return psutil.pid_exists(int(pid)) and is_alive(psutil.Process(int(pid)))


@SLOW
def test_up_down_up_wipe(slurm_with) -> None:
    testbed = slurm_with(nodes=2)
    assert testbed.up() is False  # all of it runs already
    job = submit(testbed, "sleep 300")
    wait_until_running(testbed, job)
    with pytest.raises(TestbedError, match="up with other settings; take it down first"):
        testbed.up(Settings(nodes=3))
    for left in (testbed.place.folder / "run").glob("*.pid"):
        left.unlink()  # processes are found without them
    testbed.down()
    assert testbed.members() == []
    testbed.down()
    assert testbed.up() is True
    # Its database and the controller's state were kept.
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
        assert slurm.node_states()["n1"] == "idle"  # ours, whose caller lives, is still there
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
    # The third finds no GPU, though there are CPUs enough.
    assert Counter(state(slurm, job) for job in jobs) == {"RUNNING": 2, "PENDING": 1}


@SLOW
def test_max_array_size_is_the_clusters(slurm_with) -> None:
    testbed = slurm_with(nodes=1, gpus=1, accounting=False, max_array=11)
    submit(testbed, "true", "--array=0-10")
    with pytest.raises(TestbedError, match="Invalid job array specification"):
        submit(testbed, "true", "--array=0-11")


ATTEMPT = 'echo "${SLURM_RESTART_COUNT:-0} $SLURMD_NODENAME $$" >> %s; sleep 300'


@SLOW
def test_a_killed_node_loses_its_tasks_and_slurm_requeues_the_job(slurm, tmp_path) -> None:
    job = submit(slurm, ATTEMPT % (tmp_path / "attempts"), "--requeue")
    (first,) = wait_for_lines(tmp_path / "attempts", 1)
    _, node, pid = first.split()
    slurm.kill_node(node)
    assert not alive(pid)
    assert not [member for member in slurm.members() if member.node == node]
    count, other, _ = wait_for_lines(tmp_path / "attempts", 2)[1].split()
    assert (count, other != node) == ("1", True)
    assert slurm.node_states()[node].startswith("down")
    # One job, tried twice; without -D only the latest is shown.
    wait_for("sacct", lambda: states_of(slurm, job, "-D") == ["NODE_FAIL", "RUNNING"], within_s=WITHIN_S)
    assert states_of(slurm, job) == ["RUNNING"]
    slurm.start_node(node)
    assert slurm.node_states()[node] == "idle"


def states_of(slurm: Testbed, job: str, *options: str) -> list[str]:
    return slurm.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State", *options).splitlines()


@SLOW
def test_a_cut_node_leaves_two_copies(slurm, tmp_path) -> None:
    job = submit(slurm, ATTEMPT % (tmp_path / "attempts"), "--requeue")
    (first,) = wait_for_lines(tmp_path / "attempts", 1)
    _, node, pid = first.split()
    slurm.cut_node(node)
    count, other, newer = wait_for_lines(tmp_path / "attempts", 2)[1].split()
    assert (count, other != node) == ("1", True)
    # Both are alive and take themselves for the same job.
    for copy in (pid, newer):
        assert psutil.Process(int(copy)).environ()["SLURM_JOB_ID"] == job
    # Back on the network, the node ends what no longer belongs on it.
    slurm.start_node(node)
    wait_for("the older copy's end", lambda: not alive(pid), within_s=WITHIN_S)
    assert alive(newer)
    assert state(slurm, job) == "RUNNING"


@SLOW
def test_running_jobs_survive_the_controller(slurm, tmp_path) -> None:
    go = tmp_path / "go"
    job = submit(slurm, f"echo $$ >> {tmp_path}/pid; while [ ! -e {go} ]; do sleep 0.1; done")
    (pid,) = wait_for_lines(tmp_path / "pid", 1)
    slurm.wait_for_save()
    slurm.kill_controller()
    assert not {"slurmctld", "slurmscriptd"} & {member.kind for member in slurm.members()}
    slurm.start_controller()
    assert state(slurm, job) == "RUNNING"
    go.touch()
    wait_for("the job's end", lambda: state(slurm, job) == "COMPLETED", within_s=WITHIN_S)
    assert lines(tmp_path / "pid") == [pid]  # it ran once


PREEMPTED = """
trap 'echo USR2 >> {path}' USR2
echo start ${{SLURM_RESTART_COUNT:-0}} >> {path}
for i in $(seq 3000); do sleep 0.1; done
"""


@SLOW
def test_preemption_signals_and_requeues(slurm, tmp_path) -> None:
    path = tmp_path / "said"
    whole = ("--nodelist=n1", "--gpus-per-node=2")
    job = submit(slurm, PREEMPTED.format(path=path), "--signal=B:USR2@5", "--requeue", *whole)
    wait_for_lines(path, 1)
    submit(slurm, "sleep 1", "--partition=urgent", *whole)
    assert wait_for_lines(path, 3) == ["start 0", "USR2", "start 1"]
    assert state(slurm, job) == "RUNNING"
    wait_for("sacct", lambda: states_of(slurm, job, "-D") == ["PREEMPTED", "RUNNING"], within_s=WITHIN_S)


@SLOW
def test_a_job_over_its_memory_is_killed_and_its_log_says_so(slurm, tmp_path) -> None:
    hungry = f"{sys.executable} -c 'import time; held = bytes(400_000_000) + bytes([1]); time.sleep(300)'"
    job = submit(slurm, hungry, "--mem=100", f"--error={tmp_path}/log")
    wait_for(
        "its end", lambda: states_of(slurm, job) == ["FAILED"], within_s=WITHIN_S
    )  # Slurm 22.05's word for it
    assert "Exceeded job memory limit" in (tmp_path / "log").read_text()


@SLOW
def test_without_accounting_jobs_run_and_sacct_does_not(slurm_with, tmp_path) -> None:
    testbed = slurm_with(nodes=1, accounting=False)
    submit(testbed, f"echo done > {tmp_path}/said")
    assert wait_for_lines(tmp_path / "said", 1) == ["done"]
    with pytest.raises(TestbedError, match="accounting"):
        testbed.run("sacct")
    assert not {"mariadbd", "slurmdbd"} & {member.kind for member in testbed.members()}


@SLOW
def test_reset_mends_everything(slurm) -> None:
    submit(slurm, "setsid sleep 301 & sleep 300", "--array=0-3", "--ntasks=1")
    wait_for("tasks", lambda: len([m for m in slurm.members() if m.kind == TASK]) >= 12, within_s=WITHIN_S)
    slurm.cut_node("n1", noticed=True)
    slurm.kill_node("n2")
    slurm.kill_controller()
    # A person's shell that is pointed at the testbed is no part of it.
    with subprocess.Popen(["sleep", "300"], env=slurm.environment) as shell:
        slurm.reset()
        assert shell.poll() is None
        shell.kill()
    assert not [member for member in slurm.members() if member.kind in (TASK, "slurmstepd")]
    assert slurm.run("squeue", "-h") == ""
    assert set(slurm.node_states().values()) == {"idle"}


@SLOW
def test_two_testbeds_do_not_meet(slurm, slurm_with) -> None:
    other = slurm_with(nodes=1, accounting=False)
    assert abs(other.record.port - slurm.record.port) >= ports.BLOCK
    job = submit(slurm, "sleep 300")
    wait_until_running(slurm, job)
    assert not {member.process for member in slurm.members()} & {member.process for member in other.members()}
    other.wipe()
    assert state(slurm, job) == "RUNNING"
