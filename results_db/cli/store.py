"""The commands that look after a store: `ingest`, `merge`, `gc`, and `db`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from results_db import console
from results_db.cli import options
from results_db.contract import StoreError
from results_db.text import counted, short, some
from results_db.views import tables

if TYPE_CHECKING:
    from results_db.store.merge import Merged, Prefer


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


@click.command()
@click.argument("other")
@click.option("--prefer", type=click.Choice(["ours", "theirs"]), help="Which of two different results stays.")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="The folder of OTHER's weights, if it is not beside it.",
)
@click.option("--dry-run", is_flag=True, help="Only show what the command would do.")
@console.json_option
@console.db_option
def merge(
    *,
    other: str,
    prefer: "Prefer | None",
    files: Path | None,
    dry_run: bool,
    as_json: bool,
    db: str | None,
) -> int:
    """Bring the runs of the store OTHER into this one, with their attempts, traces, samples, weights, sweeps and tags.

    OTHER is a path that ends in .db, or a URL; it does not change. Runs with equal results in both stores are skipped.
    Runs with different results are listed, and nothing is merged, unless --prefer says which stays. With `--prefer
    theirs` our result is discarded, as by `discard`.

    Active runs are left out. To bring them, merge again when they have ended. Results that build on results that do not
    join are left out, too. Repeating a merge changes nothing.

    Example: imagine-results merge node7.db --db outputs/imagine.db
    """
    from results_db.store.merge import merge as merge_stores
    from results_db.store.sql import open_store, open_to_read

    with open_to_read(other, files=files) as source:
        if not source.uuid:
            raise StoreError(f"no store at {source.display_url}; name a store to merge from")
        with open_to_read(db) if dry_run else open_store(db, create=True) as store:
            found = merge_stores(store, source, prefer=prefer, dry_run=dry_run)
            if as_json:
                click.echo(tables.as_json({**asdict(found), "dry_run": dry_run}))
            else:
                _say_merged(found, source.display_url, dry_run=dry_run)
    if found.conflicts:
        raise StoreError(
            f"{counted(len(found.conflicts), 'run')} of {source.display_url} with other results than here; nothing was "
            "merged; give --prefer ours or --prefer theirs"
        )
    return console.SOME_FAILED if found.active or found.unfit else 0


def _say_merged(found: "Merged", other: str, *, dry_run: bool) -> None:
    if found.conflicts:
        rows = [{**asdict(one), "run_id": short(one.run_id)} for one in found.conflicts]
        click.echo(tables.render(rows, list(rows[0]), style="rich"))
        return
    counts = {
        "joined": found.joined,
        "replaced": found.replaced,
        "with equal results": found.same,
        "with another result keep ours": found.kept,
    }
    parts = [f"{counted(len(runs), 'run')} {what}" for what, runs in counts.items() if runs]
    parts += [f"{found.launches} {'launch' if found.launches == 1 else 'launches'}"] if found.launches else []
    console.say(f"{other}{' (dry run)' if dry_run else ''}: {', '.join(parts) or 'nothing new'}")
    if found.without_files:
        console.say(f"{counted(len(found.without_files), 'stored run')} came without weights or artifacts")
    if found.active:
        console.say(f"left out, because active: {some(found.active)}; merge again when they have ended")
    if found.unfit:
        console.say(f"left out, because they build on results that do not join: {some(found.unfit)}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what the command would do.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@console.json_option
@console.db_option
def gc(*, dry_run: bool, yes: bool, as_json: bool, db: str | None) -> int:
    """Delete the files beside the store that nothing needs any more.

    \b
    weights      and artifacts, of attempts that made no result
    checkpoints  of stored runs, and damaged ones
    spool        records and heartbeats of attempts that did not give the
                 stored result
    logs         of earlier attempts
    dispatches   tasks, scripts and code of jobs that are over
    unfinished   files of writers that were killed

    Files stay that a stored or active run needs, or a run that may continue; so do files that changed within the last
    hour, and the weights of discarded runs.

    Example: imagine-results gc --dry-run
    """  # noqa: D301 - click wants the character \\b
    from results_db.spool.leftovers import by_kind, leftovers, remove

    with options.reading(db, write=True) as store:
        found = leftovers(store)
        kinds = by_kind(found)
        size = f"{sum(one.size for one in found) / 1e6:.1f} MB"
        if kinds and not as_json:
            rows = [
                {"kind": kind, "files": f"{files:,}", "MB": f"{bytes_ / 1e6:.1f}"}
                for kind, (files, bytes_) in kinds.items()
            ]
            click.echo(tables.render(rows, list(rows[0]), style="rich"))
        if found and not dry_run and not yes:
            console.ask(f"{counted(len(found), 'file')}, {size}", "nothing needs them", then="Delete them")
        failed = [] if dry_run else remove(found)
    if as_json:
        files = [{**asdict(one), "path": str(one.path)} for one in found]
        click.echo(tables.as_json({"files": files, "dry_run": dry_run, "failed": failed}))
        return console.SOME_FAILED if failed else 0
    done = "would delete" if dry_run else "deleted"
    console.say(
        f"{done} {counted(len(found) - len(failed), 'file')}, {size}" if found else "nothing to delete"
    )
    for line in failed:
        console.say(line, err=True)
    return console.SOME_FAILED if failed else 0


@click.group(cls=console.ConsoleGroup)
def db() -> None:
    """Maintain the database."""


@db.command()
@console.db_option
def upgrade(*, db: str | None) -> None:
    """Bring a store of an older version to the current schema.

    A SQLite file is then made smaller, if the disk has twice its size free. A file that was created on a disk of one
    machine, and is now on a network file system, is changed so that writers take turns.

    Example: imagine-results db upgrade --db outputs/imagine.db
    """
    from results_db.store.sql import upgrade_store

    done = upgrade_store(db)
    if done.before == done.after:
        console.say(f"{done.shown} is already at schema {done.after}")
    else:
        console.say(f"{done.shown} went from schema {done.before} to {done.after}")
    if done.sizes:
        console.say("its file went from {:,.1f} to {:,.1f} MB".format(*(size / 1e6 for size in done.sizes)))
    if done.lacks:
        console.say(
            f"its file stays as large as it is: making it smaller needs {done.lacks / 1e6:,.1f} MB free"
        )
    if done.on_network:
        console.say("its disk is a network file system here: writers take turns from now on")


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


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options.group_option
@click.option(
    "--files-of",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    metavar="N",
    help="How many kept runs of each group keep weights, artifacts and samples.",
)
@options.choice_options()
def publish(*, file: Path, group: str | None, files_of: int, choice: options.Choice) -> None:
    """Copy a store into FILE, small enough to give away.

    The copy has all runs, or those that --where and --sweep choose, with their metrics and traces, but weights,
    artifacts and samples of only N kept runs of each group: of the first by id that have weights. An id is a digest of
    the config, so this choice does not depend on the results.

    Example: imagine-results db publish paper.db --group preset,gol,model_t
    """
    from results_db.frame import plain
    from results_db.query.aggregate import grouped, grouping
    from results_db.query.gate import completed, passed
    from results_db.store.publish import publish as publish_store

    with choice.reading() as store:
        frame = choice.of(store.frame())
        by = grouping(
            frame, options.cells_of(frame, store.experiments()) if group is None else options.names(group)
        )
        kept = completed(frame)
        kept = kept[passed(kept)]
        rows = [plain(kept["run_id"][places]) for places in grouped(kept, by).values()]
        runs = None if choice.is_all else plain(frame["run_id"])
        copied = publish_store(store, file, rows, each=files_of, runs=runs)
    console.say(f"{file} is a copy of the store, with weights and samples of {counted(len(copied), 'run')}")


@db.command("share")
@click.argument("group")
@console.db_option
def share_with(*, group: str, db: str | None) -> None:
    """Let the members of GROUP launch into this store, and believe what they write beside it.

    The group can then write three places: the database, the folder that the database lies in, and X.files, the store's
    folder beside X.db. Of a database on a server it can write only the store's folder. The store records the group, so
    no umask of a later process undoes this. Only the owner can share a store, and only with a group of the owner's. The
    folder that the database lies in may hold nothing but stores.

    Example: imagine-results db share lab --db /shared/lab/imagine.db
    """
    from results_db.store.share import share

    with options.reading(db, write=True) as store:
        share(store, group)
    console.say(f"{store.display_url} is shared with {group}")
