"""A job with several GPUs divides its pack among them. Here every part trains on a core (`IMAGINE_DEVICE`)."""

import os
import re
import signal

import pytest
from slurm_helpers import (
    LONG,
    WITHIN_S,
    attempts,
    launch,
    logs,
    wait_for_log,
    wait_for_no_jobs,
    wait_for_states,
)
from sweep_helpers import opened, wait_until, write_spec

from results_db.contract import State
from slurm.client.client import Slurm
from slurm.follow.reconcile import Reconciler

pytestmark = [pytest.mark.slow, pytest.mark.fault]

TWO = ("launcher.gpus_per_node=2", "--no-check")


@pytest.fixture(autouse=True)
def on_cores(monkeypatch):
    monkeypatch.setenv("IMAGINE_DEVICE", "cpu")


def processes(folder):
    """The processes of the newest attempts, by run."""
    return [tries[-1]["process"] for tries in attempts(folder)]


def test_a_process_per_gpu_trains_a_part_of_the_pack(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=3)
    jobs = launch(tmp_path, *TWO).json["jobs"]
    wait_for_states(tmp_path, State.COMPLETED)
    wait_for_no_jobs(slurm)
    assert len(jobs) == 1
    assert sorted(map(processes(tmp_path).count, set(processes(tmp_path)))) == [1, 2]
    assert "the pack of 3 runs is divided among 2 GPUs" in logs(tmp_path)
    assert "ends: 3 COMPLETED" in logs(tmp_path)


def test_preempted_all_parts_save_and_come_back(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=2, **LONG)
    launch(tmp_path, *TWO)
    wait_for_log(tmp_path, "started", times=2)
    (job,) = {one["job_id"] for tries in attempts(tmp_path) for one in tries}
    slurm.run("scancel", "--signal=USR2", job)
    wait_for_states(tmp_path, State.COMPLETED)
    for tries in attempts(tmp_path):
        assert [(one["restart"], one["state"]) for one in tries] == [(0, "PREEMPTED"), (1, "COMPLETED")]


def test_a_part_that_dies_takes_no_other_part_with_it(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=2, **LONG)
    launch(tmp_path, *TWO)
    wait_for_log(tmp_path, "started", times=2)
    with opened(tmp_path) as store:
        wait_until(lambda: len(store.open_attempts()) == 2 and all(processes(tmp_path)), within_s=WITHIN_S)
    os.kill(int(processes(tmp_path)[0].split(":")[0]), signal.SIGKILL)
    wait_for_no_jobs(slurm)
    store = opened(tmp_path)
    Reconciler(store, Slurm()).look()
    assert sorted(tries[-1]["state"] for tries in attempts(tmp_path)) == ["COMPLETED", "FAILED"]
    assert "a process of this job died: signal 9" in logs(tmp_path)
    assert re.search("ends: 1 (COMPLETED|LOST), 1 (COMPLETED|LOST)", logs(tmp_path))


def test_a_fault_of_all_parts_holds_the_launch_and_their_runs_are_failed(
    slurm, tmp_path, monkeypatch
) -> None:
    threads = "*[os.environ[name] for name in ('IMAGINE_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')]"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'slurm.start' in sys.orig_argv and '/2/' in sys.orig_argv[-1]:\n"
        f"    print('threads', {threads}, file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_spec(tmp_path, runs=4)
    options = ("launcher.cpus_per_task=2", "launcher.array_parallelism=1", "--pack-size=1", "--hold-after=2")
    launch(tmp_path, *TWO, *options)
    wait_for_log(tmp_path, "ends: 2 FAILED")
    wait_for_log(tmp_path, "is held, because its first 2 runs failed with the same error")
    assert "threads 1 1 1" in logs(tmp_path)
    states = [tries[-1]["state"] for tries in attempts(tmp_path)]
    assert set(states) <= {"FAILED", "PENDING"}  # one more job may have started before it was held
    with opened(tmp_path) as store:
        causes = {one.error for one in store.ended_attempts()}
    assert causes == {"a process of this job died: exit code 3"}
