"""The folder of a dispatch: what its jobs read, and how they find out which of two copies is newer."""

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import pytest
from sweep_helpers import small

from jobs.dispatched import Dispatch, DispatchFolder
from jobs.pack import Pack, Task
from results_db.contract import Attempt

ABOUT = Dispatch(
    job_name="s-1",
    db="postgresql://me:secret@host/db",
    files="/f",
    max_num_timeout=None,
    host="h",
    process="1:1",
    user="me",
    logs="/f/jobs/s-1",
    hold_after=5,
)


@pytest.fixture
def folder(tmp_path: Path) -> DispatchFolder:
    made = DispatchFolder.beside(tmp_path, "s-1")
    made.begin(ABOUT)
    return made


def test_releases_and_timeouts_are_counted_by_task(folder: DispatchFolder) -> None:
    assert [folder.note_release(index) for index in (1, 1, 11, 1)] == [1, 2, 1, 3]
    # A start counts once, however often it says so.
    assert [folder.note_timeout(*start) for start in ((1, 0), (1, 3), (1, 3), (11, 0))] == [1, 2, 2, 1]


def test_what_is_written_is_read(folder: DispatchFolder) -> None:
    runs = tuple(small(seed=seed) for seed in range(3))
    tasks = [
        Task(
            Pack(runs[:2]), (Attempt(runs[0].run_id, 4, nonce="0a"), Attempt(runs[1].run_id, 1, nonce="0b"))
        ),
        Task(Pack(runs[2:]), (Attempt(runs[2].run_id, 9),)),
    ]
    folder.write_tasks(tasks)
    assert [folder.task(index) for index in range(folder.tasks())] == tasks
    assert folder.task(0).restarted(2).attempts == (
        Attempt(runs[0].run_id, 4, 2, "0a"),
        Attempt(runs[1].run_id, 1, 2, "0b"),
    )
    assert folder.dispatch() == ABOUT


def test_a_task_of_a_version_without_nonces_is_read(folder: DispatchFolder) -> None:
    run, other = small(), small(seed=1)
    del run.config["tied"]  # younger than that version; the id is the same without it
    text = json.dumps({"runs": [asdict(run), asdict(other)], "numbers": {run.run_id: 4}})
    (folder.path / "0.json").write_text(text)
    assert folder.task(0) == Task(Pack((run, other)), (Attempt(run.run_id, 4),))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"runs": [], "attempts": [1]}', '{"runs": 1, "attempts": []}']
)
def test_a_damaged_task_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Task.decode(text)


def test_other_users_cannot_read_the_stores_password(folder: DispatchFolder) -> None:
    assert (folder.path / "dispatch.json").stat().st_mode & 0o077 == 0


def test_a_name_is_used_once(folder: DispatchFolder) -> None:
    with pytest.raises(FileExistsError):
        folder.begin(ABOUT)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"job_name": "s-1"}'])
def test_a_damaged_head_is_none(folder: DispatchFolder, damage: str) -> None:
    (folder.path / "dispatch.json").write_text(damage)
    assert folder.dispatch() is None


def test_every_start_is_newer_than_the_one_before(folder: DispatchFolder) -> None:
    # Slurm's count: the first start; a controller that forgot it (0 again); requeued (1); forgotten again (1).
    assert [folder.claim_start(0, slurm_restarts=count) for count in (0, 0, 1, 1)] == [0, 1, 2, 3]
    assert folder.claim_start(1, slurm_restarts=5) == 0  # every task counts for itself


def test_an_outdated_copy_gets_no_number(folder: DispatchFolder) -> None:
    assert folder.claim_start(0, slurm_restarts=0) == 0
    assert folder.claim_start(0, slurm_restarts=2) == 1
    assert folder.claim_start(0, slurm_restarts=1) is None
    assert folder.claim_start(0, slurm_restarts=2) == 2
    assert [path.name for path in folder.path.glob("*.tmp")] == []


def _claim(
    path: Path, barrier: "multiprocessing.synchronize.Barrier", queue: "multiprocessing.Queue[int]"
) -> None:
    barrier.wait()
    for _ in range(5):
        number = DispatchFolder(path).claim_start(0, slurm_restarts=0)
        assert number is not None
        queue.put(number)


def test_many_at_once_get_different_numbers(folder: DispatchFolder) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_claim, args=(folder.path, barrier, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    numbers = [queue.get(timeout=60) for _ in range(30)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(numbers) == list(range(30))
