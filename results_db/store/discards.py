"""Discarded runs: the record of a stored run moves aside, with the attempt that it belongs to."""

import base64
import json
import zlib
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from results_db.contract import State
from results_db.store import models, rows


def discard(connection: Connection, run: rows.RunRow, *, why: str, at: datetime) -> None:
    """Move the record of this locked COMPLETED run aside, and make the run and its newest attempt DISCARDED."""
    newest = rows.newest_attempt(connection, run)
    assert newest is not None  # it completed the run
    record = json.dumps(_record(connection, run.id), separators=(",", ":")).encode()
    values = {"discarded_at": at, "why": why, "record": zlib.compress(record)}
    connection.execute(insert(models.Discarded).values(attempt=newest.id, **values))
    for model in (models.Trace, models.Sample, models.Artifact):
        connection.execute(delete(model).where(model.run == run.id))
    nothing = dict.fromkeys(("outcome", "seconds", "metric_names", "metrics"))
    rows.set_run(connection, run.id, state=State.DISCARDED, ended_at=at, **nothing)
    rows.set_attempt(connection, newest.id, state=State.DISCARDED, error=f"discarded: {why}")


def discarded(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """See `contract.Store.discarded`."""
    table, attempt, run = models.Discarded, models.Attempt, models.Run
    columns = (attempt.number, attempt.restart, table.discarded_at, table.why)
    query = select(*columns, table.record).join(attempt, attempt.id == table.attempt)
    found = []
    ordered = query.join(run, run.id == attempt.run).where(run.run_id == run_id)
    for *about, packed in connection.execute(ordered.order_by(attempt.number, attempt.restart)):
        record = json.loads(zlib.decompress(packed))
        record["samples"] = {name: base64.b64decode(npz) for name, npz in record["samples"].items()}
        names = [column.key for column in columns]
        found.append({**dict(zip(names, about, strict=True)), **record})
    return found


def _record(connection: Connection, run: int) -> dict[str, Any]:
    table, trace, sample = models.Run, models.Trace, models.Sample
    head = connection.execute(select(table.outcome, table.seconds).where(table.id == run)).one()
    traces = connection.execute(
        select(trace.points, trace.steps, trace.values).where(trace.run == run)
    ).first()
    samples = connection.execute(select(sample.name, sample.npz).where(sample.run == run))
    left = models.Artifact
    artifacts = connection.execute(select(left.name, left.size, left.sha256).where(left.run == run))
    return {
        "outcome": head.outcome,
        "seconds": head.seconds,
        "metrics": rows.metrics_of(connection, run),
        "traces": {} if traces is None else rows.traces_in(*traces),
        "artifacts": {name: [size, digest] for name, size, digest in artifacts},
        "samples": {name: base64.b64encode(npz).decode() for name, npz in samples},
    }
