"""What a source does not say ends nothing, and one damaged folder stops nothing; on a real Slurm."""

import json
import signal
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from slurm_helpers import attempts, command, launch, planned, states, wait_for_states
from slurm_jobs import claimed_long_ago, job_of, runs, state_of, submitted, wait_for_state
from sweep_helpers import SWEEP, answer, opened, run, write_spec

from results_db.contract import State
from slurm.client.client import Slurm
from slurm.client.parse import Answer
from slurm.follow.reconcile import Reconciler

pytestmark = pytest.mark.slow

LAUNCH = (SWEEP, "launch", "s.yaml", "launcher=slurm", "--db", "a.db", "--no-check", "--json")
WAITS = "launcher.additional_parameters={begin: now+1hour}"
BANNER = "printf '\\n*** Welcome to the cluster ***\\nJOBID is 17\\n'"


def replaced(folder: Path, scripts: dict[str, list[str]]) -> dict[str, str]:
    """An environment in which these scripts replace commands of Slurm."""
    for name, script in scripts.items():
        (folder / name).mkdir()
        environment = command(folder / name, name, script)
    path = ":".join(str(folder / name / "tools") for name in scripts)
    return environment | {"PATH": f"{path}:{environment['PATH']}"}


def test_banners_around_the_list_are_skipped(slurm, own, tmp_path) -> None:
    (failed,), (going,) = submitted(
        own, slurm, "[ $SLURM_ARRAY_TASK_ID = 1 ] && sleep 300; exit 3", tasks=[[run] for run in runs(2)]
    )
    wait_for_state(slurm, job_of(own, failed), "FAILED")
    noisy = [BANNER, '"$real" "$@"', BANNER]
    loud = Slurm(replaced(tmp_path, {"squeue": noisy, "sacct": noisy}))
    found = Reconciler(own, loud).look()
    assert [one.attempt for one in found.ended] == [failed]
    assert found.unknown == []
    assert state_of(own, going) is State.PENDING
    assert isinstance(loud.accounts([job_of(own, failed)], since=datetime.now(UTC)), Answer)


@pytest.mark.parametrize(
    "garbage", [":", BANNER, "printf 'JOBID\\0371_0\\037\\n'", '"$real" "$@" | head -c 80', "echo '<html>'"]
)
def test_an_answer_that_is_no_list_ends_nothing(slurm, own, tmp_path, garbage) -> None:
    """Also an empty one: squeue prints a header even if there are no jobs."""
    ((attempt,),) = submitted(own, slurm, "sleep 300", tasks=[runs(1)])
    broken = Slurm(replaced(tmp_path, {"squeue": [garbage], "sacct": [garbage]}))
    found = Reconciler(own, broken).look(now=datetime.now(UTC) + timedelta(hours=5))
    assert found.ended == []
    (line,) = found.unknown
    assert line.startswith("1 run: squeue printed ")
    assert state_of(own, attempt) is State.PENDING


def test_a_damaged_task_stops_no_other_sweep(slurm, tmp_path) -> None:
    """The launch was killed before it noted the ids, and 1.json is cut short."""
    write_spec(tmp_path, runs=3)
    write_spec(tmp_path, name="other", runs=1, channels=3)
    environment = command(tmp_path, "sbatch", ['"$real" "$@" > /dev/null', "kill -9 $PPID"])
    assert run(*LAUNCH, WAITS, folder=tmp_path, env=environment).returncode == -signal.SIGKILL
    (file,) = (tmp_path / "a.files" / "jobs").glob("*/1.json")
    file.write_text(file.read_text()[:100])
    (job,) = set(slurm.run("squeue", "-h", "-o", "%F").split())
    options = ("--db", "a.db", "--json", "--no-check")
    said = answer("launch", "other.yaml", "launcher=slurm", *options, folder=tmp_path)
    assert (said.code, said.json["submitted"]) == (0, 1)
    named = f"{file.parent}: 1.json is damaged: "
    assert [named in line for line in said.err.splitlines()].count(True) == 1
    assert [tries[0]["job_id"] for tries in attempts(tmp_path)] == [f"{job}_{task}" for task in range(3)]
    assert answer("reconcile", "--db", "a.db", folder=tmp_path).code == 0
    assert set(states(tmp_path).values()) == {State.PENDING}
    # The other tasks train. The job of this one cannot begin, and its run ends with it.
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for_states(tmp_path, State.COMPLETED, State.PENDING)
    wait_for_state(slurm, f"{job}_1", "FAILED")
    assert answer("reconcile", "--db", "a.db", folder=tmp_path).code == 0
    damaged = planned(tmp_path)[1]
    assert states(tmp_path)[damaged] is State.NODE_FAIL
    with closing(opened(tmp_path)) as store:
        assert "1.json is damaged" in store.attempts(damaged)[0]["error"]
    assert launch(tmp_path).json["submitted"] == 1


def test_a_damaged_head_leaves_claims_as_they_are(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=2)
    environment = command(tmp_path, "sbatch", ["kill -9 $PPID"])
    assert run(*LAUNCH, folder=tmp_path, env=environment).returncode == -signal.SIGKILL
    (head,) = (tmp_path / "a.files" / "jobs").glob("*/dispatch.json")
    head.write_text(json.dumps({"job_name": 3}))
    with closing(opened(tmp_path)) as store:
        claimed_long_ago(tmp_path / "a.db")
        found = Reconciler(store, Slurm()).look()
    assert found.recovered.withdrawn == []
    (line,) = found.unknown
    assert line.startswith(f"{head} is damaged, or others can write it; its 2 runs stay as they are")
    assert set(states(tmp_path).values()) == {State.PENDING}


def test_claims_stay_if_slurm_does_not_answer_after_sbatch(slurm, tmp_path) -> None:
    """sbatch gave up, and so does squeue. The jobs are in the queue; nothing is withdrawn, nothing submitted twice."""
    write_spec(tmp_path, runs=2)
    environment = replaced(
        tmp_path,
        {
            "sbatch": ['"$real" "$@" > /dev/null', "echo 'sbatch: error: Socket timed out' >&2", "exit 1"],
            "squeue": ["echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "exit 1"],
        },
    )
    done = run(*LAUNCH, WAITS, folder=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: Slurm did not answer: sbatch failed (1): Socket timed out; 2 runs may be queued, which "
        "imagine-sweep reconcile finds out\n"
    )
    assert set(states(tmp_path).values()) == {State.PENDING}
    (job,) = set(slurm.run("squeue", "-h", "-o", "%F").split())
    said = launch(tmp_path)
    assert said.json["submitted"] == 0
    assert f"job {job} was found" in said.err
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for_states(tmp_path, State.COMPLETED)


def test_claims_stay_if_sacct_does_not_answer(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    environment = command(tmp_path, "sbatch", ["kill -9 $PPID"])
    assert run(*LAUNCH, folder=tmp_path, env=environment).returncode == -signal.SIGKILL
    with closing(opened(tmp_path)) as store:
        (tmp_path / "sick").mkdir()
        sick = Slurm(command(tmp_path / "sick", "sacct", ["exit 1"]))
        found = Reconciler(store, sick).look()
        assert found.recovered.withdrawn == []
        assert "Slurm did not say whether it has the jobs of 1 run: sacct failed (1)" in found.unknown[0]
        assert len(Reconciler(store, Slurm()).look().recovered.withdrawn) == 1
