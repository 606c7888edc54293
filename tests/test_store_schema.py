"""Migrations lead to the tables that the code knows, from an empty database and from an older store."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import Connection, inspect, text
from store_helpers import bare

from results_db.cli.root import results
from results_db.contract import Attempt, NewSweep, PlannedRun, Reply, RunRecord, StoreError
from results_db.store import engine, schema
from results_db.store.address import locate
from results_db.store.engine import make_engine
from results_db.store.sql import SqlStore, open_store, upgrade_store
from results_db.store.tables import METADATA

MIGRATIONS = Path(schema.__file__).parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    oldest_first = [script.revision for script in scripts.walk_revisions()][::-1]
    assert tuple(oldest_first) == schema.REVISIONS


def test_migrations_lead_to_the_tables(store: SqlStore) -> None:
    options = {
        "version_table": schema.VERSION_TABLE,
        "compare_type": True,
        "compare_server_default": True,
    }
    with store._reading() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []
        assert len(inspect(connection).get_table_names()) == 14  # thirteen of the store, and the version's


def test_a_migration_that_fails_leaves_nothing(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tables_and_a_fault(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "head")
        raise OSError("disk gone")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "_run_alembic", tables_and_a_fault)
        with pytest.raises(OSError, match="disk gone"):
            open_store(store_url, create=True)
    store = open_store(store_url, create=True)
    assert len(store.runs()) == 0


def test_alembics_own_command_reaches_the_store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_DB", store_url)
    command.upgrade(alembic_config(), "head")
    command.check(alembic_config())  # raises if the tables have changed without a migration
    assert len(open_store(store_url, create=False).runs()) == 0


def test_upgrading_a_store_of_this_version_does_nothing(store: SqlStore) -> None:
    done = upgrade_store(store.url)
    assert done.before == done.after == schema.REVISIONS[-1]


OLD = (
    "INSERT INTO run (id, run_id, config, state, outcome, seconds, staged_at) VALUES "
    "(1, 'aa', '{}', 'FAILED', NULL, NULL, :at), (2, 'bb', '{}', 'STAGED', NULL, NULL, :at), "
    "(3, 'cc', '{\"gol\"\\:3,\"seed\"\\:7}', 'COMPLETED', 'reached', 1.5, :at), "
    "(5000, 'dd', '{\"gol\"\\:3,\"seed\"\\:8}', 'COMPLETED', 'reached', 2.5, :at)",
    "INSERT INTO attempt (run, number, restart, state, started_at, heartbeat_at, step, progress, launcher, host, "
    "process, device, versions) VALUES (1, 1, 0, 'LOST', :at, :at, 5, '{}', 'local', 'h', '1:1', 'cpu', '{}'), "
    "(1, 2, 0, 'FAILED', :at, :at, 9, '{}', 'local', 'h', '1:1', 'cpu', '{}')",
    "INSERT INTO metric (run, name, value) VALUES (3, 'metric', 0.1), (3, 'metric_adv', NULL), (5000, 'metric', 1)",
    "INSERT INTO trace (run, name, steps, \"values\") VALUES (3, 'b', '[0,50]', '[0.1,1e-300]'), "
    "(3, 'a', '[7]', '[1]')",
    "INSERT INTO sweep (id, name, spec, launched_at) VALUES (1, 'table1', '{}', :at)",
    "INSERT INTO sweep_run (sweep, run) VALUES (1, 1)",
)
"""Rows of a store with schema 0001: a run that was tried twice, one that was not, and two that are stored."""

RECORD = {
    "outcome": "done",
    "seconds": 1.0,
    "metrics": {"metric": 0.3},
    "traces": {},
    "samples": {"s": "AAEC"},
}

ADDED = {
    "0001": "INSERT INTO sample (run, name, npz) VALUES (3, 'decoded', :bytes)",
    "0002": "UPDATE attempt SET job_name = 'j-1', log_tail = 'the end' WHERE run = 1 AND number = 2",
    "0003": "INSERT INTO sweep (id, name, spec, overridden, content, launched_at) "
    "VALUES (2, 'table2', '{}', '[\"ae\"]', 'c', :at)",
    "0005": "UPDATE attempt SET nonce = '1f' WHERE run = 1 AND number = 2",
    "0006": "UPDATE run SET metrics = :metrics WHERE run_id = 'dd'",
    "0007": "INSERT INTO discarded (attempt, discarded_at, why, record) "
    "SELECT id, :at, 'broken', :record FROM attempt WHERE run = 1 AND number = 1",
    "0008": "UPDATE store SET shared_with = 'lab'",
    "0009": "UPDATE attempt SET kernels = 'native' WHERE run = 1 AND number = 2",
    "0010": "UPDATE run SET note = 'odd' WHERE run_id = 'aa'; INSERT INTO tag (run, name) VALUES (3, 'good')",
}
"""What a store of each schema may hold that an older one does not."""

VALUES = {
    "at": "2026-01-02 03:04:05",
    "bytes": bytes(range(256)),
    "metrics": struct.pack("<d", 0.1 + 0.2),
    "record": zlib.compress(json.dumps(RECORD).encode()),
}


def execute(connection: Connection, statements: str) -> None:
    for statement in statements.split("; "):
        words = text(statement)
        connection.execute(words, {name: VALUES[name] for name in words.compile().params})


@pytest.fixture
def umask() -> Iterator[None]:
    """The process has its own umask again after the test; a shared store changes it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("revision", schema.REVISIONS[:-1])
def test_an_older_store_is_refused_until_it_is_upgraded(store_url: str, revision: str) -> None:
    with make_engine(locate(store_url).url).begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        for statement in OLD:
            connection.execute(text(statement), {"at": "2026-01-02 03:04:05"})
        if connection.dialect.name == "postgresql":  # the rows above have numbers of their own
            connection.execute(text("SELECT setval('run_id_seq', 5000)"))
        reached = [one for one in schema.REVISIONS if one <= revision]
        for one in reached:
            command.upgrade(alembic_config(connection), one)
            execute(connection, ADDED.get(one, "SELECT 1"))
    with pytest.raises(StoreError, match=f"older schema {revision}"):
        open_store(store_url, create=True)
    done = upgrade_store(store_url)
    assert (done.before, done.after) == (revision, schema.REVISIONS[-1])
    with open_store(store_url, create=True) as store:
        first, second = store.run("cc"), store.run("dd")
        assert (first["config"], first["metrics"]) == (
            {"gol": 3, "seed": 7},
            {"metric": 0.1, "metric_adv": None},
        )
        metric = 0.1 + 0.2 if "0006" in reached else 1.0
        assert (second["config"], second["metrics"]) == ({"gol": 3, "seed": 8}, {"metric": metric})
        check_added(store, reached)
        assert store.traces("cc") == {"a": ([7], [1.0]), "b": ([0, 50], [0.1, 1e-300])}
        assert store.traces("dd") == {}
        assert store.runs()["seed"].tolist() == [None, None, 7, 8]
        assert (
            store.finish(Attempt("cc", 1), RunRecord("cc", "reached", 1.5, first["metrics"])) is Reply.REFUSED
        )
        assert [(one["number"], one["state"], one["step"]) for one in store.attempts("aa")] == [
            (1, "LOST", 5),
            (2, "FAILED", 9),
        ]
        assert NewSweep("table1", "{}", None) in store.launches()
        assert store.members(["table1"], overridden=[]) == set()  # what it overrode is not known
        first = store.attempts("aa")[0]
        assert first["claimed_at"] == first["started_at"]
        claimed = store.claim(["aa", "bb"], job_name="j", launcher="slurm", retry_failed=True)
        assert list(map(bare, claimed)) == [Attempt("aa", 3), Attempt("bb", 1)]
        store.stage([PlannedRun("ee", {"gol": 3, "seed": 9}), PlannedRun("ff", {"gol": 4})])
        assert store.run("ee")["config"] == {"gol": 3, "seed": 9}


def check_added(store: SqlStore, reached: list[str]) -> None:
    """Check that the upgrade kept the rows of `ADDED`."""
    newest = store.attempts("aa")[-1]
    found = {
        "0001": store.samples("cc") == {"decoded": VALUES["bytes"]},
        "0002": (newest["job_name"], newest["log_tail"]) == ("j-1", "the end"),
        "0003": NewSweep("table2", "{}", ("ae",), "c") in store.launches(),
        "0005": newest["nonce"] == "1f",
        "0007": [(one["why"], one["samples"]) for one in store.discarded("aa")]
        == [("broken", {"s": b"\0\1\2"})],
        "0008": store.group == "lab",
        "0009": newest["kernels"] == "native",
        "0010": (store.run("aa")["note"], store.run("cc")["tags"]) == ("odd", ["good"]),
    }
    assert {one: one in reached for one in found} == found


@pytest.mark.parametrize("revision", ["0004", "0010"])
def test_an_upgrade_keeps_the_stores_id(store_url: str, revision: str) -> None:
    with make_engine(locate(store_url).url).begin() as connection:
        command.upgrade(alembic_config(connection), revision)
        uuid = connection.execute(text("SELECT uuid FROM store")).scalar_one()
    upgrade_store(store_url)
    with open_store(store_url, create=False) as store:
        assert store.uuid == uuid


def test_a_newer_store_is_left_alone(store: SqlStore) -> None:
    with store._writing() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    for attempt in (lambda: open_store(store.url, create=True), lambda: upgrade_store(store.url)):
        with pytest.raises(StoreError, match="was written by a newer version: it has schema 9999"):
            attempt()
    with store._reading() as connection:
        found = connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalars().all()
    assert found == ["9999"]


def test_an_upgrade_leaves_drawn_values_with_their_runs(store_url: str) -> None:
    with make_engine(locate(store_url).url).begin() as connection:
        command.upgrade(alembic_config(connection), "0008")
        for n in range(40):
            config = f'{{"gol": {n % 2}, "lr": {n / 7}}}'
            connection.execute(
                text("INSERT INTO shared (id, digest, value) VALUES (:n, :d, :v)"),
                {"n": n, "d": str(n), "v": config},
            )
            connection.execute(
                text(
                    "INSERT INTO run (id, run_id, settings, state, staged_at) VALUES (:n, :d, :n, 'STAGED', :at)"
                ),
                {"n": n, "d": str(n), "at": "2026-01-02 03:04:05"},
            )
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT setval('shared_id_seq', 50)"))
    upgrade_store(store_url)
    with open_store(store_url, create=False) as store:
        assert [store.run(str(n))["config"] for n in range(40)] == [
            {"gol": n % 2, "lr": n / 7} for n in range(40)
        ]
        with store._reading() as connection:
            assert connection.execute(text("SELECT count(*) FROM shared")).scalar() == 2


SLOW = """
CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE TRIGGER nap AFTER UPDATE ON run FOR EACH STATEMENT EXECUTE FUNCTION nap()
"""


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_upgrade_has_no_time_limit(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_engine(locate(store_url).url).begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        connection.execute(text(OLD[0]), {"at": "2026-01-02 03:04:05"})
        connection.exec_driver_sql(SLOW)
    monkeypatch.setattr(
        engine, "_LIMITS", "SET LOCAL lock_timeout = '0.1s'; SET LOCAL statement_timeout = '0.2s'"
    )
    monkeypatch.setattr(engine, "ANSWER_WITHIN_S", 0.3)
    assert upgrade_store(store_url).before == "0001"
    with open_store(store_url, create=False) as store, pytest.raises(StoreError, match="statement timeout"):
        store.claim(["bb"], launcher="local")


def test_an_upgrade_makes_the_file_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "full"):
        with make_engine(locate(f"{name}.db").url).begin() as connection:
            command.upgrade(alembic_config(connection), "0005")
            connection.execute(text(OLD[0]), {"at": "2026-01-02 03:04:05"})
            points = {"steps": json.dumps([*range(20_000)]), "values": json.dumps([1.0] * 20_000)}
            connection.execute(
                text("INSERT INTO trace (run, name, steps, \"values\") VALUES (3, 'b', :steps, :values)"),
                points,
            )
    before = Path("a.db").stat().st_size
    run = CliRunner().invoke(results, ["db", "upgrade", "--db", "a.db"])
    after = Path("a.db").stat().st_size
    assert after < before / 1.5
    assert f"its file went from {before / 1e6:.1f} to {after / 1e6:.1f} MB" in run.output
    little = shutil.disk_usage(tmp_path)._replace(free=2 * before - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    lacks = upgrade_store("full.db").lacks
    assert lacks == 2 * Path("full.db").stat().st_size >= 2 * before
