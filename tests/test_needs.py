"""Runs that build on runs and on files: the package `tests/chain_experiment`, installed and launched."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, event
from store_helpers import WHO
from sweep_helpers import RESULTS, SWEEP, answer, opened, run, wait_until
from user_helpers import NOBODY

from imagination import registry
from imagination.schema import build
from jobs.evaluate import evaluate
from jobs.needs import find
from jobs.pack import Pack, depths_of, group
from results_db.contract import Attempt, RunRecord, State, StoreError
from results_db.files import Files, write_atomically
from results_db.spool.records import Spool, Spooled
from results_db.spool.results import Result, result
from results_db.store.sql import open_store
from slurm.submit.dispatch import in_levels
from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand, in_breadth_first_order
from sweeps.spec.load import load
from sweeps.status.blocked import blocked

CHAIN = Path(__file__).with_name("chain_experiment") / "chain.yaml"
NUMBERS = np.random.default_rng(0).integers(1, 100, 10)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, installed) -> Path:
    """A folder with the chain's spec, where its package is installed."""
    installed("chain_experiment")
    shutil.copy(CHAIN, tmp_path / "s.yaml")
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "s.yaml").write_text(text)


def launch(folder: Path, *arguments: str):
    return answer("launch", "s.yaml", "--db", "a.db", "--json", "--workers", "2", *arguments, folder=folder)


def by_experiment(folder: Path) -> dict[str, list[str]]:
    """The ids of the stored runs of each experiment."""
    with closing(opened(folder)) as store:
        frame = store.runs()
    return {name: list(rows["run_id"]) for name, rows in frame.groupby("experiment")}


def test_a_chain_is_planned_trained_in_order_and_shown_both_ways(folder) -> None:
    plan = answer("plan", "s.yaml", "--db", "a.db", "--json", folder=folder).json
    assert plan["total"] == plan["to_submit"] == 4  # two of the four are the same source
    said = launch(folder)
    assert said.code == 0, said.err
    ids = by_experiment(folder)
    (source,), steps, (join,) = (ids[f"chain_{name}"] for name in ("source", "step", "join"))
    with closing(opened(folder)) as store:
        assert set(store.states([source, *steps, join]).values()) == {State.COMPLETED}
        assert store.run(join)["metrics"]["total"] == 2 * NUMBERS.sum() + 3 * NUMBERS.sum()
        assert sorted(store.needs(join)) == ["left", "right"]
        sides = store.needs(join)
        assert set(sides.values()) == set(steps)
        assert sorted(store.needed_by(source)) == sorted(steps)
        ended = {run_id: store.attempts(run_id)[-1] for run_id in (source, *steps, join)}
        assert ended[source]["ended_at"] <= min(ended[step]["started_at"] for step in steps)
        # What a run leaves lies beside the store, and is listed with its size and digest.
        number, restart, nonce = (ended[source][name] for name in ("number", "restart", "nonce"))
        left = Files(store.folder).artifacts(Attempt(source, number, restart, nonce))
        found = {path.name.split("-", 2)[2]: path.read_bytes() for path in left}
        assert {name: (one.size, one.sha256) for name, one in store.artifacts(source).items()} == {
            name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in found.items()
        }
        assert found["note.txt"] == b"ten numbers"
    # `show` follows the chain to its ends, both ways.
    shown = run(RESULTS, "show", join, "--db", "a.db", folder=folder).stdout
    down = (
        "needs\n"
        f"  left      {sides['left'][:10]}  chain_step  COMPLETED\n"
        f"    source  {source[:10]}  chain_source  COMPLETED\n"
        f"  right     {sides['right'][:10]}  chain_step  COMPLETED\n"
        f"    source  {source[:10]}  chain_source  COMPLETED\n"
    )
    assert down in shown
    shown = run(RESULTS, "show", source, "--db", "a.db", folder=folder).stdout
    assert "artifacts\n  note.txt             11 bytes\n  numbers.safetensors  " in shown
    for side, step in sides.items():
        assert (
            f"  source   {step[:10]}  chain_step  COMPLETED\n    {side:<5}  {join[:10]}  chain_join  COMPLETED"
            in shown
        )
    told = json.loads(run(RESULTS, "show", source, "--db", "a.db", "--json", folder=folder).stdout)[
        "needed_by"
    ]
    ends = {(step["depth"], step["key"]) for step in told if step["run_id"] == join}
    assert ends == {(2, "left"), (2, "right")}
    assert launch(folder).json["trained"] == {}


def begun(folder: Path) -> bool:
    """Whether the step with 60 rounds has reported a step."""
    with closing(opened(folder)) as store:
        return any(one.step for one in store.open_attempts())


@pytest.mark.fault
def test_a_chain_that_is_stopped_goes_on(folder) -> None:
    write(folder, CHAIN.read_text().replace("factor: 2", "factor: 2\n    rounds: 60"))
    command = (SWEEP, "launch", "s.yaml", "--db", "a.db", "--workers", "2")
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as stopped:
        checkpoints = folder / "a.files" / "checkpoints"
        wait_until(lambda: (folder / "a.db").exists() and begun(folder))
        stopped.send_signal(signal.SIGINT)
        stopped.communicate(timeout=60)
        assert stopped.returncode == 130
    assert len(list(checkpoints.iterdir())) == 1  # of the longer step
    assert launch(folder).code == 0
    with closing(opened(folder)) as store:
        (join,) = by_experiment(folder)["chain_join"]
        assert store.run(join)["metrics"]["total"] == (2 * 60 + 3) * NUMBERS.sum()
    assert list(checkpoints.iterdir()) == []


def test_what_builds_on_a_run_below_its_gate_is_blocked(folder) -> None:
    write(folder, CHAIN.read_text().replace("chain_source, seed: 0", "chain_source, quality: 0.1, seed: 0"))
    first = launch(folder)
    assert first.code == 1
    (source,) = by_experiment(folder)["chain_source"]
    with closing(opened(folder)) as store:
        for step in by_experiment(folder)["chain_step"]:
            (tried,) = store.attempts(step)
            assert tried["state"] == State.CANCELLED
            assert tried["error"] == f"its need source, run {source[:10]}, is below its gate good >= 0.5"
    # So are those that build on the steps; they are neither interrupted nor to be submitted, and nothing says so.
    line = f"s: 3 runs blocked, because run {source[:10]}, which they need, is below its gate good >= 0.5"
    assert line in first.err
    assert "s: 1 of 4 runs stored, 3 blocked" in first.err
    assert "interrupted" not in first.err
    again = launch(folder)
    assert (again.code, again.json["trained"]) == (1, {})
    assert line in again.err
    for command in (("plan", "s.yaml"), ("launch", "s.yaml", "--dry-run")):
        planned = answer(*command, "--db", "a.db", "--json", folder=folder).json
        assert (planned["blocked"], planned["to_submit"], planned["total"]) == (3, 0, 4)
        assert planned["why_blocked"] == [line.removeprefix("s: ")]
        said = answer(*command, "--db", "a.db", folder=folder).out
        assert line in said
        assert "s: 4 runs = 1 stored + 0 active + 0 failed + 0 to submit + 3 blocked" in said
    # So do those that follow the sweep.
    (row,) = answer("watch", "s.yaml", "--once", "--json", "--db", "a.db", folder=folder).json["cells"][-1:]
    assert (row["counts"]["blocked"], row["counts"]["interrupted"]) == (1, 0)
    watched = answer("watch", "s.yaml", "--once", "--db", "a.db", folder=folder)
    assert watched.code == 1
    assert line.removeprefix("s: ") in watched.out
    rows = answer("status", "s.yaml", "--db", "a.db", "--json", folder=folder).json
    assert [row["counts"]["blocked"] for row in rows] == [0, 1, 1, 1]
    (row,) = answer("status", "--db", "a.db", "--json", folder=folder).json
    assert row["states"] == {"COMPLETED": 1, "BLOCKED": 3}
    assert (row["sweep"], row["counts"]["stored"], row["counts"]["blocked"]) == ("s", 1, 3)
    topped = answer("top-up", "s.yaml", "--db", "a.db", folder=folder)
    assert topped.err.splitlines() == [
        line.removeprefix("s: "),
        "s: nothing to launch; see imagine-sweep coverage",
    ]
    assert topped.code == 1
    covered = answer("coverage", "s.yaml", "--db", "a.db", "--json", folder=folder).json
    assert [(row["blocked"], row["top_up"]) for row in covered] == [(0, 0), (1, 0), (1, 0), (1, 0)]
    assert [row["held_back"] for row in covered] == [0, 0, 0, 1]


def test_what_builds_on_a_failed_run_is_blocked_until_it_is_trained_again(folder) -> None:
    code = folder / "site" / "chain" / "runs.py"
    whole = code.read_text()
    code.write_text(
        whole.replace("def source(config, recorder):", "def source(config, recorder):\n    1 / 0")
    )
    said = launch(folder)
    assert said.code == 1
    assert (said.json["failed"], said.json["blocked"], said.json["to_submit"]) == (1, 3, 0)
    (line,) = said.json["why_blocked"]
    assert re.fullmatch(
        r"3 runs blocked, because run \w{10}, which they need, failed; imagine-sweep retry trains it again",
        line,
    )
    code.write_text(whole)
    planned = answer("plan", "s.yaml", "--db", "a.db", "--retry-failed", "--json", folder=folder).json
    assert (planned["blocked"], planned["to_submit"]) == (0, 4)
    assert launch(folder, "--retry-failed").json["stored"] == 4


def test_a_top_up_takes_needed_runs_along(folder) -> None:
    write(
        folder, "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [seed]}}\nruns: 2\n"
    )
    planned = answer("top-up", "s.yaml", "--db", "a.db", "--dry-run", "--json", folder=folder)
    assert (planned.code, planned.err) == (0, "")
    assert [(row["experiment"], row["top_up"], row["held_back"]) for row in planned.json] == [
        ("chain_source", 2, 0),
        ("chain_step", 2, 0),
    ]


def test_a_gate_of_an_experiment_that_the_store_lacks(folder) -> None:
    assert launch(folder).code == 0
    (folder / "life.yaml").write_text("experiment: life_state\nruns: 2\n")
    asked = ("coverage", "life.yaml", "--db", "a.db", "--json", "--gate")
    (row,) = answer(*asked, "train_accuracy>=.95", folder=folder).json
    assert (row["kept"], row["missing"]) == (0, 2)
    refused = answer(*asked, "train_acuracy>=.95", folder=folder)
    assert refused.code == 2
    assert "did you mean 'train_accuracy'?" in refused.err


def test_what_a_stored_run_needs_is_not_discarded_alone(folder) -> None:
    assert launch(folder).code == 0
    ids = by_experiment(folder)
    with closing(opened(folder)) as store:
        with pytest.raises(
            StoreError, match=r"is needed by stored runs such as \w{10}; discard these as well"
        ):
            store.discard(ids["chain_source"], why="wrong numbers")
        store.discard([run_id for each in ids.values() for run_id in each], why="wrong numbers")
    assert launch(folder).json["stored"] == 4


ASSET = """\
experiment: chain_step
needs: {{source: {{asset: numbers.npy, sha256: {digest}, from: "https://example.org/numbers"}}}}
"""


def test_a_file_is_copied_beside_the_store_and_named_by_its_digest(folder) -> None:
    np.save(folder / "numbers.npy", NUMBERS)
    digest = hashlib.sha256((folder / "numbers.npy").read_bytes()).hexdigest()
    write(folder, ASSET.format(digest=digest))
    for command in ("coverage", "plan"):
        found = answer(command, "s.yaml", "--db", "a.db", "--json", folder=folder).json
        (row,) = found["cells"] if command == "plan" else found
        assert (row["to_submit"], row["blocked"]) == (1, 0)
    assert launch(folder).code == 0
    with closing(opened(folder)) as store:
        (step,) = by_experiment(folder)["chain_step"]
        assert store.run(step)["metrics"]["sum"] == 2 * NUMBERS.sum()
        assert store.run(step)["config"]["source"] == f"sha256:{digest}"
    (folder / "numbers.npy").unlink()  # it is beside the store now
    assert launch(folder, "factor=5").code == 0


def test_a_file_that_is_missing_or_another_one(folder) -> None:
    write(folder, ASSET.format(digest="ab" * 32))
    missing = launch(folder)
    assert missing.code == 2
    assert "numbers.npy is missing; get it from https://example.org/numbers" in missing.err
    planned = answer("plan", "s.yaml", "--db", "a.db", folder=folder)
    assert (planned.code, planned.err) == (2, missing.err)
    np.save(folder / "numbers.npy", NUMBERS)
    other = launch(folder)
    assert other.code == 2
    assert f"not {'ab' * 32}; get it from https://example.org/numbers" in other.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment: chain_step\n", "source: missing; a spec names it under `needs:`"),
        (
            "experiment: chain_step\nneeds: {sauce: {}}\n",
            "needs no 'sauce' (did you mean 'source'?); it needs source",
        ),
        (
            "experiment: chess_positions\nneeds: {network: {}}\n",
            "chess_positions needs no 'network'; it needs nothing",
        ),
        (
            "experiment: chain_step\nneeds: {source: {seed: 0}}\n",
            "experiment is missing; give one of chain_source",
        ),
        (
            "experiment: chain_step\nneeds: {source: {experiment: life_state}}\n",
            "a run of 'life_state' does not fit; it takes chain_source",
        ),
        ("experiment: chain_step\nneeds: {source: {experiment: chain_source, q: 1}}\n", "unknown key 'q'"),
        (
            "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [factor]}}\n",
            "same: factor is not a key of both experiments",
        ),
        (
            "experiment: chain_join\nneeds: {left: {asset: a.npy}}\n",
            "takes no file; give a run of chain_step",
        ),
        (
            "experiment: chain_step\nneeds: {source: {asset: a.npy, sha256: ab}}\n",
            "is not a digest of 64 characters",
        ),
        ("experiment: chain_step\nbase: {source: abc}\n", "neither a whole run id nor sha256: and a digest"),
        (
            f"experiment: chain_step\nbase: {{source: {'ab' * 32}}}\nneeds: {{source: {{experiment: chain_source}}}}\n",
            "source: varies in needs and in base; keep one of them",
        ),
        (
            f"experiment: chain_join\nbase: {{left: sha256:{'ab' * 32}}}\n",
            "is a file; give the id of a run of chain_step",
        ),
        (
            "experiment: chain_step\nneeds: {source: {experiment: chain_source, size: 3, same: [size]}}\n",
            "s.yaml:2: needs.source: size is given by same and by the values; keep one of them",
        ),
        (
            f"experiment: chain_join\nneeds:\n  right: {{experiment: chain_step, source: {'ab' * 32},"
            " needs: {source: {experiment: chain_source}}}\n",
            "s.yaml:3: needs.right: source is given by needs and by the values; keep one of them",
        ),
        (
            "experiment: chain_step\nbase: {size: 20}\n"
            "needs:\n  source: {experiment: chain_source, same: [size]}\n",
            "s.yaml:4: needs.source: size: 20 is above 10, the largest allowed",
        ),
        # A circle can only be written with an alias that contains itself.
        (
            "experiment: chain_join\nneeds: &n {left: {experiment: chain_step, needs: *n}}\n",
            "s.yaml:2: YAML syntax: *n stands inside &n, which is a circle; remove it",
        ),
    ],
)
def test_bad_needs(folder, text: str, said: str) -> None:
    write(folder, text)
    refused = answer("plan", "s.yaml", "--db", "a.db", folder=folder)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert said in refused.err


def refusal(folder: Path) -> str:
    """The one line with which `plan`, `launch --dry-run` and `launch` refuse the spec with exit code 2."""
    commands = (("plan",), ("launch", "--dry-run"), ("launch",))
    said = [answer(*command, "s.yaml", "--db", "a.db", folder=folder) for command in commands]
    assert [(one.code, one.out) for one in said] == [(2, "")] * 3
    (text,) = {one.err for one in said}
    (line,) = text.splitlines()
    return line


def test_a_need_that_is_nowhere_is_refused(folder) -> None:
    lacking = "ab" * 32
    write(folder, f"experiment: chain_step\nbase: {{source: {lacking}}}\n")
    assert refusal(folder).endswith(
        f"source: run {lacking[:10]} is not in a.db; give the id of a run that is, or a run's settings under `needs:`"
    )
    # Also of a run that is itself needed.
    step = f"{{experiment: chain_step, source: {lacking}}}"
    write(folder, f"experiment: chain_join\nneeds:\n  left: {step}\n  right: {step}\n")
    assert f"source: run {lacking[:10]} is not in a.db" in refusal(folder)
    # A run that exists, but is not trained yet, only blocks.
    write(folder, "experiment: chain_source\n")
    (source,) = expand(load(folder / "s.yaml")).runs
    with closing(open_store(str(folder / "a.db"), create=True)) as store:
        store.stage([source])
    write(folder, f"experiment: chain_step\nbase: {{source: {source.run_id}}}\n")
    said = launch(folder)
    assert (said.code, said.json["blocked"]) == (1, 1)
    assert "is not trained yet; launch it first" in said.err


def test_a_file_that_is_named_by_its_digest_is_checked_before_anything_trains(folder) -> None:
    np.save(folder / "numbers.npy", NUMBERS)
    digest = hashlib.sha256((folder / "numbers.npy").read_bytes()).hexdigest()
    by_digest = f"experiment: chain_step\nbase: {{source: sha256:{digest}}}\n"
    kept, named = Path("a.files/assets") / digest, f"needs: the file sha256:{digest[:10]}"
    write(folder, by_digest)
    assert f"{named} is missing in a.files/assets; name its path (asset) under `needs:`" in refusal(folder)
    for text in (ASSET.format(digest=digest), by_digest):
        write(folder, text)
        assert launch(folder, "seeds=2").json["stored"] == 2
    (folder / kept).write_bytes(b"torn")
    # What is stored needs it no more. For other runs, an earlier launch says where to get it.
    assert launch(folder, "seeds=2").code == 0
    write(folder, by_digest + "seeds: 3\n")
    get = "get it from https://example.org/numbers and name its path (asset) under `needs:`"
    assert f"{named} is damaged in a.files/assets; {get}" in refusal(folder)
    with closing(opened(folder)) as store:
        assert not store.open_attempts()
        assert not store.ended_attempts({State.CANCELLED})


def test_a_needed_run_that_contradicts_the_config_is_refused(folder) -> None:
    """Whether the spec names it by settings, or by its id."""
    write(folder, "experiment: chain_source\nbase: {size: 1}\n")
    (source,) = expand(load(folder / "s.yaml")).runs
    assert launch(folder).code == 0
    for needs in (
        "needs: {source: {experiment: chain_source, size: 1}}",
        f"base: {{source: {source.run_id}}}",
    ):
        write(folder, f"experiment: chain_fit\n{needs}\n")
        assert "source: one number is too few; give a source of at least 2" in refusal(folder)


def test_a_needed_run_of_another_experiment_is_refused(folder) -> None:
    assert launch(folder).code == 0
    (join,) = by_experiment(folder)["chain_join"]
    write(folder, f"experiment: chain_step\nbase: {{source: {join}}}\n")
    for command in ("plan", "launch"):
        refused = answer(command, "s.yaml", "--db", "a.db", folder=folder)
        assert refused.code == 2
        assert refused.err.endswith(f"source: run {join[:10]} is of chain_join; give a run of chain_source\n")
    # Nor is it trained by hand.
    ((met,),) = [needs_of(folder, {"experiment": "chain_step", "source": join})]
    assert str(met) == f"its need source, run {join[:10]}, is of chain_join; it takes a run of chain_source"


def needs_of(folder: Path, config: dict[str, str]):
    """What a run with this config builds on."""
    with closing(opened(folder)) as store:
        return find([build(registry.config_type(config["experiment"]), config)], store)


def test_a_need_may_take_the_seed_of_the_run(folder) -> None:
    write(
        folder, "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [seed]}}\nruns: 3\n"
    )
    expansion = expand(load(folder / "s.yaml"))
    assert len(expansion.runs) == 6
    by_id = {one.run_id: one for one in expansion.runs}
    (cell,) = expansion.own
    for one in cell.runs:
        assert by_id[one.needs["source"]].config["seed"] == one.config["seed"]
    # What others need comes first, also in jobs.
    order = in_breadth_first_order(expansion)
    assert [depths_of(order)[one.run_id] for one in order] == [0, 0, 0, 1, 1, 1]
    levels = in_levels([Pack((one,)) for one in order])
    assert [len(level) for level in levels] == [3, 3]
    # A chosen run brings what it needs.
    assert launch(folder, "--where", "seed = 2 and experiment = chain_step").json["stored"] == 2


def test_a_spec_that_was_stored_is_launched_again_by_its_name(folder) -> None:
    assert launch(folder).code == 0
    (folder / "s.yaml").unlink()
    assert answer("plan", "s", "--db", "a.db", "--json", folder=folder).json["stored"] == 4


def test_a_broken_package_leaves_only_its_own_experiments_out(folder, installed) -> None:
    installed("broken_experiment")
    assert launch(folder).code == 0
    for name, why in {
        "broken": "broken.module:BROKEN cannot be imported: RuntimeError: no such module here",
        "torn": "the gate 'bad >= 0.5' is about a metric that metrics lacks",
    }.items():
        write(folder, f"experiment: {name}\n")
        said = answer("plan", "s.yaml", "--db", "a.db", folder=folder)
        assert said.code == 2
        assert f"experiment '{name}': {why}" in said.err
    # It cannot replace one of ours.
    write(folder, "experiment: life_state\nruns: 1\n")
    assert answer("plan", "s.yaml", "--db", "a.db", folder=folder).code == 0


def test_a_need_may_take_over_a_drawn_value_whose_default_does_not_fit_it(folder) -> None:
    """A source has a size of at most 10, and the default of a step is 20."""
    write(
        folder,
        "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [size, seed]}}\n"
        "sample: {size: {choice: [3, 4]}}\nruns: 3\n",
    )
    runs = expand(load(folder / "s.yaml")).runs
    sources = {run.run_id: run.config for run in runs if run.config["experiment"] == "chain_source"}
    steps = [run.config for run in runs if run.config["experiment"] == "chain_step"]
    assert len(steps) == len(sources) == 3
    for step in steps:
        source = sources[str(step["source"])]
        assert [source[key] for key in ("size", "seed")] == [step[key] for key in ("size", "seed")]
        assert step["size"] in (3, 4)
    write(
        folder,
        "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [size]}}\n"
        "sample: {size: {choice: [11, 12]}}\nruns: 3\n",
    )
    with pytest.raises(SpecError, match=r"seed 0 \(and 2 more of 3\): needs.source: size: 1[12] is above 10"):
        expand(load(folder / "s.yaml"))


def test_a_forged_or_outdated_record_is_no_need(folder) -> None:
    """A record counts before it is in the store only if the store believes it and claimed its attempt."""
    write(folder, CHAIN.read_text().replace("factor: 2", "factor: 2\n    rounds: 1"))
    expansion = expand(load(folder / "s.yaml"))
    (source,) = [one for one in expansion.runs if one.config["experiment"] == "chain_source"]
    with closing(open_store(str(folder / "a.db"), create=True)) as store:
        store.stage([source])
        (attempt,) = store.claim([source.run_id], launcher="local")
        store.begin(attempt, WHO)
        record = RunRecord(source.run_id, "done", 1.0, {"good": 1.0})
        for number, believed in ((7, False), (attempt.number, True)):
            Spool(store.folder).write(Spooled(replace(attempt, number=number), record, WHO, 1.0))
            assert isinstance(result(store, source.run_id), Result) is believed
        step = next(one for one in expansion.runs if list(one.needs.values()) == [source.run_id])
        weights = Files(store.folder).weights(attempt)
        write_atomically(weights, b"x")
        assert needs_of(folder, step.config)[0]["source"].files == {"weights": weights}
        if os.geteuid() == 0:
            os.chown(weights, NOBODY, NOBODY)
            assert "it is not believed: user" in str(needs_of(folder, step.config)[0])
            os.chown(Spool(store.folder).path(attempt), NOBODY, NOBODY)
            assert result(store, source.run_id) is State.RUNNING


def test_a_run_that_many_need_is_looked_up_once(folder) -> None:
    """By a worker, whose pack shares it, and by a launch."""
    write(folder, "experiment: chain_step\nneeds: {source: {experiment: chain_source}}\nruns: 9\n")
    runs = expand(load(folder / "s.yaml")).runs
    (source, *steps) = runs
    with closing(open_store(str(folder / "a.db"), create=True)) as store:
        store.stage([source])
        (attempt,) = store.claim([source.run_id], launcher="local")
        store.begin(attempt, WHO)
        store.finish(attempt, RunRecord(source.run_id, "done", 1.0, {"good": 1.0}))
        kind = registry.config_type("chain_step")
        configs = [build(kind, step.config) for step in steps]
        met, once = statements(lambda: find(configs[:1], store))
        all_met, for_nine = statements(lambda: find(configs, store))
        assert once == for_nine > 0
        assert [one["source"].metrics for one in (*met, *all_met)] == [{"good": 1.0}] * 10


def test_a_launch_asks_for_all_needs_at_once(folder) -> None:
    write(
        folder,
        "experiment: chain_step\nneeds: {source: {experiment: chain_source, same: [seed]}}\nruns: 9\n",
    )
    runs = expand(load(folder / "s.yaml")).runs
    sources, steps = runs[:9], runs[9:]
    with closing(open_store(str(folder / "a.db"), create=True)) as store:
        store.stage(sources)
        for seed, attempt in enumerate(store.claim([one.run_id for one in sources], launcher="local")):
            store.begin(attempt, WHO)
            outcome, good = [("done", 1.0), ("done", 0.1), ("diverged", 1.0)][min(seed, 2)]
            store.finish(attempt, RunRecord(attempt.run_id, outcome, 1.0, {"good": good}))
        one, for_one = statements(lambda: blocked(steps[:1], {}, store))
        every, for_all = statements(lambda: blocked(steps, {}, store))
        assert (one, for_one) == ({}, for_all)
        said = [every.get(step.run_id) for step in steps]
        assert said[0] is None
        assert said[1].endswith("which they need, is below its gate good >= 0.5")
        assert all(line.endswith("which they need, diverged") for line in said[2:])


def statements(act):
    """What it returns, and the number of its SQL statements."""
    asked = []

    def note(*about):
        asked.append(about[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        answered = act()
        return answered, len(asked)
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_a_need_whose_files_changed_is_not_built_on(folder) -> None:
    assert launch(folder, "--where", "experiment = chain_source").code == 0
    (left,) = (folder / "a.files" / "artifacts").glob("*-numbers.safetensors")
    left.write_bytes(left.read_bytes()[:-1] + b"x")
    assert launch(folder).code == 1
    with closing(opened(folder)) as store:
        for step in by_experiment(folder)["chain_step"]:
            assert "which is missing or damaged" in store.attempts(step)[-1]["error"]


FIT = """\
experiment: chain_fit
needs: {source: {experiment: chain_source}}
runs: 3
"""


def test_runs_that_need_the_same_share_a_pack(folder) -> None:
    """So that their runner reads it, and passes data through it, once: seeds share a pack, sources do not."""
    write(folder, "experiment: chain_source\nruns: 2\n")
    sources = [run.run_id for run in expand(load(folder / "s.yaml")).runs]
    write(folder, f"experiment: chain_fit\ngrid: {{source: [{', '.join(sources)}]}}\nruns: 3\n")
    packs = group(in_breadth_first_order(expand(load(folder / "s.yaml"))), size=16)
    assert [[run.config["seed"] for run in pack.runs] for pack in packs] == [[0, 1, 2]] * 2
    assert [{run.needs["source"] for run in pack.runs} for pack in packs] == [{source} for source in sources]


def test_a_pack_of_the_trainer_builds_on_a_need_and_is_evaluated_with_it(folder) -> None:
    write(folder, FIT)
    said = launch(folder, "--pack-size", "3")
    assert said.code == 0, said.err
    fits = by_experiment(folder)["chain_fit"]
    device = torch.device("cpu")
    with closing(opened(folder)) as store:
        for fit in fits:
            run = store.run(fit)
            assert run["metrics"]["learned"] == pytest.approx(NUMBERS.sum(), abs=0.01)
            assert evaluate(store, fit, run["config"], device=device) == pytest.approx(
                {"learned": run["metrics"]["learned"]}
            )
        # Without the need there is nothing to evaluate with.
        (numbers,) = (folder / "a.files" / "artifacts").glob("*-numbers.safetensors")
        numbers.write_bytes(b"")
    refused = subprocess.run(
        (sys.executable, "-m", "jobs.evaluate", "--db", "a.db", "--where", "experiment = chain_fit"),
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert refused.stderr.count("which is missing or damaged\n") == 3
