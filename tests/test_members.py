"""Two Unix users share a store on purpose: `db share`, then each launches, ingests, cancels and discards in it."""

import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_helpers import RESULTS, SWEEP, write_spec
from user_helpers import DAEMON, NOBODY, run_as

from slurm.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.fault]

OWNER, MEMBER = DAEMON, NOBODY
GROUP = "users"
TESTS = str(Path(__file__).parent)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a spec of three runs, which everyone may read, and the owner's empty folder `lab` for a store."""
    with tempfile.TemporaryDirectory(prefix="members-") as name:
        folder = Path(name)
        (folder / "lab").mkdir()
        write_spec(folder, runs=3)
        folder.chmod(0o755)
        (folder / "s.yaml").chmod(0o644)
        shutil.chown(folder / "lab", OWNER, GROUP)
        yield folder


def said(user: int, *command: str, folder: Path, code: int = 0) -> str:
    """What a command with `--db lab/a.db` of this user prints; it must end with this exit code."""
    done = run_as(user, *command, "--db", "lab/a.db", folder=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


ACT = """
import sys
from store_helpers import WHO
from results_db.contract import RunRecord
from results_db.spool.records import Spool, Spooled
from results_db.store.sql import open_store
what, run = sys.argv[1:]
with open_store("lab/a.db", create=False) as store:
    store.discard([run], why="again")
    (attempt,) = store.claim([run], launcher="local", job_name=None if what == "dies" else "j")
    if what == "leaves":
        Spool(store.folder).write(Spooled(attempt, RunRecord(run, "reached", 1.0, {"metric": 0.5}), WHO, 0.0))
"""


def act(user: int, what: str, run_id: str, *, folder: Path) -> None:
    """This user's process claims a stored run again, and `dies`, or `leaves` a record, or `waits` for its job."""
    done = run_as(user, sys.executable, "-c", ACT, what, run_id, folder=folder, PYTHONPATH=TESTS)
    assert done.returncode == 0, done.stderr


def shared(folder: Path) -> None:
    """The owner shares the store."""
    assert said(OWNER, RESULTS, "db", "share", GROUP, folder=folder) == f"lab/a.db is shared with {GROUP}\n"


def stored(user: int, folder: Path) -> dict[str, str]:
    """The state of each run, as this user reads it."""
    rows = json.loads(said(user, RESULTS, "runs", "--json", folder=folder))
    return {row["run_id"]: row["state"] for row in rows}


def test_a_member_does_what_the_owner_does(place: Path) -> None:
    said(OWNER, SWEEP, "launch", "s.yaml", "-n", "1", folder=place)
    shared(place)
    shared(place)  # nothing is left to do
    assert "s: 3 of 3 runs stored" in said(MEMBER, SWEEP, "launch", "s.yaml", folder=place)
    first, second, third = stored(OWNER, place)

    said(MEMBER, RESULTS, "discard", "--where", f"run_id={first}", "--why", "x", "-y", folder=place)
    assert "training 1 of 3 runs" in said(OWNER, SWEEP, "launch", "s.yaml", folder=place)

    for writer, reader in ((OWNER, MEMBER), (MEMBER, OWNER)):
        act(writer, "leaves", second, folder=place)
        assert said(reader, RESULTS, "ingest", folder=place) == "spool: 1 stored\n"

    act(OWNER, "dies", third, folder=place)
    assert "LOST: its worker process is gone" in said(MEMBER, SWEEP, "reconcile", folder=place)
    assert stored(OWNER, place)[third] == "LOST"

    act(OWNER, "waits", second, folder=place)
    assert "1 waiting" in said(MEMBER, SWEEP, "watch", "s", "--once", folder=place)
    assert "1 run cancelled" in said(MEMBER, SWEEP, "cancel", "s", folder=place)
    assert "s: 3 of 3 runs stored" in said(MEMBER, SWEEP, "launch", "s.yaml", folder=place)
    assert set(stored(OWNER, place).values()) == {"COMPLETED"}


WAITS = "launcher.additional_parameters={begin: now+1hour}"


@pytest.fixture
def cluster(slurm: Testbed) -> Iterator[Testbed]:
    """A Slurm that both users may use, and an end of their jobs."""
    for path in slurm.place.conf.parent.iterdir():
        if path.name != "slurmdbd.conf":
            path.chmod(0o644)
    yield slurm
    for name in ("daemon", "nobody"):
        slurm.run("scancel", "--user", name)


def test_a_member_submits_after_the_owner(cluster: Testbed, place: Path) -> None:
    """The folder for dispatches is the owner's by then. Each dispatch stays its user's alone, and each job, too."""
    launch = (SWEEP, "launch", "s.yaml", "launcher=slurm", WAITS, "--no-check")
    said(OWNER, *launch, "-n", "1", folder=place)
    shared(place)
    said(MEMBER, *launch, folder=place)

    def queue() -> list[str]:
        return sorted(cluster.run("squeue", "-h", "-r", "-o", "%u").split())

    assert queue() == ["daemon", "nobody", "nobody"]
    dispatches = [path.stat() for path in (place / "lab" / "a.files" / "jobs").iterdir()]
    assert sorted(one.st_uid for one in dispatches) == [OWNER, MEMBER]
    assert {stat.S_IMODE(one.st_mode) & 0o777 for one in dispatches} == {0o700}
    assert said(MEMBER, SWEEP, "reconcile", folder=place) == "nothing to change\n"
    assert said(MEMBER, SWEEP, "cancel", "s", folder=place) == "3 runs cancelled, and 2 jobs\n"
    assert queue() == [
        "daemon"
    ]  # Slurm cancels jobs for their owner alone; this one will find nothing to train
    assert set(stored(OWNER, place).values()) == {"CANCELLED"}


def test_a_store_beside_other_files_is_not_shared(place: Path) -> None:
    """The group could write those, too: code, specs, a whole home."""
    said(OWNER, SWEEP, "launch", "s.yaml", "-n", "1", folder=place)
    (place / "lab" / "code.py").touch()
    before = modes(place)
    line = said(OWNER, RESULTS, "db", "share", GROUP, folder=place, code=2)
    assert line == (
        f"imagine-results: error: the group could write all of {place}/lab, which holds more than stores (code.py); "
        "move a.db and a.files into a folder of their own while no run is active, and share that store\n"
    )
    assert modes(place) == before
    (place / "lab" / "code.py").unlink()
    said(OWNER, RESULTS, "db", "backup", "lab/copy.db", folder=place)
    shared(place)


def modes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mode for path in folder.rglob("*")}
