"""Migrations lead to the tables that the models describe, and back."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

import results_db.schema as schema
from results_db.models import Base
from results_db.store import SqlStore, open_store, upgrade_store

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


def test_migrations_lead_to_the_models(store: SqlStore) -> None:
    with store._reading() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": schema.VERSION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        assert len(inspect(connection).get_table_names()) == 8  # seven of ours and the version


def test_a_store_can_go_back_and_forth(store: SqlStore) -> None:
    with store._writing() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == [schema.VERSION_TABLE]
        command.upgrade(alembic_config(connection), "head")
        assert len(inspect(connection).get_table_names()) == 8


def test_a_migration_that_fails_leaves_nothing(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tables_and_a_fault(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "head")
        raise OSError("disk gone")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk gone"):
        patched.setattr(schema, "_run_alembic", tables_and_a_fault)
        open_store(store_url, create=True)
    store = open_store(store_url, create=True)
    assert len(store.runs()) == 0


def test_alembics_own_command_reaches_the_store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_DB", store_url)
    command.upgrade(alembic_config(), "head")
    command.check(alembic_config())  # raises if the models have changed without a migration
    assert len(open_store(store_url, create=False).runs()) == 0


def test_upgrading_a_store_of_this_version_does_nothing(store: SqlStore) -> None:
    _, before, after = upgrade_store(store.url)
    assert before == after == schema.REVISIONS[-1]


def test_upgrading_an_older_store_runs_its_migrations(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An older store, made by taking this one back to before the first revision that this version knows.
    with store._writing() as connection:
        command.downgrade(alembic_config(connection), "base")
        connection.exec_driver_sql(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0000')")
    monkeypatch.setattr(schema, "REVISIONS", ("0000", "0001"))
    ran: list[str] = []

    def stamp_and_upgrade(connection: Connection) -> None:
        connection.exec_driver_sql(f"DELETE FROM {schema.VERSION_TABLE}")
        command.upgrade(alembic_config(connection), "head")
        ran.append("0001")

    monkeypatch.setattr(schema, "_run_alembic", stamp_and_upgrade)
    assert upgrade_store(store.url)[1:] == ("0000", "0001")
    assert ran == ["0001"]
    assert len(open_store(store.url, create=False).runs()) == 0
