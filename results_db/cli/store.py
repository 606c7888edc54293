"""The commands that look after a store: `ingest`, `merge`, `gc`, and `db`."""

from pathlib import Path

import click

from results_db import console
from results_db.cli import options
from results_db.views import tables


@click.command()
@click.option("--adopt", is_flag=True, help="Also store results that this store did not ask for.")
@console.json_option
@console.db_option
def ingest(*, adopt: bool, as_json: bool, db: str | None) -> int:
    """Bring the records that workers left in the spool into the store.

    This is safe at any time, also while another ingest runs. A damaged record is reported and moved to spool/damaged.

    If the store was replaced while jobs ran, as by an older copy of itself, it did not claim their attempts. Their
    results stay in the spool and are reported. --adopt stores each of them, unless its run is COMPLETED.

    Example: imagine-results ingest --db /shared/me/imagine.db
    """
    from results_db.spool.ingest import ingest as ingest_spool

    with options.reading(db, write=True) as store:
        found = ingest_spool(store, adopt=adopt)
    click.echo(tables.as_json(found.as_dict()) if as_json else found.describe())
    if not as_json:
        for line in (*found.damaged, *found.left):
            click.echo(line, err=True)
    return console.SOME_FAILED if found.left else 0


@click.group(cls=console.ConsoleGroup)
def db() -> None:
    """Maintain the database."""


@db.command()
@console.db_option
def upgrade(*, db: str | None) -> None:
    """Bring a store of an older version to the current schema.

    Example: imagine-results db upgrade --db outputs/imagine.db
    """
    from results_db.store.sql import upgrade_store

    name, before, after = upgrade_store(db)
    done = f"is already at schema {after}" if before == after else f"went from schema {before} to {after}"
    click.echo(f"{name} {done}")


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@console.db_option
def backup(*, file: Path, db: str | None) -> None:
    """Copy the database of a store into FILE, also while jobs write it.

    The copy is the store at one moment, and has its id. To restore it, move it to the store's place. Weights,
    checkpoints and logs are files beside the store; copy their folder, too.

    Example: imagine-results db backup /backup/imagine.db
    """
    from results_db.store.backup import back_up

    click.echo(f"{back_up(db, file)} is a copy of the store")


@db.command("share")
@click.argument("group")
@console.db_option
def share_with(*, group: str, db: str | None) -> None:
    """Let the members of GROUP launch into this store, and believe the results that they leave in its spool.

    The database, its folder and the folder beside it become the group's, and writable for it. The store remembers it,
    so that no umask undoes it. Only the owner can share a store, with one of the owner's groups.

    Example: imagine-results db share lab --db /shared/imagine.db
    """
    from results_db.store.share import share

    with options.reading(db, write=True) as store:
        share(store, group)
    console.say(f"{store.display_url} is shared with {group}")
