"""The version of the code that trained each run, whether one trained all or several did."""

from dataclasses import replace

from store_helpers import OTHER, RUN, THIRD, WHO, staged, start

from results_db.contract import RunRecord
from results_db.query.provenance import with_provenance
from results_db.store.sql import SqlStore


def code(store: SqlStore) -> dict[str, str | None]:
    rows = with_provenance(store, store.frame()).records(["run_id", "code"])
    return {row["run_id"]: row["code"] for row in rows}


def test_the_version_is_that_of_the_attempt_that_made_the_result(store: SqlStore) -> None:
    staged(store, RUN, OTHER, THIRD)
    expected: dict[str, str | None] = dict.fromkeys((RUN, OTHER, THIRD))
    assert code(store) == expected
    for run_id, commit in ((RUN, "0abc"), (THIRD, "0abc"), (OTHER, "1def")):
        attempt = start(store, run_id, replace(WHO, git_commit=commit))
        assert store.finish(attempt, RunRecord(run_id, "reached", 1.0, {"metric": 1.0}))
        expected[run_id] = commit
        assert code(store) == expected
