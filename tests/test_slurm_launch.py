"""Launches on a real Slurm: what is queued, what is refused, what a launcher that dies leaves behind."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from slurm_helpers import (
    WITHIN_S,
    all_results,
    assert_whole,
    attempts,
    command,
    launch,
    launched_into,
    logs,
    planned,
    scripts,
    states,
    train_here,
    try_launch,
    wait_for_no_jobs,
    wait_for_states,
)
from sweep_helpers import (
    SMALL,
    SWEEP,
    Answer,
    answer,
    opened,
    run,
    trained_by_job,
    wait_until,
    write_spec,
)

from results_db.contract import State
from results_db.store import open_store
from sweeps.spec.expand import expand
from sweeps.spec.load import load

pytestmark = pytest.mark.slow

WAITS = "launcher.additional_parameters={begin: now+1hour}"
CHAIN = Path(__file__).with_name("chain_experiment") / "chain.yaml"
LAUNCH = (SWEEP, "launch", "s.yaml", "launcher=slurm", "--db", "a.db", "--no-check", "--json")


def undisturbed(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of the same spec, trained here."""
    here = folder / "here"
    here.mkdir()
    (here / "s.yaml").write_text((folder / "s.yaml").read_text())
    return train_here(here)


def test_runs_are_queued_with_what_the_spec_asks_for_and_complete(slurm, tmp_path) -> None:
    spec = write_spec(tmp_path, runs=3)
    settings = {
        "name": "slurm",
        "cpus_per_task": 1,
        "gpus_per_node": 1,
        "mem_gb": 3,
        "timeout_min": 7,
        "comment": "of the spec",
        "partition": "urgent",
        "array_parallelism": 2,
        "additional_parameters": {"nice": 10},
        "setup": ["export IMAGINE_TEST=1"],
    }
    spec.write_text(f"{spec.read_text()}launcher: {json.dumps(settings)}\n")
    # The command line goes before the spec.
    said = launch(tmp_path, "launcher.partition=normal", "--pack-size", "1", check=True)
    assert (said.json["submitted"], said.json["active"], said.json["trained"]) == (3, 3, {})
    (job,) = said.json["jobs"]
    shown = slurm.run("scontrol", "show", "job", f"{job}_0", "--oneliner")
    for part in ("TimeLimit=00:07:00", "Partition=normal", "CPUs/Task=1", "MinMemoryNode=3G", "Nice=10"):
        assert part in shown
    assert "Comment=of the spec" in shown
    assert "gres:gpu:1" in shown.lower()
    wait_for_states(tmp_path, State.COMPLETED)
    nodes = set(slurm.node_states())
    for index, (attempt,) in enumerate(attempts(tmp_path)):
        assert (attempt["number"], attempt["restart"], attempt["launcher"]) == (1, 0, "slurm")
        assert attempt["job_id"] == f"{job}_{index}"
        assert attempt["host"] in nodes
        assert f"start 0, on {attempt['host']}" in (tmp_path / "a.files" / attempt["log"]).read_text()
    lines = scripts(slurm, tmp_path)[job].splitlines()
    assert "#SBATCH --array=0-2%2" in lines
    assert "export PYTHONSAFEPATH=1" in lines
    assert lines.index("export PYTHONSAFEPATH=1") < lines.index("export IMAGINE_TEST=1")
    assert list(tmp_path.rglob("*.pkl")) == []
    # The same again has nothing to do; without jobs nothing is said of any.
    again = launch(tmp_path, "launcher.partition=normal")
    assert again.json["submitted"] == 0
    assert again.json["jobs"] == []
    assert "nothing to train" in again.err
    # Each log tells the training of its run, also after the store has moved.
    (tmp_path / "moved").mkdir()
    for name in ("a.db", "a.files"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    for seed, run_id in enumerate(planned(tmp_path)):
        log = answer("logs", run_id, "--db", "a.db", folder=tmp_path / "moved").out
        assert re.search(rf"{run_id[:10]} gol=2 .*\bseed={seed}: started at step 0\n", log)
        assert f"{run_id[:10]} seed={seed}: step_limit at step 40" in log


def test_results_are_those_of_the_local_launcher(slurm, tmp_path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        write_spec(folder, runs=2)
    (first,) = launch(there, "-n", "1").json["jobs"]
    (second,) = launch(there).json["jobs"]
    wait_for_states(there, State.COMPLETED)
    assert all_results(there) == train_here(here)
    # One run alone is a job, no array.
    assert {attempt["job_id"] for (attempt,) in attempts(there)} == {first, second}


def test_arrays_are_no_longer_than_the_cluster_allows(slurm_with, tmp_path) -> None:
    slurm = slurm_with(nodes=1, max_array=3, accounting=False)
    write_spec(tmp_path, runs=7)
    said = launch(tmp_path, "launcher.array_parallelism=2")
    # At most 3 tasks each, 2 at once in all: two arrays side by side, and a third after the first.
    first, second, third = said.json["jobs"]
    found = scripts(slurm, tmp_path)
    assert "--array=0-2%1\n" in found[first]
    assert "--array=0-2%1\n" in found[second]
    assert f"--dependency=afterany:{first}\n" in found[third]
    wait_for_states(tmp_path, State.COMPLETED)
    # Runs 0, 2, 4 in the first array, 1, 3, 5 in the second, 6 alone.
    jobs = [attempt["job_id"] for (attempt,) in attempts(tmp_path)]
    assert jobs == [f"{[first, second][n % 2]}_{n // 2}" for n in range(6)] + [third]
    assert slurm.run("scontrol", "show", "config").count("MaxArraySize            = 3") == 1


def test_a_job_waits_only_for_those_that_train_what_it_needs(slurm_with, tmp_path, installed) -> None:
    """Two sources, a step of each, and a join of both steps, each run a job of its own."""
    installed("chain_experiment")
    slurm = slurm_with(nodes=1, max_array=1, accounting=False)
    chain = CHAIN.read_text().replace("{source: *source}", "{source: {experiment: chain_source, seed: 1}}")
    (tmp_path / "s.yaml").write_text(f"{chain}launcher: {{cpus_per_task: 1, mem_gb: 1, timeout_min: 10}}\n")
    assert launch(tmp_path).json["submitted"] == 5
    waits = {
        job: set(ids[1].split(":")) if (ids := re.search("--dependency=afterany:([0-9:]+)", text)) else set()
        for job, text in scripts(slurm, tmp_path).items()
    }
    with closing(opened(tmp_path)) as store:
        runs = store.runs()["run_id"]
        job_of = {run_id: store.attempts(run_id)[-1]["job_id"] for run_id in runs}
        assert waits == {
            job_of[run_id]: {job_of[need] for need in store.needs(run_id).values()} for run_id in runs
        }
    assert sorted(map(len, waits.values())) == [0, 0, 1, 1, 2]
    wait_for_states(tmp_path, State.COMPLETED)


def test_a_dry_run_shows_what_is_submitted(slurm_with, tmp_path) -> None:
    slurm = slurm_with(nodes=1, max_array=3, accounting=False)
    write_spec(tmp_path, runs=7)
    settings = ("launcher.array_parallelism=2", "launcher.timeout_min=7", "launcher.partition=urgent")
    dry = launch(tmp_path, *settings, "--dry-run").json["slurm"]
    assert (dry["packs"], dry["runs"], dry["partition"], dry["timeout_min"]) == (7, 7, "urgent", 7)
    # At most 3 tasks each, 2 at once in all: two arrays side by side, and a third after the first.
    assert [(each["tasks"], each["parallelism"], each["after"]) for each in dry["arrays"]] == [
        (3, 1, None),
        (3, 1, None),
        (1, 1, 0),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"s.yaml"}
    said = answer("launch", "s.yaml", "launcher=slurm", *settings, "--dry-run", folder=tmp_path)
    lines = said.out.splitlines()
    assert "Slurm: 7 runs in 7 packs, partition urgent, time limit 7:00 min" in lines
    assert "array 3: 1 task, 1 at once, after array 1" in lines
    first, *_ = launch(tmp_path, *settings).json["jobs"]
    script = scripts(slurm, tmp_path)[first]
    name = "s-[0-9a-f]{8}"
    assert re.sub(name, "NAME", dry["script"]) == re.sub(name, "NAME", script)
    # Now every run is active, and a dry run has nothing to submit.
    assert "slurm" not in launch(tmp_path, *settings, "--dry-run").json


@pytest.fixture
def broken(tmp_path) -> str:
    """The override by which jobs find a torch that cannot be imported."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no driver on this node')\n")
    return f"launcher.setup=['export PYTHONPATH={tmp_path}/broken']"


def assert_refused(slurm, folder: Path, said: Answer, *words: str) -> None:
    """The launch ended with one line of error, and left neither a job nor an attempt, a sweep or a folder."""
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if "error:" in line]
    assert "nothing was submitted" in line
    assert re.search(".*".join(words), line), line
    assert (
        slurm.run("squeue", "-h", "-t", "pending,running") == ""
    )  # the check's own job may still be completing
    assert list((folder / "a.files" / "jobs").iterdir()) == []
    with closing(opened(folder)) as store:
        assert (store.sweeps(), store.open_attempts()) == ({}, [])
        assert all(store.attempts(run_id) == [] for run_id in store.runs()["run_id"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("launcher.partition=nowhere", "[Ii]nvalid partition"),
        ("launcher.gpus_per_node=99", "Requested node configuration is not available"),
        ("launcher.additional_parameters={qos-of-mine: x}", "unrecognized option"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_what_slurm_refuses_is_its_own_words(slurm, tmp_path, override, words, check) -> None:
    write_spec(tmp_path)
    said = try_launch(tmp_path, override, check=check)
    assert_refused(slurm, tmp_path, said, "error: Slurm refused the jobs: ", words)


def test_a_folder_for_submitits_files_that_cannot_be_made(slurm, tmp_path) -> None:
    write_spec(tmp_path)
    said = try_launch(tmp_path, "launcher.submitit_folder=/proc/x")
    assert_refused(slurm, tmp_path, said, "the jobs' files cannot be written: ", "/proc/x")


@pytest.mark.fault
def test_two_launches_at_once_submit_each_run_once(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=12)
    open_store(str(tmp_path / "a.db"), create=True).close()
    both = [
        subprocess.Popen(LAUNCH, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(json.loads(out)["submitted"] for out, _ in said) == 12
    wait_for_states(tmp_path, State.COMPLETED)
    assert all(len(tries) == 1 for tries in attempts(tmp_path))
    assert_whole(tmp_path, slurm, undisturbed(tmp_path))


def test_killed_before_sbatch_its_runs_are_submitted_by_the_next(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=3)
    environment = command(tmp_path, "sbatch", ["kill -9 $PPID"])
    killed = run(*LAUNCH, folder=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert set(states(tmp_path).values()) == {State.PENDING}
    said = launch(tmp_path)
    assert "3 runs not submitted, because the launch died" in said.err
    assert said.json["submitted"] == 3
    wait_for_states(tmp_path, State.COMPLETED)
    # A number is not given twice: the one that was withdrawn was 1.
    assert [[attempt["number"] for attempt in tries] for tries in attempts(tmp_path)] == [[2]] * 3
    assert_whole(tmp_path, slurm, undisturbed(tmp_path))
    assert len(list((tmp_path / "a.files" / "jobs").iterdir())) == 1


def test_killed_after_sbatch_its_jobs_are_found_and_work(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=3)
    # The job is Slurm's, and nothing else happened.
    environment = command(tmp_path, "sbatch", ['"$real" "$@" > /dev/null', "kill -9 $PPID"])
    # They wait, so that nothing but the launcher could have told the store.
    killed = run(
        *LAUNCH, "launcher.additional_parameters={begin: now+1hour}", folder=tmp_path, env=environment
    )
    assert killed.returncode == -signal.SIGKILL
    (job,) = set(slurm.run("squeue", "-h", "-o", "%F").split())
    assert [attempt["job_id"] for (attempt,) in attempts(tmp_path)] == [None] * 3
    said = launch(tmp_path)
    assert f"job {job} was found: its launch died after submitting it" in said.err
    assert said.json["submitted"] == 0
    assert [attempt["job_id"] for (attempt,) in attempts(tmp_path)] == [f"{job}_{n}" for n in range(3)]
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for_states(tmp_path, State.COMPLETED)
    assert all(len(tries) == 1 for tries in attempts(tmp_path))
    assert_whole(tmp_path, slurm, undisturbed(tmp_path))


def test_an_answer_that_comes_too_late_is_no_refusal(slurm, tmp_path) -> None:
    """sbatch may give up waiting for a controller that takes the job all the same."""
    write_spec(tmp_path, runs=2)
    environment = command(
        tmp_path,
        "sbatch",
        ['"$real" "$@" > /dev/null', "echo 'sbatch: error: Socket timed out' >&2", "exit 1"],
    )
    done = run(*LAUNCH, folder=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    wait_for_states(tmp_path, State.COMPLETED)
    assert all(len(tries) == 1 for tries in attempts(tmp_path))


def test_a_launch_that_lives_is_left_alone(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=2)
    environment = command(tmp_path, "sbatch", [f"touch {tmp_path}/here", "sleep 8", 'exec "$real" "$@"'])
    slow = subprocess.Popen(
        LAUNCH, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until((tmp_path / "here").exists)
    said = launch(tmp_path)
    assert said.json["submitted"] == 0
    assert "died" not in said.err
    # Killed now, while its sbatch goes on: its fate is not known yet.
    slow.kill()
    slow.wait()
    assert launch(tmp_path).json["submitted"] == 0
    wait_for_states(tmp_path, State.COMPLETED)
    assert all(len(tries) == 1 for tries in attempts(tmp_path))


def test_cancel_names_the_jobs_of_an_earlier_version_of_the_file(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=2, lr=1e-3)
    (first,) = launch(tmp_path, WAITS).json["jobs"]
    write_spec(tmp_path, runs=2, lr=2e-3)
    launch(tmp_path, WAITS)
    others = f"s: 2 active runs of other launches (job {first}) stay; for all: imagine-sweep cancel --where sweep=s"
    options = ("-y", "--db", "a.db")
    assert others in answer("cancel", "s.yaml", "--dry-run", *options, folder=tmp_path).err.splitlines()
    for words in (("s",), ("s.yaml", "--where", "seed=0"), ("--where", "sweep=s")):
        assert others not in answer("cancel", *words, "--dry-run", *options, folder=tmp_path).err
    assert others in answer("cancel", "s.yaml", *options, folder=tmp_path).err
    assert set(slurm.run("squeue", "-h", "-o", "%F").split()) == {first}
    # It names them, too, if nothing else is left.
    said = answer("cancel", "s.yaml", *options, folder=tmp_path)
    assert (said.code, others in said.err) == (2, True)
    assert answer("cancel", "--where", "sweep=s", *options, folder=tmp_path).code == 0
    assert slurm.run("squeue", "-h") == ""


def test_ctrl_c_says_what_is_queued(slurm_with, tmp_path) -> None:
    """The first array is submitted; Ctrl-C comes when the second was, before sbatch said so."""
    slurm = slurm_with(nodes=1, max_array=3, accounting=False)
    write_spec(tmp_path, runs=7)
    script = [f'[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; exec "$real" "$@"; }}']
    script += ['"$real" "$@" > /dev/null', "kill -INT $PPID", "sleep 60"]
    done = run(*LAUNCH, WAITS, folder=tmp_path, env=command(tmp_path, "sbatch", script))
    first, second = sorted(set(slurm.run("squeue", "-h", "-o", "%F").split()), key=int)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == (
        f"s: interrupted, 5 runs queued as job {first}, {second}, which imagine-sweep cancel s ends; "
        "the same command submits the others"
    )
    assert json.loads(done.stdout)["submitted"] == 5
    assert launch(tmp_path, WAITS).json["submitted"] == 2


@pytest.mark.parametrize("name", ["100%", "a\\b"])
def test_a_path_that_slurm_would_read_as_a_pattern_is_refused(slurm, tmp_path, name) -> None:
    write_spec(tmp_path)
    said = answer("launch", "s.yaml", "launcher=slurm", "--db", f"{name}/a.db", folder=tmp_path)
    assert said.code == 2
    assert said.err == (
        f"imagine-sweep: error: {tmp_path}/{name}/a.files: Slurm would read the '%' or backslash in this path as a "
        "pattern for its logs; name a store without them with --db\n"
    )
    assert not (tmp_path / name).exists()
    said = try_launch(tmp_path, f"launcher.submitit_folder='{tmp_path}/{name}'")
    assert (said.code, "only %j, %t, %A and %a are allowed" in said.err) == (2, True)


@pytest.mark.fault
def test_no_node_is_free_to_look(slurm_with, tmp_path) -> None:
    slurm = slurm_with(nodes=1, accounting=False)
    blocker = slurm.run("sbatch", "--parsable", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
    write_spec(tmp_path, runs=1)
    said = launch(tmp_path, check=True)
    assert "no node started the check within 20 s" in said.err
    assert "submitting anyway" in said.err
    assert said.json["submitted"] == 1
    slurm.run("scancel", blocker)
    wait_for_states(tmp_path, State.COMPLETED)


def test_a_node_that_cannot_work_is_found_before_anything_is_submitted(slurm, tmp_path, broken) -> None:
    write_spec(tmp_path)
    for setup, problem in (
        ("launcher.setup=['export PYTHONHOME=/nowhere']", ""),
        (broken, "no driver on this node"),
    ):
        said = try_launch(tmp_path, setup, check=True)
        assert_refused(slurm, tmp_path, said, "error: node n", f"cannot import the project: {problem}")
        assert states(tmp_path) == {}


def test_without_the_check_every_attempt_names_the_problem(slurm, tmp_path, broken) -> None:
    write_spec(tmp_path)
    launch(tmp_path, broken)
    wait_for_states(tmp_path, State.NODE_FAIL)
    for (attempt,) in attempts(tmp_path):
        assert attempt["error"] == f"node {attempt['host']} cannot train: no driver on this node"
    wait_for_no_jobs(slurm)
    assert ("ends: 1 NODE_FAIL" in logs(tmp_path), "Traceback" in logs(tmp_path)) == (True, True)
    assert "success" not in logs(tmp_path) + launched_into(tmp_path, "*_log.out")
    # The node was at fault: the next launch takes these runs without --retry-failed.
    assert launch(tmp_path, "--dry-run").json["to_submit"] == 2


def test_a_hopeless_launch_is_held_by_its_own_jobs(slurm, tmp_path, broken) -> None:
    """Without a watcher, the fourth job that fails with the same error holds the waiting ones."""
    write_spec(tmp_path, runs=8)
    (job,) = launch(tmp_path, broken, "launcher.array_parallelism=1", "--hold-after", "4").json["jobs"]
    wait_until(lambda: "JobHeld" in slurm.run("squeue", "-h", "-o", "%r"), within_s=WITHIN_S)
    wait_until(lambda: not slurm.run("squeue", "-h", "-t", "running"), within_s=WITHIN_S)
    failed = [state for state in states(tmp_path).values() if state is State.NODE_FAIL]
    assert 4 <= len(failed) < 8  # one may have started before it was held
    (why,) = (tmp_path / "a.files" / "jobs").glob("*/held.json")
    assert "no driver on this node" in json.loads(why.read_text())["cause"]
    slurm.run("scancel", job)


def test_a_folder_that_nodes_do_not_see(slurm, tmp_path) -> None:
    """The launch has a mount namespace of its own, with a file system that no node sees."""
    write_spec(tmp_path)
    private = Path(tempfile.mkdtemp(dir=tmp_path))
    inside = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {private} && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    command = [SWEEP, "launch", "s.yaml", "launcher=slurm", "--db", str(private / "a.db")]
    done = run(*inside, *command, folder=tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert f"does not see the shared folder {private}/a.files/jobs" in line
    assert "nothing was submitted" in line
    assert (done.returncode, slurm.run("squeue", "-h")) == (2, "")


def test_above_a_limit_it_asks(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=3)
    with closing(open_store(str(tmp_path / "a.db"), create=True)) as store:
        trained_by_job(store, expand(load(tmp_path / "s.yaml")).runs[0], seconds=80 * 3600)
    # Two runs are left, 80 hours each by the one that is stored; 160 on one core each, 320 on two.
    for arguments, words in (
        ([], "about 160 core-hours by past runs on cpu: more than 100 hours"),
        (
            ["launcher.cpus_per_task=2", "--ask-above", "300"],
            "about 320 core-hours by past runs on cpu: more than 300",
        ),
    ):
        said = try_launch(tmp_path, *arguments)
        assert said.code == 2
        assert words in said.err
        assert "give -y" in said.err
        assert slurm.run("squeue", "-h") == ""
    assert launch(tmp_path, "--ask-above", "200").json["submitted"] == 2
    wait_for_no_jobs(slurm)


def test_a_multirun_by_hydras_own_launcher(slurm, tmp_path) -> None:
    (tmp_path / "jobs").mkdir()  # a folder of that name must not hide the package
    (tmp_path / "jobs" / "__init__.py").touch()
    asked = ["timeout_min=5", "cpus_per_task=1", "partition=urgent", "comment=x", "array_parallelism=2"]
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "jobs.train", "--multirun", "hydra/launcher=submitit_slurm"),
            *(f"hydra.launcher.{key}" for key in asked),
            *(f"{key}={value}" for key, value in SMALL.items()),
            *("run.threads=1", "seed=0,1", "--db", "a.db"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    write_spec(tmp_path, runs=2)
    assert set(states(tmp_path).values()) == {State.COMPLETED}
    assert len(planned(tmp_path)) == 2
    here = tmp_path / "here"
    here.mkdir()
    write_spec(here, runs=2)
    assert all_results(tmp_path) == train_here(here)


def test_whether_jobs_ask_to_come_back(slurm, tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    for asked, requeue in (("{begin: now+1hour}", 1), ("{begin: now+1hour, requeue: false}", 0)):
        name = f"{requeue}.db"
        said = answer(
            *("launch", "s.yaml", "launcher=slurm", f"launcher.additional_parameters={asked}"),
            *("--no-check", "--json", "--db", name),
            folder=tmp_path,
        )
        assert said.code == 0, said.err
        (script,) = (tmp_path / f"{requeue}.files" / "jobs").glob("*/submission.sh")
        assert ("#SBATCH --requeue\n" in script.read_text()) == bool(requeue)
