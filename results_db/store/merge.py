"""Merging: runs of another store join this one, with everything that they left, their sweeps and their labels.

The database changes in one transaction. Weights are copied before it, under names that no other attempt has, so a merge
that is interrupted leaves the store as it was, and the same merge again completes it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Table, insert, select

from results_db.contract import ACTIVE, Attempt, PlannedRun, State, StoreError
from results_db.files import Files, attempt_of, file_name, write_atomically
from results_db.store import discards, rows, tables
from results_db.store.packed import unpack_metrics
from results_db.store.sql import SqlStore

Prefer = Literal["ours", "theirs"]


class _Fate(Enum):
    """What happens to a run of the other store."""

    JOINS = "it joins"
    REPLACES = "it joins, and our result is discarded"
    SAME = "both have the same result"
    STAYS = "ours stays as it is"
    ACTIVE = "one of them is active"
    CONFLICT = "the results differ"
    UNFIT = "it builds on a result that does not join"


@dataclass(frozen=True)
class _Run:
    """A run of one of the stores.

    Attributes:
        id: its row.
        result: its outcome and metrics; null until it is stored.
    """

    id: int
    run_id: str
    state: State
    last_number: int
    result: tuple[str, Mapping[str, float | None]] | None


@dataclass(frozen=True)
class Conflict:
    """A run with two results.

    Attributes:
        metric: the first metric in which they differ, or `outcome`.
        ours, theirs: its values.
    """

    run_id: str
    metric: str
    ours: float | str | None
    theirs: float | str | None


@dataclass
class Merged:
    """What a merge did, or would do. All but `launches` are run ids.

    Attributes:
        joined: runs that this store had not, or without a result.
        replaced: runs whose result here was discarded for the other one.
        same: runs with equal results.
        kept: runs with different results that keep ours.
        active: runs that were left out, because they are active in one of the stores.
        unfit: stored runs that were left out, because they build on results that do not join.
        conflicts: runs with different results, if none is preferred; then nothing is merged.
        without_files: stored runs among the first two of which weights or an artifact are not there, or not believed.
        launches: the number of launches that this store had not.
    """

    joined: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    without_files: list[str] = field(default_factory=list)
    launches: int = 0


def merge(store: SqlStore, other: SqlStore, *, prefer: Prefer | None = None, dry_run: bool = False) -> Merged:
    """Bring the runs of another store into this one. Repeating it changes nothing.

    A run that only the other store has, or of which only the other has a result, joins with its attempts. Their numbers
    follow ours. If both stores have different results of a run and none is preferred, nothing is merged.

    Raises:
        StoreError: both are one store, or runs of this store changed during the merge.
    """
    if store.url == other.url:
        raise StoreError(f"{other.display_url} is the store itself; name another one")
    with other._reading() as theirs:
        with store._reading() as ours:
            fates = _fates(ours, theirs, prefer=prefer)
            found = _merged(fates, kept=prefer == "ours")
            found.launches = len(_new_launches(ours, theirs))
        ours_files, other_files = Files(store.folder), Files(other.folder)
        copies = list(_copies(theirs, fates, ours_files, other_files))
        there = {source: _has(other_files, source) for _, source, _ in copies}
        found.without_files = sorted({run_id for run_id, source, _ in copies if run_id and not there[source]})
        if found.conflicts or dry_run:
            return found
        pairs = [(source, target) for _, source, target in copies]
        pairs += _assets(theirs, fates, ours_files, other_files)
        files = [(source, target) for source, target in pairs if _has(other_files, source)]
        made = _copy(files, other_files, ours_files, uuid=store.uuid)
        try:
            with store._writing() as ours:
                rows.lock_runs(ours, [own.run_id for _, own, _ in fates if own is not None])
                if _fates(ours, theirs, prefer=prefer) != fates:
                    raise StoreError("runs changed during the merge, which was taken back; merge again")
                rows.check_not_needed(ours, found.replaced)
                _declare(ours, theirs)
                why = f"replaced by the result in {other.display_url}"
                for run, own, fate in fates:
                    if fate is _Fate.REPLACES and own is not None:
                        row = rows.RunRow(own.id, own.run_id, own.state, own.last_number)
                        discards.discard(ours, row, why=why, at=rows.now(ours))
                    if fate in (_Fate.JOINS, _Fate.REPLACES):
                        _join(ours, theirs, run, own, logs=Files(other.folder))
                _add_labels(ours, theirs)
                _add_launches(ours, theirs)
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
    _tidy(store, [run for run, _, fate in fates if fate in (_Fate.JOINS, _Fate.REPLACES)], found.replaced)
    return found


_Fates = list[tuple[_Run, _Run | None, _Fate]]
"""A run of the other store, ours with this id, and what happens."""


def _fates(ours: Connection, theirs: Connection, *, prefer: Prefer | None) -> _Fates:
    """In the order in which the other store staged its runs."""
    own = {run.run_id: run for run in _runs(ours)}
    fates = [
        (run, mine, _fate(ours, run, mine, prefer=prefer))
        for run in _runs(theirs)
        for mine in (own.get(run.run_id),)
    ]
    return _with_unfit(theirs, fates)


def _with_unfit(theirs: Connection, fates: _Fates) -> _Fates:
    """Leaves out the results of runs that need, directly or not, a result of the other store that does not join."""
    run, need = tables.run, tables.need
    needs = theirs.execute(select(run.c.run_id, need.c.needed).join(need, need.c.run == run.c.id)).all()
    outside = (_Fate.CONFLICT, _Fate.ACTIVE, _Fate.STAYS)
    missing = {each.run_id for each, _, fate in fates if fate in outside}
    while True:
        more = {run_id for run_id, needed in needs if needed in missing} - missing
        if not more:
            break
        missing |= more
    return [
        (each, own, _Fate.UNFIT)
        if each.run_id in missing and each.result is not None and fate in (_Fate.JOINS, _Fate.REPLACES)
        else (each, own, fate)
        for each, own, fate in fates
    ]


def _fate(connection: Connection, theirs: _Run, ours: _Run | None, *, prefer: Prefer | None) -> _Fate:
    if ours is None or ours.result is None:
        return _fate_of_new(connection, theirs, ours)
    if theirs.result is None:
        return _Fate.STAYS
    if theirs.result == ours.result:
        return _Fate.SAME
    return _Fate.REPLACES if prefer == "theirs" else _Fate.CONFLICT


def _fate_of_new(connection: Connection, theirs: _Run, ours: _Run | None) -> _Fate:
    """The fate of a run of which we have no result."""
    if theirs.state in ACTIVE or (ours is not None and ours.state in ACTIVE and theirs.result is not None):
        return _Fate.ACTIVE
    if ours is None:
        return _Fate.JOINS
    if theirs.result is None:
        never_claimed = ours.state is State.STAGED and ours.last_number == 0
        return _Fate.JOINS if never_claimed and theirs.last_number else _Fate.STAYS
    return _Fate.STAYS if _was_discarded(connection, theirs) else _Fate.JOINS


def _was_discarded(connection: Connection, theirs: _Run) -> bool:
    """Whether this store had the other's result, and a user discarded it."""
    discarded = discards.discarded(connection, theirs.run_id)
    return any((record["outcome"], record["metrics"]) == theirs.result for record in discarded)


def _runs(connection: Connection) -> list[_Run]:
    run, shared = tables.run, tables.shared
    columns = (
        run.c.id,
        run.c.run_id,
        run.c.state,
        run.c.last_number,
        run.c.outcome,
        run.c.metrics,
        shared.c.value,
    )
    query = select(*columns).outerjoin(shared, shared.c.id == run.c.metric_names).order_by(run.c.id)
    return [
        _Run(
            row.id,
            row.run_id,
            State(row.state),
            row.last_number,
            None
            if row.metrics is None
            else (row.outcome, dict(zip(row.value, unpack_metrics(row.metrics), strict=True))),
        )
        for row in connection.execute(query)
    ]


def _merged(fates: _Fates, *, kept: bool) -> Merged:
    ids: dict[_Fate, list[str]] = {fate: [] for fate in _Fate}
    conflicts = []
    for run, own, fate in fates:
        ids[fate].append(run.run_id)
        if fate is _Fate.CONFLICT and own is not None:
            conflicts.append(_conflict(own, run))
    return Merged(
        joined=ids[_Fate.JOINS],
        replaced=ids[_Fate.REPLACES],
        same=ids[_Fate.SAME],
        kept=ids[_Fate.CONFLICT] if kept else [],
        active=ids[_Fate.ACTIVE],
        unfit=ids[_Fate.UNFIT],
        conflicts=[] if kept else conflicts,
    )


def _conflict(ours: _Run, theirs: _Run) -> Conflict:
    assert ours.result is not None
    assert theirs.result is not None
    (outcome, own), (other_outcome, other) = ours.result, theirs.result
    for name in [*own, *other]:
        if own.get(name) != other.get(name):
            return Conflict(ours.run_id, name, own.get(name), other.get(name))
    return Conflict(ours.run_id, "outcome", outcome, other_outcome)


def _copies(theirs: Connection, fates: _Fates, ours: Files, other: Files) -> Iterator[tuple[str, Path, Path]]:
    """The files of the runs that join: run id, source and target. The id is empty where the file may be missing."""
    left = _by_attempt(
        path for kind in ("artifacts", "discarded") for path in (other.folder / kind).glob("*-*")
    )
    table = tables.artifact
    listed: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for one in theirs.execute(select(table.c.run, table.c.name, table.c.sha256)):
        listed[one.run].append((one.name, one.sha256))
    for run, own, fate in fates:
        if fate not in (_Fate.JOINS, _Fate.REPLACES):
            continue
        for row in _attempts(theirs, run.id):
            before = Attempt(run.run_id, row["number"], row["restart"], row["nonce"])
            after = replace(before, number=_offset(own) + before.number)
            source, target = other.weights(before), ours.weights(after)
            if row["state"] == State.COMPLETED:
                yield run.run_id, source, target
            elif row["state"] == State.DISCARDED:
                yield "", other.discarded / source.name, ours.discarded / target.name
            elif run.result is None:
                yield "", other.checkpoint(before), ours.checkpoint(after)
            for name, sha256 in listed.get(run.id, ()) if row["state"] == State.COMPLETED else ():
                yield run.run_id, other.artifact(before, name, sha256), ours.artifact(after, name, sha256)
            for path in left[before] if row["state"] != State.COMPLETED else ():
                rest = path.name.removeprefix(file_name(before, ""))
                yield "", path, ours.folder / path.parent.name / file_name(after, rest)


def _by_attempt(paths: Iterable[Path]) -> Mapping[Attempt, list[Path]]:
    found = defaultdict(list)
    for path in paths:
        if path.suffix != ".tmp" and (attempt := attempt_of(path)) is not None:
            found[attempt].append(path)
    return found


def _assets(theirs: Connection, fates: _Fates, ours: Files, other: Files) -> Iterator[tuple[Path, Path]]:
    """The files that the runs that join build on, and that only the other store has."""
    there = {path.name for path in other.asset("").glob("*")}
    shared, table = tables.shared, tables.run
    query = select(shared.c.value, table.c.own).join(table, table.c.settings == shared.c.id)
    for run in [run for run, _, fate in fates if there and fate in (_Fate.JOINS, _Fate.REPLACES)]:
        row = theirs.execute(query.where(table.c.id == run.id)).one()
        for value in rows.joined(row.value, row.own, None).values():
            digest = str(value).removeprefix("sha256:")
            if digest in there and not ours.asset(digest).exists():
                yield other.asset(digest), ours.asset(digest)


def _has(files: Files, path: Path) -> bool:
    """See `Files.has`.

    Raises:
        StoreError: the file is there and cannot be opened.
    """
    try:
        return files.has(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; merge again") from None


def _copy(files: Sequence[tuple[Path, Path]], other: Files, ours: Files, *, uuid: str) -> list[Path]:
    """Copy these files, all or none; returns the new ones."""
    made: list[Path] = []
    try:
        if files:
            ours.take(uuid)
        for source, target in files:
            if not target.exists():
                made.append(target)
            write_atomically(target, other.read(source))
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot copy {source} to {target}: {error.strerror or error}; merge again"
            ) from None
        raise
    return made


def _offset(own: _Run | None) -> int:
    """What to add to the numbers of the other store's attempts, so that they follow ours."""
    return 0 if own is None else own.last_number


def _attempts(connection: Connection, run: int) -> list[dict[str, Any]]:
    table = tables.attempt
    query = select(table).where(table.c.run == run).order_by(table.c.number, table.c.restart)
    names = table.c.keys()
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query)]


def _join(ours: Connection, theirs: Connection, run: _Run, own: _Run | None, *, logs: Files) -> None:
    """Insert a run of the other store, or its attempts and its result if we have the run without one."""
    table = tables.run
    if own is None:
        _stage(ours, theirs, run)
    key = ours.execute(select(table.c.id).where(table.c.run_id == run.run_id)).scalar_one()
    columns = (table.c.state, table.c.ended_at, table.c.seconds, table.c.outcome, table.c.metrics)
    head = theirs.execute(select(*columns).where(table.c.id == run.id)).one()._asdict()
    names = None if run.result is None else rows.share(ours, [list(run.result[1])])[0]
    rows.set_run(ours, key, metric_names=names, last_number=_offset(own) + run.last_number, **head)
    _join_attempts(ours, theirs, run, key, offset=_offset(own), logs=logs)
    for left in (tables.trace, tables.sample, tables.artifact):
        _insert(ours, left, [{**row, "run": key} for row in _rows(theirs, left, left.c.run == run.id)])


def _declare(ours: Connection, theirs: Connection) -> None:
    """Note what only the other store knows of experiments."""
    table = tables.experiment
    known = set(ours.scalars(select(table.c.name)))
    declared = _rows(theirs, table, table.c.name.not_in(known))
    _insert(ours, table, declared)


def _stage(ours: Connection, theirs: Connection, run: _Run) -> None:
    table, shared = tables.run, tables.shared
    query = select(table.c.seed, table.c.own, table.c.staged_at, shared.c.value).outerjoin(
        shared, shared.c.id == table.c.settings
    )
    row = theirs.execute(query.where(table.c.id == run.id)).one()
    (settings,) = rows.share(ours, [row.value])
    kept = {"own": row.own, "seed": row.seed, "staged_at": row.staged_at}
    new = {"run_id": run.run_id, "settings": settings, **kept}
    rows.insert_new(ours, table, [{**new, "state": State.STAGED}], unique="run_id")
    needed = _rows(theirs, tables.need, tables.need.c.run == run.id)
    needs = {one["key"]: one["needed"] for one in needed}
    rows.note_needs(ours, [PlannedRun(run.run_id, {}, needs)])


def _join_attempts(
    ours: Connection, theirs: Connection, run: _Run, key: int, *, offset: int, logs: Files
) -> None:
    known = {(row["nonce"], row["restart"], row["state"]) for row in _attempts(ours, key) if row["nonce"]}
    for row in _attempts(theirs, run.id):
        if (row["nonce"], row["restart"], row["state"]) in known:
            continue  # one store began as a copy of the other
        before = row.pop("id")
        log = None if row["log"] is None else str(logs.find(row["log"]))
        joined = {**row, "run": key, "number": offset + row["number"], "log": log}
        new = ours.scalar(insert(tables.attempt).values(joined).returning(tables.attempt.c.id))
        discarded = _rows(theirs, tables.discarded, tables.discarded.c.attempt == before)
        _insert(ours, tables.discarded, [{**one, "attempt": new} for one in discarded])


def _rows(connection: Connection, table: Table, condition: Any) -> list[dict[str, Any]]:
    names = [column.key for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in connection.execute(select(table).where(condition))]


def _insert(connection: Connection, table: Table, new: Sequence[Mapping[str, Any]]) -> None:
    if new:  # for an empty list SQLAlchemy would insert one row of defaults
        connection.execute(insert(table), new)


def _add_labels(ours: Connection, theirs: Connection) -> None:
    """Add the other's tags to ours; its notes, where we have none."""
    run, tag = tables.run, tables.tag
    keys = {
        run_id: (key, note) for key, run_id, note in ours.execute(select(run.c.id, run.c.run_id, run.c.note))
    }
    own = {(key, name) for key, name in ours.execute(select(tag.c.run, tag.c.name))}
    tags = theirs.execute(select(run.c.run_id, tag.c.name).join(tag, tag.c.run == run.c.id))
    wanted = {(keys[run_id][0], name) for run_id, name in tags if run_id in keys}
    _insert(ours, tag, [{"run": key, "name": name} for key, name in sorted(wanted - own)])
    for run_id, note in theirs.execute(select(run.c.run_id, run.c.note).where(run.c.note.is_not(None))):
        key, before = keys.get(run_id, (None, None))
        if key is not None and before is None:
            rows.set_run(ours, key, note=note)


_Launch = tuple[str, str, datetime]
"""What tells launches apart: name, text and time."""


def _launches(connection: Connection) -> dict[_Launch, dict[str, Any]]:
    return {
        (row["name"], row["spec"], row["launched_at"]): row
        for row in _rows(connection, tables.sweep, tables.sweep.c.id.is_not(None))
    }


def _new_launches(ours: Connection, theirs: Connection) -> list[_Launch]:
    own = _launches(ours)
    return [launch for launch in _launches(theirs) if launch not in own]


def _add_launches(ours: Connection, theirs: Connection) -> None:
    """Add the other's launches, and the runs of each that are here. Runs that were left out come later."""
    run, member = tables.run, tables.sweep_run
    keys = {run_id: key for key, run_id in ours.execute(select(run.c.id, run.c.run_id))}
    own = _launches(ours)
    for launch, row in _launches(theirs).items():
        if launch in own:
            key = own[launch]["id"]
        else:
            new = {name: value for name, value in row.items() if name != "id"}
            key = ours.scalar(insert(tables.sweep).values(new).returning(tables.sweep.c.id))
        wanted = theirs.scalars(
            select(run.c.run_id).join(member, member.c.run == run.c.id).where(member.c.sweep == row["id"])
        )
        have = set(ours.scalars(select(member.c.run).where(member.c.sweep == key)))
        missing = {keys[run_id] for run_id in wanted if run_id in keys} - have
        _insert(ours, member, [{"sweep": key, "run": one} for one in sorted(missing)])


def _tidy(store: SqlStore, joined: Sequence[_Run], replaced: Sequence[str]) -> None:
    """Put the weights of replaced results aside, and delete what the new results supersede."""
    files = Files(store.folder)
    for run in joined:
        if run.result is None:
            continue
        (stored,) = (one for one in store.attempts(run.run_id) if one["state"] == State.COMPLETED)
        attempt = Attempt(run.run_id, stored["number"], stored["restart"], stored["nonce"])
        if run.run_id in replaced:
            files.discard_results(run.run_id, but=attempt)
        files.remove_superseded(attempt)
