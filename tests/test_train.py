"""`python -m jobs.train`: one run by hand, in the same store and under the same id as a sweep's."""

import json
import os
import signal
import sys
import time

import pytest
from sweep_helpers import (
    HOPELESS,
    SMALL,
    SWEEP,
    Watched,
    attempt_states,
    opened,
    results,
    run,
    small,
    tree,
    write_spec,
)

from jobs import train

TRAIN = (sys.executable, "-m", "jobs.train")


def overrides(**changes):
    return [f"{key}={value}" for key, value in (SMALL | changes).items()]


def long(**changes):
    """Long enough for a middle to stop it in."""
    return {"max_steps": 1500, "trace_every": 10, **changes}


def begin(folder, *arguments):
    """Starts a run and waits until it trains."""
    watched = Watched(*TRAIN, "--db", "a.db", *arguments, folder=folder)
    watched.wait_for("started at step")
    time.sleep(0.2)
    return watched


@pytest.mark.slow
def test_a_run_by_hand_is_the_run_of_an_equal_spec(tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    done = run(*TRAIN, "--db", "a.db", *overrides(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    store = opened(tmp_path)
    found = store.run(small().run_id)
    assert found["state"] == "COMPLETED"
    assert done.stdout.splitlines()[0] == f"run {small().run_id[:10]}  COMPLETED"
    printed = dict(line.split() for line in done.stdout.splitlines()[1:])
    for name, value in found["metrics"].items():
        assert (name in printed) == (value is not None)
        assert value is None or float(printed[name]) == pytest.approx(value, rel=1e-5)
    assert store.attempts(small().run_id)[0]["launcher"] == "hand"
    plan = run(SWEEP, "plan", "s.yaml", "--db", "a.db", "--json", folder=tmp_path)
    assert json.loads(plan.stdout)["stored"] == 1
    # Beside the store and its folder nothing is left behind.
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"s.yaml", "a.db", "a.files"}

    before = store.attempts(small().run_id)
    again = run(*TRAIN, "--db=a.db", *overrides(), folder=tmp_path)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "complete, or running elsewhere" in again.stderr
    assert "nothing to do: COMPLETED" in again.stderr
    assert store.attempts(small().run_id) == before


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "threads"), [([], 1), (["run.threads=0"], 2)])
def test_a_run_by_hand_takes_one_thread_unless_it_is_told_otherwise(tmp_path, settings, threads) -> None:
    """On a busy machine, the threads of one run wait for each other, and 200 steps take a minute instead of 2 s."""
    spy = tmp_path / "spy"
    spy.mkdir()
    tell = "import atexit, sys\natexit.register(lambda: print('threads', sys.modules['torch'].get_num_threads()))\n"
    (spy / "sitecustomize.py").write_text(tell)
    # torch itself would take two: with OMP_NUM_THREADS, so that the test can fail on a machine with one core.
    environment = {**os.environ, "PYTHONPATH": str(spy), "OMP_NUM_THREADS": "2"}
    done = run(*TRAIN, "--db", "a.db", *settings, *overrides(), folder=tmp_path, env=environment)
    assert done.stdout.splitlines()[-1] == f"threads {threads}", done.stderr


@pytest.mark.slow
def test_the_store_of_the_environment_and_a_run_that_fails(tmp_path) -> None:
    environment = {**os.environ, "IMAGINE_DB": "sqlite:///b.db"}
    done = run(*TRAIN, *overrides(batch=HOPELESS), folder=tmp_path, env=environment)
    assert done.returncode == 1
    failed = small(batch=HOPELESS)
    assert attempt_states(opened(tmp_path, "b.db"), failed.run_id) == ["OUT_OF_MEMORY"]
    assert done.stdout == f"run {failed.run_id[:10]}  OUT_OF_MEMORY\n"


@pytest.mark.slow
def test_stopped_or_killed_and_gone_on_with(tmp_path) -> None:
    arguments = overrides(**long())
    undisturbed = run(*TRAIN, "--db", "b.db", *arguments, folder=tmp_path)
    assert undisturbed.returncode == 0
    identity = small(**long()).run_id

    stopped = begin(tmp_path, *arguments)
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.end(timeout=10) == 130
    assert "Traceback" not in stopped.said
    assert "stopped, saved at step" in stopped.said
    assert stopped.said.splitlines()[-1] == f"run {identity[:10]}: interrupted; the same command continues it"
    assert list((tmp_path / "a.files" / "checkpoints").glob(f"{identity}.1.0.*.safetensors"))

    killed = begin(tmp_path, *arguments)
    assert "started at step 0" not in killed.said
    killed.process.kill()
    killed.end()
    assert attempt_states(opened(tmp_path), identity) == ["PREEMPTED", "RUNNING"]

    done = run(*TRAIN, "--db", "a.db", *arguments, folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == undisturbed.stdout.splitlines()[0]
    store = opened(tmp_path)
    assert attempt_states(store, identity) == ["PREEMPTED", "LOST", "COMPLETED"]
    assert results(store, identity) == results(opened(tmp_path, "b.db"), identity)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=submitit_local"]])
def test_a_multirun_trains_all(tmp_path, launcher) -> None:
    done = run(*TRAIN, "-m", *launcher, "--db", "a.db", *overrides(), "seed=1,2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for seed in (1, 2):
        assert attempt_states(opened(tmp_path), small(seed=seed).run_id) == ["COMPLETED"]


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others_of_a_multirun(tmp_path) -> None:
    some = [text for text in overrides() if not text.startswith("batch=")]
    done = run(*TRAIN, "-m", "--db", "a.db", *some, f"batch={HOPELESS},4", folder=tmp_path)
    assert done.returncode == 1
    assert attempt_states(opened(tmp_path), small(batch=HOPELESS).run_id) == ["OUT_OF_MEMORY"]
    assert attempt_states(opened(tmp_path), small(batch=4).run_id) == ["COMPLETED"]


@pytest.mark.slow
def test_an_interrupt_ends_a_multirun(tmp_path) -> None:
    watched = begin(tmp_path, "-m", *overrides(**long()), "seed=1,2,3")
    watched.process.send_signal(signal.SIGINT)
    assert watched.end(timeout=10) == 130
    store = opened(tmp_path)
    assert attempt_states(store, small(**long(seed=1)).run_id) == ["PREEMPTED"]
    assert store.states([small(**long(seed=2)).run_id]) == {}


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs the command in this process, in an empty folder; exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGINE_DB", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # restored after the test, whatever the command sets

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.setenv("IMAGINE_DB", "a.db")  # so that what the command sets is taken back
        with pytest.raises(SystemExit) as ended:
            train.main()
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["chanels=8"], "unknown key 'chanels' (did you mean 'channels'?)"),
        (["+chanels=8"], "unknown key 'chanels' (did you mean 'channels'?)"),
        (["chanels=8,16"], "unknown key 'chanels'"),
        (["channels=wide"], "channels: 'wide' is not an integer"),
        (["channels=2.5"], "channels: 2.5 is not an integer"),
        (["rnn=1"], "rnn: 1 is not true or false"),
        (["lr=fast"], "lr: 'fast' is not a number"),
        (["gol=[1,2]"], "gol: [1, 2] is not an integer"),
        (["gol=0"], "gol: 0 is below 1"),
        (["lr=0"], "lr: 0.0 must be above 0"),
        (["loss=hinge"], "loss: 'hinge' is not one of bce, l2"),
        (["seed=null"], "seed: nothing is not an integer"),
        (["~seed"], "seed: nothing is not an integer"),
        (["+seed=1"], "seed"),
        (["preset=fats"], "unknown preset 'fats'"),
        (["preset=null"], "preset: nothing is not a word"),
        (["experiment=chess"], "unknown experiment 'chess'"),
        (["experiment=null"], "unknown experiment 'None'"),
        (["warmup=2"], "warmup: 2.0 is above 0.9"),
        (["kernel=4"], "kernel: 4 is even"),
        (["seed=1,2"], "--multirun"),
        (["-m", "gol=glob(*)"], "'gol=glob(*)' gives no values"),
        (["-m", "gol=range(1,5,0)"], "'gol=range(1,5,0)' gives no values"),
        (["gol"], "'gol' is not KEY=VALUE"),
        (["gol="], "gol"),
        (["gol=(1"], "gol"),
        (["--db"], "--db: expected one argument"),
        (["--dbs", "a.db"], "unrecognized arguments: --dbs"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--db="], "--db: '' is neither a URL nor a path that ends in .db"),
        (["--db", "nonsense"], "--db: 'nonsense' is neither a URL nor a path that ends in .db"),
        (["--db", "mysql://host/db"], "unknown database 'mysql'"),
        (["--db", "/proc/nowhere/a.db"], "/proc/nowhere"),
        (["run.device=quantum"], "device: 'quantum'"),
        (["run.threads=-1"], "threads: -1"),
        (["run.threads=many"], "run.threads"),
        (["run.speed=9"], "run.speed"),
        (["hydra.speed=9"], "hydra.speed"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(command, tmp_path, arguments, reason) -> None:
    code, out, err = command(*arguments)
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("jobs.train: error: ")
    assert reason in line
    assert tree(tmp_path) == set()


def test_a_store_whose_folder_cannot_be_written(command, tmp_path) -> None:
    (tmp_path / "a.files").write_text("")
    code, _, err = command("--db", "a.db", *overrides())
    (line,) = err.splitlines()
    assert code == 2
    assert "a.files" in line
    assert (tmp_path / "a.files").read_text() == ""
