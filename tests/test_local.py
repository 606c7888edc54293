"""Launches on this machine with real workers, stopped and killed in all ways. Every launch is the real command."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace

import pytest
from slurm_helpers import all_results, planned
from store_helpers import start
from sweep_helpers import (
    HOPELESS,
    ME,
    RESULTS,
    SWEEP,
    Watched,
    answer,
    attempt_states,
    complete,
    fail,
    opened,
    run,
    wait_until,
    write_spec,
)

from results_db.contract import RunRecord, State
from results_db.spool.records import Spool, Spooled
from results_db.store import open_store
from sweeps.launch.prepare import open_packs
from sweeps.spec.expand import expand
from sweeps.spec.load import load
from sweeps.status.plan import make_plan

pytestmark = pytest.mark.slow

LAUNCH = (SWEEP, "launch", "s.yaml", "--db", "a.db")
LONG = {"max_steps": 1500, "trace_every": 10}  # seconds, so that there is a middle to stop it in


def plan(folder):
    return json.loads(run(SWEEP, "plan", "s.yaml", "--db", "a.db", "--json", folder=folder).stdout)


def history(folder):
    """The states of every run's attempts."""
    store = opened(folder)
    return [attempt_states(store, run_id) for run_id in planned(folder)]


def workers(folder):
    """Process id of each running attempt's worker, by run id."""
    return {
        running.attempt.run_id: int(running.process.split(":")[0])
        for running in opened(folder).open_attempts()
    }


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A launch of the long spec without any fault: its folder and its output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_spec(folder, **LONG)
    return folder, run(*LAUNCH, "--json", folder=folder)


@pytest.fixture
def long(tmp_path):
    """A folder with the long spec."""
    write_spec(tmp_path, **LONG)
    return tmp_path


@pytest.fixture
def begin():
    """Starts launches, and ends them with the test."""
    begun = []

    def launch(folder, *options, wait=True, **more):
        begun.append(Watched(*LAUNCH, *options, folder=folder, **more))
        if wait:
            begun[-1].wait_for("started at step", times=2)
            time.sleep(0.2)
        return begun[-1]

    yield launch
    for watched in begun:
        watched.process.kill()
        watched.process.wait()


def test_a_launch_trains_and_records_every_run(undisturbed) -> None:
    folder, done = undisturbed
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["trained"] == dict.fromkeys(planned(folder), "COMPLETED")
    assert [said[key] for key in ("total", "stored", "active", "failed", "to_submit")] == [2, 2, 0, 0, 0]
    assert (said["name"], said["interrupted"], said["failure"]) == ("s", False, None)
    store = opened(folder)
    assert history(folder) == [["COMPLETED"], ["COMPLETED"]]
    for number, run_id in enumerate(planned(folder)):
        (attempt,) = store.attempts(run_id)
        assert attempt["launcher"] == "local"
        assert "worker" in attempt["log"]
        assert f"seed={number}: step_limit at step 1500" in done.stderr
        assert len(list((store.folder / "weights").glob(f"{run_id}.1.0.*.safetensors"))) == 1
    first, second, *_ = done.stderr.splitlines()
    assert re.fullmatch(r"s: training 2 of 2 runs in 2 packs on \d workers?", first)
    assert second == "s: at most 3,000 steps; the time is unknown until the first run ends"
    assert done.stderr.splitlines()[-1] == "s: 2 of 2 runs stored"


def test_a_worker_logs_what_the_launch_prints_and_the_store_may_move(undisturbed, tmp_path) -> None:
    folder, done = undisturbed
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    for seed, run_id in enumerate(planned(folder)):
        log = answer("logs", run_id, "--db", "a.db", folder=moved)
        told = [line.split(" ", 1)[1] for line in log.out.splitlines() if run_id[:10] in line]
        assert re.fullmatch(rf"{run_id[:10]} gol=2 .*\bseed={seed}\b.*: started at step 0", told[0])
        assert told[-1].startswith(f"{run_id[:10]} seed={seed}: step_limit at step 1500, in ")
        # The launch printed the same words about that end.
        assert told[-1].split(": ")[1].rpartition(" (")[0] in done.stderr
        assert "success" not in log.out
        (attempt,) = json.loads(run(RESULTS, "show", run_id, "--json", "--db", "a.db", folder=moved).stdout)[
            "attempts"
        ]
        assert attempt["log"].startswith(str(moved))


def test_a_log_is_followed_from_its_start_to_its_end(tmp_path, begin) -> None:
    """The step, rate and accuracy every 15 s."""
    write_spec(tmp_path, runs=1, **LONG | {"max_steps": 1_000_000})
    launch = begin(tmp_path, wait=False)
    launch.wait_for("started at step")
    (run_id,) = planned(tmp_path)
    command = (SWEEP, "logs", run_id, "-f", "--db", "a.db")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        heard = iter(logs.stdout)
        assert ": started at step 0" in next(line for line in heard if run_id[:10] in line)
        form = rf"\S+ {run_id[:10]} seed=0: step \d+/1000000 \d+\.\d steps/s final \d+\.\d%( \| s2.*)?\n"
        assert re.fullmatch(form, next(heard))
        launch.process.send_signal(signal.SIGINT)
        assert ": stopped, saved at step" in next(heard)
        logs.terminate()  # it waits for the next attempt


def test_the_next_launch_knows_how_long_it_takes_and_says_when_it_is_done(undisturbed, tmp_path) -> None:
    """By the two runs of this machine; a run of the same cell is expected to take as long."""
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    write_spec(tmp_path, **LONG, runs=3)
    finish = "echo $IMAGINE_SWEEP $IMAGINE_STORED of $IMAGINE_TOTAL >told"
    done = run(*LAUNCH, "--on-finish", finish, folder=tmp_path)
    assert done.returncode == 0
    assert "s: training 1 of 3 runs in 1 pack on 1 worker (2 stored)" in done.stderr
    assert re.search(r"^s: finished in about .* on 1 worker$", done.stderr, re.MULTILINE)
    assert (tmp_path / "told").read_text() == "s 3 of 3\n"


def test_a_second_launch_trains_nothing(undisturbed) -> None:
    folder, _ = undisturbed
    store = opened(folder)
    before = [store.attempts(run_id) for run_id in planned(folder)]
    again = run(*LAUNCH, "--json", folder=folder)
    assert again.returncode == 0
    assert json.loads(again.stdout)["trained"] == {}
    assert "nothing to train: 2 stored" in again.stderr
    assert [store.attempts(run_id) for run_id in planned(folder)] == before


def test_the_limit_takes_the_first_runs_only(tmp_path) -> None:
    write_spec(tmp_path, cells="[{gol: 1}, {gol: 2}]")
    done = run(*LAUNCH, "-n", "1", "--json", folder=tmp_path)
    first = planned(tmp_path)[0]
    assert done.returncode == 0
    assert json.loads(done.stdout)["trained"] == {first: "COMPLETED"}
    assert history(tmp_path) == [["COMPLETED"], [], [], []]
    # The whole spec is noted; the same command again finds the first run stored.
    assert set(opened(tmp_path).states(planned(tmp_path)).values()) == {State.COMPLETED, State.STAGED}
    again = run(*LAUNCH, "-n", "1", "--json", folder=tmp_path)
    assert again.returncode == 0
    assert json.loads(again.stdout)["trained"] == {}
    # The first two in breadth-first order: the other cell's first run is the one that is missing.
    run(*LAUNCH, "-n", "2", folder=tmp_path)
    assert history(tmp_path) == [["COMPLETED"], [], ["COMPLETED"], []]


@pytest.fixture
def six(tmp_path):
    """The expansion of a spec of six runs, and a store in which they are staged."""
    write_spec(tmp_path, runs=6)
    expansion = expand(load(tmp_path / "s.yaml"))
    store = open_store(str(tmp_path / "a.db"), create=True)
    store.stage(expansion.runs)
    return expansion, store


def test_a_relaunch_forms_the_packs_of_the_first_launch(six) -> None:
    # Packs of two: 0+1, 2+3, 4+5. Runs 0 and 3 are done; 1 and 2 must not become partners.
    expansion, store = six
    runs = expansion.runs
    for done in (runs[0], runs[3]):
        complete(store, done)
    packs = open_packs(expansion, make_plan(expansion, store), store, size=2, limit=None)
    assert [pack.runs for pack in packs] == [(runs[1],), (runs[2],), (runs[4], runs[5])]
    packs = open_packs(expansion, make_plan(expansion, store), store, size=2, limit=3)
    assert [pack.runs for pack in packs] == [(runs[1],), (runs[2],)]


def test_a_run_that_had_too_little_memory_trains_alone(six) -> None:
    # In packs of three, 1 and 2 ended with their job: either may be the one that took the memory.
    expansion, store = six
    runs = expansion.runs
    for at_fault in (runs[1], runs[2]):
        fail(store, at_fault, state=State.OUT_OF_MEMORY)
    fail(store, runs[3])
    plan = make_plan(expansion, store, retry_failed=True)
    packs = open_packs(expansion, plan, store, size=3, limit=None)
    assert [pack.runs for pack in packs] == [(runs[0],), (runs[1],), (runs[2],), tuple(runs[3:])]


def test_a_launch_ingests_what_a_killed_worker_left_in_the_spool(tmp_path) -> None:
    write_spec(tmp_path, runs=1)
    store = open_store(str(tmp_path / "a.db"), create=True)
    (only,) = expand(load(tmp_path / "s.yaml")).runs
    record = RunRecord(only.run_id, "reached", 1.0, {"train_accuracy": 1.0})
    gone = replace(ME, host=socket.gethostname(), process="1:1.00")  # no process of that start time
    store.stage([only])
    attempt = start(store, only.run_id, replace(gone, launcher="local"))
    Spool(store.folder).write(Spooled(attempt, record, gone, 1.0))
    said = run(*LAUNCH, "--json", folder=tmp_path)
    assert said.returncode == 0
    assert json.loads(said.stdout)["trained"] == {}
    assert history(tmp_path) == [["COMPLETED"]]


def test_a_launch_whose_output_is_closed(long, undisturbed) -> None:
    # As in `launch ... 2>&1 | tee log` when Ctrl-C ends tee as well.
    launch = subprocess.Popen(LAUNCH, cwd=long, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: (long / "a.db").exists() and len(workers(long)) == 2)
    launch.stderr.close()
    time.sleep(1)
    launch.send_signal(signal.SIGINT)
    assert launch.wait(30) == 130
    assert history(long) == [["PREEMPTED"], ["PREEMPTED"]]
    assert len(list((long / "a.files" / "checkpoints").iterdir())) == 2
    assert run(*LAUNCH, folder=long).returncode == 0
    assert all_results(long) == all_results(undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launch_stops_within_seconds_and_the_next_one_continues(long, undisturbed, begin, number) -> None:
    launch = begin(long)
    began = time.monotonic()
    launch.process.send_signal(number)
    assert launch.end() == 130
    assert time.monotonic() - began < 10
    last = "s: interrupted, 0 of 2 runs stored; the same command trains 2 more"
    assert launch.said.splitlines()[-1] == last
    assert "PREEMPTED" not in launch.said
    saved = [int(step) for step in re.findall(r"stopped, saved at step (\d+)", launch.said)]
    assert len(saved) == 2
    assert all(saved)
    assert history(long) == [["PREEMPTED"], ["PREEMPTED"]]
    assert len(list((long / "a.files" / "checkpoints").iterdir())) == 2
    again = run(*LAUNCH, folder=long)
    assert again.returncode == 0
    assert history(long) == [["PREEMPTED", "COMPLETED"]] * 2
    assert sorted(re.findall(r"started at step (\d+)", again.stderr)) == sorted(
        map(str, saved)
    )  # it continued
    assert all_results(long) == all_results(undisturbed[0])
    assert list((long / "a.files" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_launch_survives_the_end_of_a_worker(long, undisturbed, begin, number) -> None:
    launch = begin(long)
    ended, pid = next(iter(workers(long).items()))
    os.kill(pid, number)
    assert launch.end() == 0
    how = "SIGKILL" if number == signal.SIGKILL else "exit code 0"
    assert f"a worker died ({how}), training its runs again; its log: " in launch.said
    if number == signal.SIGKILL:
        assert "LOST: its worker died (SIGKILL)" in launch.said
    first = "LOST" if number == signal.SIGKILL else "PREEMPTED"
    wanted = {run_id: [first, "COMPLETED"] if run_id == ended else ["COMPLETED"] for run_id in planned(long)}
    assert dict(zip(planned(long), history(long), strict=True)) == wanted
    assert all_results(long) == all_results(undisturbed[0])


def test_a_killed_launcher_takes_its_workers_with_it(long, undisturbed, begin) -> None:
    launch = begin(long)
    (one, killed), (two, orphan) = workers(long).items()
    launch.process.kill()
    os.kill(killed, signal.SIGKILL)  # one dies with it, the other has to notice
    launch.end()
    wait_until(lambda: is_gone(orphan), within_s=10)
    states = opened(long).states([one, two])
    assert (states[one], states[two]) == (State.RUNNING, State.PREEMPTED)
    assert plan(long)["to_submit"] == 2  # a run without a worker is no longer active
    assert run(*LAUNCH, folder=long).returncode == 0
    attempts = {run_id: attempt_states(opened(long), run_id) for run_id in (one, two)}
    assert attempts == {one: ["LOST", "COMPLETED"], two: ["PREEMPTED", "COMPLETED"]}
    assert all_results(long) == all_results(undisturbed[0])


def test_two_launches_at_once_train_every_run_once(tmp_path, begin) -> None:
    write_spec(tmp_path, cells="[{gol: 1}, {gol: 2}]")
    both = [begin(tmp_path, wait=False) for _ in range(2)]
    assert [launch.end() for launch in both] == [0, 0], [launch.said for launch in both]
    assert history(tmp_path) == [["COMPLETED"]] * 4
    assert plan(tmp_path)["stored"] == 4
    assert sum(launch.said.count("step_limit at step") for launch in both) == 4


def test_packs_train_together(tmp_path) -> None:
    write_spec(tmp_path, runs=3, cells="[{lr: 1.0e-3}, {lr: 2.0e-3}]")
    done = run(*LAUNCH, "--pack-size", "4", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0
    assert "in 2 packs on 1 worker" in done.stderr
    assert history(tmp_path) == [["COMPLETED"]] * 6


def test_with_pad_widths_share_a_pack(tmp_path) -> None:
    write_spec(tmp_path, runs=2, cells="[{channels: 3}, {channels: 5}]")
    done = run(*LAUNCH, "--pack-size", "4", "--pad", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "in 1 pack on 1 worker" in done.stderr
    assert history(tmp_path) == [["COMPLETED"]] * 4


def test_with_one_slot_a_worker_trains_the_runs_of_its_pack_one_after_the_other(tmp_path) -> None:
    write_spec(tmp_path, **LONG)
    done = run(*LAUNCH, "--pack-size", "2", "--slots", "1", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "in 1 pack on 1 worker" in done.stderr
    one, two = sorted(opened(tmp_path).begun_attempts(), key=lambda each: each.ended_at)
    # Together they would end at the same step.
    gap = (two.ended_at - one.ended_at).total_seconds()
    seconds = opened(tmp_path).runs().set_index("run_id")["seconds"]
    assert gap > 0.5 * seconds[two.attempt.run_id]


def test_workers_that_cannot_start(tmp_path) -> None:
    write_spec(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('libtorch is missing')\n")
    done = run(*LAUNCH, folder=tmp_path, env={**os.environ, "PYTHONPATH": str(broken)})
    assert done.returncode == 1
    assert "Traceback (most" not in done.stderr.splitlines()[0]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("s: a worker could not start: ")
    assert "libtorch is missing" in last
    assert last.split("its log: ")[1].startswith(str(tmp_path))
    assert history(tmp_path) == [[], []]
    assert plan(tmp_path)["to_submit"] == 2
    assert run(*LAUNCH, folder=tmp_path).returncode == 0  # mended, the same command goes on


@pytest.mark.parametrize("device", ["cuda:99", "banana"])
def test_a_device_that_is_not_here_is_an_error_of_one_line(tmp_path, device) -> None:
    write_spec(tmp_path)
    done = run(*LAUNCH, folder=tmp_path, env={**os.environ, "IMAGINE_DEVICE": device})
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"imagine-sweep: error: device: '{device}' cannot be used here; try auto or cpu")
    assert history(tmp_path) == [[], []]


def test_a_device_that_goes_away_stops_no_run_that_trains(long, begin) -> None:
    lost = long / "lost"
    code = f"import os\nif os.path.exists({str(lost)!r}): os.environ['IMAGINE_DEVICE'] = 'cuda:99'\n"
    (long / "sitecustomize.py").write_text(code)
    launch = begin(long, "--workers", "2", env={**os.environ, "PYTHONPATH": str(long)})
    lost.touch()
    os.kill(next(iter(workers(long).values())), signal.SIGKILL)
    assert launch.end() == 1
    last = launch.said.splitlines()[-1]
    assert last.startswith(
        "s: a worker could not start: device: 'cuda:99' cannot be used here; try auto or cpu"
    )
    assert sorted(history(long)) == [["COMPLETED"], ["LOST"]]


def test_a_run_that_kills_its_workers_fails_alone(tmp_path) -> None:
    write_spec(tmp_path, runs=2)
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    # As the kernel kills a process that takes all memory: in the middle of the training.
    (deadly / "sitecustomize.py").write_text(
        "import os\n"
        "if 'IMAGINE_THREADS' in os.environ:\n"
        "    from imagination.training.loop import Trainer\n"
        "    train = Trainer.train\n"
        "    def deadly(self, **options):\n"
        "        if any(run.config.seed == 1 for run in self._members):\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return train(self, **options)\n"
        "    Trainer.train = deadly\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(deadly)}
    done = run(*LAUNCH, "--json", "--workers", "1", "--pack-size", "2", folder=tmp_path, env=environment)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["stored"], said["failed"]) == (1, 1)
    # Twice together; then alone, where the run at fault has three tries.
    assert history(tmp_path) == [["LOST", "LOST", "COMPLETED"], ["LOST"] * 4 + ["FAILED"]]
    assert done.stderr.count("a worker died (SIGKILL)") == 5
    last = opened(tmp_path).attempts(planned(tmp_path)[1])[-1]
    assert (last["exit_code"], last["error"]) == (-9, "its worker died (SIGKILL)")


def test_failed_runs_are_trained_again_only_with_retry_failed(tmp_path) -> None:
    write_spec(tmp_path, runs=1, cells=f"[{{batch: 8}}, {{batch: {HOPELESS}}}]")
    first = run(*LAUNCH, folder=tmp_path)
    assert first.returncode == 1
    assert "s: 1 of 2 runs stored, 1 failed" in first.stderr.splitlines()[-1]
    assert "OUT_OF_MEMORY: RuntimeError" in first.stderr
    assert history(tmp_path) == [["COMPLETED"], ["OUT_OF_MEMORY"]]
    counts = plan(tmp_path)
    assert (counts["stored"], counts["failed"], counts["to_submit"]) == (1, 1, 0)
    second = run(*LAUNCH, folder=tmp_path)
    assert second.returncode == 1
    assert "--retry-failed trains the failed runs again" in second.stderr
    assert history(tmp_path) == [["COMPLETED"], ["OUT_OF_MEMORY"]]
    dry = run(*LAUNCH, "--retry-failed", "--dry-run", "--json", folder=tmp_path)
    assert dry.returncode == 0
    assert json.loads(dry.stdout)["to_submit"] == 1
    assert run(*LAUNCH, "--retry-failed", folder=tmp_path).returncode == 1
    assert history(tmp_path) == [["COMPLETED"], ["OUT_OF_MEMORY", "OUT_OF_MEMORY"]]
