"""The check before a launch: the answers of a node and of srun, and that no job of it stays in the queue."""

import signal
import subprocess

import pytest
from slurm_helpers import attempts, launch, states, try_launch, wait_for_no_jobs, wait_for_states
from sweep_helpers import SWEEP, Watched, wait_until, write_spec

from imagination.schema import ConfigError
from results_db.contract import State
from slurm.submit.check import _outcome


def done(out: str, err: str, code: int = 1) -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess([], code, out, err)


# What srun of Slurm 22.05 printed on the testbed.
UNABLE = "srun: error: Unable to allocate resources: "
REFUSED = [
    (
        f"srun: error: invalid partition specified: nonesuch\n{UNABLE}Invalid partition name specified",
        "Invalid partition name specified",
    ),
    (
        f"{UNABLE}Requested node configuration is not available",
        "Requested node configuration is not available",
    ),
    ("srun: unrecognized option '--of-mine=x'\nTry \"srun --help\" for more information", "--of-mine=x"),
    ("srun: error: Invalid generic resource (gres) specification", "Invalid generic resource"),
]
NOT_YET = [
    f"srun: job 6 queued and waiting for resources\n{UNABLE}Requested nodes are busy",
    f"{UNABLE}Required node not available (down, drained or reserved)",
    "srun: error: Task launch for StepId=5.0 failed on node n1: Socket timed out on send/recv operation",
]


@pytest.mark.parametrize(("err", "words"), REFUSED)
def test_a_job_that_slurm_will_never_start_is_refused(err, words) -> None:
    with pytest.raises(ConfigError, match=r"^Slurm refused the jobs: .*; nothing was submitted") as refused:
        _outcome(done("", err))
    assert words in str(refused.value)


@pytest.mark.parametrize("err", NOT_YET)
def test_a_job_that_may_start_later_is_not_refused(err) -> None:
    assert "start" in str(_outcome(done("", err)))


def test_the_answers_of_a_node() -> None:
    started, set_up = "imagine-node-started n7\n", "imagine-node-set-up\n"
    assert _outcome(done(started + set_up + '{"problem": null}\n', "", 0)) is None
    # Setup commands may print anything, with or without a newline at the end.
    assert _outcome(done(started + "module loaded\n" + set_up + '{"problem": null}\n', "", 0)) is None
    for out, err, says in (
        (started, "srun: error: n7: task 0: Exited with exit code 3", "they ended with exit code 1"),
        (started, "bash: module: not found", "(bash: module: not found)"),
        (started + set_up, "ImportError: no torch", "cannot import the project: ImportError: no torch"),
        (started + set_up + '{"problem": "has no disk"}\n', "", "has no disk"),
    ):
        with pytest.raises(ConfigError, match=r"^node n7 .*; nothing was submitted") as refused:
            _outcome(done(out, err))
        assert says in str(refused.value)


@pytest.mark.slow
def test_a_setup_that_fails_is_named_and_nothing_is_submitted(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    said = try_launch(tmp_path, "launcher.setup=['echo no such module >&2; exit 3']", check=True)
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if "checking a node" not in line]
    assert "did not finish the setup commands: they ended with exit code 3 (no such module)" in line
    assert states(tmp_path) == {}
    assert slurm.run("squeue", "-h") == ""


@pytest.mark.slow
def test_an_interrupted_launch_says_that_it_waits_and_leaves_no_check(slurm, tmp_path) -> None:
    """Only the launch gets SIGINT, and ends its srun."""
    blockers = [
        slurm.run("sbatch", "--parsable", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
        for _ in slurm.node_states()
    ]
    write_spec(tmp_path, runs=1)
    command = (SWEEP, "launch", "s.yaml", "launcher=slurm", "--db", "a.db")
    launch = Watched(*command, folder=tmp_path, start_new_session=True)
    launch.wait_for("checking a node, for up to 20 s (--no-check skips this)")
    wait_until(lambda: "imagine-check-" in slurm.run("squeue", "-h", "-o", "%j"))
    (private,) = (tmp_path / "a.files" / "jobs").iterdir()  # the store's password is in it
    assert private.stat().st_mode & 0o777 == 0o700
    launch.process.send_signal(signal.SIGINT)
    assert launch.end() == 130
    assert not private.exists()
    assert "imagine-check-" not in slurm.run("squeue", "-h", "-o", "%j")
    slurm.run("scancel", *blockers)
    wait_for_no_jobs(slurm)


@pytest.mark.slow
def test_a_setup_that_prints_half_a_line(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    said = launch(tmp_path, "launcher.setup=['printf loaded']", check=True)
    assert said.json["submitted"] == 1


@pytest.mark.slow
def test_a_node_without_the_gpu_that_it_should_have(slurm, tmp_path, monkeypatch) -> None:
    """It must not train on its CPU instead, which would take days."""
    monkeypatch.delenv("IMAGINE_DEVICE")  # the testbed sets it, because its GPUs are fake
    write_spec(tmp_path, runs=1)
    said = try_launch(tmp_path, "launcher.gpus_per_node=1", check=True)
    assert said.code == 2
    assert "cannot train: device: 'cuda' cannot be used here" in said.err
    assert states(tmp_path) == {}
    assert slurm.run("squeue", "-h") == ""
    launch(tmp_path, "launcher.gpus_per_node=1")
    wait_for_states(tmp_path, State.NODE_FAIL)
    ((attempt,),) = attempts(tmp_path)
    assert "cannot train: device: 'cuda' cannot be used here" in attempt["error"]
