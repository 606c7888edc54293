"""Tags and notes: columns of a run, and filters."""

import json

import pytest
from cli_helpers import call, output
from compare_helpers import config, store_run
from store_helpers import OTHER, RUN, staged

from results_db.contract import StoreError, UnknownRunError
from results_db.store.labels import note, tag
from results_db.store.sql import SqlStore, open_store

Capsys = pytest.CaptureFixture[str]


def test_labels_are_columns(store: SqlStore) -> None:
    staged(store, RUN, OTHER)
    assert tag(store, [RUN, OTHER], "final") == [RUN, OTHER]
    assert tag(store, [RUN], "also") == [RUN]
    assert tag(store, [RUN, OTHER], "also") == [OTHER]  # the first has it
    note(store, OTHER, " imagines the glider ")
    frame = store.runs()
    assert frame["tag"].tolist() == ["also, final", "also, final"]
    assert frame["note"].tolist() == [None, "imagines the glider"]
    assert tag(store, [OTHER], "final", remove=True) == [OTHER]
    assert tag(store, [OTHER], "final", remove=True) == []
    note(store, OTHER, " ")
    assert store.runs()["tag"].tolist() == ["also, final", "also"]
    assert (store.run(OTHER)["tags"], store.run(OTHER)["note"]) == (["also"], None)


def test_all_or_none(store: SqlStore) -> None:
    staged(store)
    with pytest.raises(UnknownRunError):
        tag(store, [RUN, OTHER], "final")
    assert store.run(RUN)["tags"] == []


@pytest.mark.parametrize("name", ["", "two words", "a,b", "7", "true", "IN", "-a", "a" * 65, "ä"])
def test_a_tag_is_a_word_that_filters_read(store: SqlStore, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be a tag; give a word"):
        tag(store, [], name)


@pytest.fixture
def two(in_tmp_path: None) -> SqlStore:
    """Two stored runs: gol 2 and 3."""
    store = open_store(None, create=True)
    for gol in (2, 3):
        store_run(store, config(gol=gol, seed=0), sweep="quick")
    return store


def test_the_commands(capsys: Capsys, two: SqlStore) -> None:
    first, second = two.runs()["run_id"]
    added = output(capsys, "tag", "final-2", "--where", "gol=3")
    assert added == f"added tag final-2: 1 run: {second[:10]}\n"
    assert output(capsys, "tag", "final-2", "--where", "gol=3") == "no run changed: 1 run with it\n"
    assert output(capsys, "note", first[:8], "odd, but true") == f"{first[:10]}: note written\n"
    for filter_, found in (("tag=final-2", second), ("note != null", first), ("tag = null", first)):
        (row,) = json.loads(output(capsys, "runs", "--where", filter_, "--json"))
        assert row["run_id"] == found
    listed = output(capsys, "runs", "--format", "markdown")
    assert "| tag | note |" in listed
    assert "odd, but true" in listed
    assert "odd, but true" in output(capsys, "show", first)
    assert "tags\n  final-2" in output(capsys, "show", second)
    (row,) = json.loads(output(capsys, "table", "--group", "tag", "--where", "tag=final-2", "--json"))
    assert (row["tag"], row["run"]) == ("final-2", 1)
    removed = json.loads(output(capsys, "tag", "final-2", "--where", "gol>1", "--remove", "--json"))
    assert removed == {"tag": "final-2", "removed": True, "runs": [second]}
    assert output(capsys, "note", first, "") == f"{first[:10]}: note deleted\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("tag", "two words", "--where", "gol=3"), "'two words' cannot be a tag; give a word of at most 64"),
        (("tag", "final"), "Missing option '--where'"),
        (("tag", "final", "--where", "golf=3"), "unknown column 'golf'"),
        (("tag", "final", "--where", "gol=3", "--sweep", "quik"), "(did you mean 'quick'?)"),
        (("note", "zz", "x"), "'zz' is not the beginning of a run id"),
        (("note", "ff", "x"), "no run begins with 'ff'"),
        (("note", "ab"), "Missing argument 'TEXT'"),
    ],
)
def test_bad_input(capsys: Capsys, two: SqlStore, args: tuple[str, ...], says: str) -> None:
    code, out, err = call(capsys, *args)
    assert (code, out, err.count("\n"), says in err) == (2, "", 1, True), err
