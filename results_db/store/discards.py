"""Discarded runs: the record of a stored run moves aside, with the attempt that it belongs to."""

import base64
import json
import zlib
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from results_db.contract import State
from results_db.store import rows, tables


def discard(connection: Connection, run: rows.RunRow, *, why: str, at: datetime) -> None:
    """Move the record of this locked COMPLETED run aside, and make the run and its newest attempt DISCARDED."""
    newest = rows.newest_attempt(connection, run)
    assert newest is not None  # it completed the run
    record = json.dumps(_record(connection, run.id), separators=(",", ":")).encode()
    values = {"discarded_at": at, "why": why, "record": zlib.compress(record)}
    connection.execute(insert(tables.discarded).values(attempt=newest.id, **values))
    for left in (tables.trace, tables.sample, tables.artifact):
        connection.execute(delete(left).where(left.c.run == run.id))
    nothing = dict.fromkeys(("outcome", "seconds", "metric_names", "metrics"))
    rows.set_run(connection, run.id, state=State.DISCARDED, ended_at=at, **nothing)
    rows.set_attempt(connection, newest.id, state=State.DISCARDED, error=f"discarded: {why}")


def discarded(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """See `contract.Store.discarded`."""
    table, attempt, run = tables.discarded, tables.attempt, tables.run
    columns = (attempt.c.number, attempt.c.restart, table.c.discarded_at, table.c.why)
    query = select(*columns, table.c.record).join(attempt, attempt.c.id == table.c.attempt)
    found = []
    ordered = query.join(run, run.c.id == attempt.c.run).where(run.c.run_id == run_id)
    for *about, packed in connection.execute(ordered.order_by(attempt.c.number, attempt.c.restart)):
        record = json.loads(zlib.decompress(packed))
        record["samples"] = {name: base64.b64decode(npz) for name, npz in record["samples"].items()}
        names = [column.key for column in columns]
        found.append({**dict(zip(names, about, strict=True)), **record})
    return found


def _record(connection: Connection, run: int) -> dict[str, Any]:
    table, trace, sample = tables.run, tables.trace, tables.sample
    head = connection.execute(select(table.c.outcome, table.c.seconds).where(table.c.id == run)).one()
    traces = connection.execute(
        select(trace.c.points, trace.c.steps, trace.c["values"]).where(trace.c.run == run)
    ).first()
    samples = connection.execute(select(sample.c.name, sample.c.npz).where(sample.c.run == run))
    left = tables.artifact
    artifacts = connection.execute(select(left.c.name, left.c.size, left.c.sha256).where(left.c.run == run))
    return {
        "outcome": head.outcome,
        "seconds": head.seconds,
        "metrics": rows.metrics_of(connection, run),
        "traces": {} if traces is None else rows.traces_in(*traces),
        "artifacts": {name: [size, digest] for name, size, digest in artifacts},
        "samples": {name: base64.b64encode(npz).decode() for name, npz in samples},
    }
