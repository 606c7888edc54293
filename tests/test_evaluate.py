"""`python -m jobs.evaluate`: metrics computed again from final weights."""

import json
import os
import shutil
from contextlib import closing

import numpy as np
import pytest
from safetensors.numpy import save
from store_helpers import Prompt
from sweep_helpers import ME, SMALL, opened, small, task_of
from training_helpers import CPU
from user_helpers import NOBODY

from imagination.schema import ConfigError
from jobs.config import resolve
from jobs.evaluate import cli
from jobs.identity import run_id
from jobs.worker import run_pack
from results_db import console
from results_db.contract import PlannedRun, StoreError
from results_db.store import open_store

POSTHOC = {"gan": "posthoc", "adv_steps": 12}
COUNT = {key: value for key, value in SMALL.items() if key not in ("step_layers", "eval_board")} | POSTHOC
COUNT_CONFIG = resolve("life_count", "fast", COUNT)
RUNS = [
    small(seed=1),
    small(seed=2, loss="l2", ae=False),
    small(seed=3, gol=1, model_t=1),
    small(seed=4, optimizer="muon", step_layers=2, **POSTHOC),
    small(seed=5, gan="joint"),
    small(seed=6, adv_lr=1e38, clip_by="none", **POSTHOC),  # an adversary that diverges
    PlannedRun(run_id(COUNT_CONFIG), COUNT_CONFIG),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a store of trained runs, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    store = open_store(str(folder / "a.db"), create=True)
    with closing(Prompt(store)) as delivery:
        for run in RUNS:
            run_pack(task_of(store, run), delivery, device=CPU, provenance=ME, report=lambda event: None)
    store.close()
    return folder


@pytest.fixture
def store(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    store = opened(tmp_path)
    yield store
    store.close()


@pytest.fixture
def evaluate(capfd, store):
    """Runs the command; exit code, standard output, standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            console.run(cli, errors=(StoreError, ConfigError), args=["--db", "a.db", *arguments])
        return ended.value.code, *capfd.readouterr()

    return run


def metrics(store):
    return {run.run_id: store.run(run.run_id)["metrics"] for run in RUNS}


def test_metrics_from_the_weights_are_the_stored_ones(store, evaluate) -> None:
    before = metrics(store)
    code, out, _ = evaluate("--json")
    found = json.loads(out)
    assert code == 0
    assert [each["run_id"] for each in found] == [run.run_id for run in RUNS]
    for each in found:
        stored = before[each["run_id"]]
        assert each["evaluated"] == {
            name: pytest.approx(stored[name], abs=1e-9) for name in each["evaluated"]
        }
        assert each["stored"] == {name: stored[name] for name in each["evaluated"]}
        # All but what only the training knows.
        assert set(stored) - set(each["evaluated"]) == {"train_accuracy", "steps"}
    # Without an intermediate state there is no metric, and of a diverged adversary neither.
    values = [each["evaluated"] for each in found]
    assert [run.get("metric") is None for run in values] == [False, False, True, False, False, False, True]
    adversarial = [run.get("metric_adv", run.get("correlation_adv")) is not None for run in values]
    assert adversarial == [False, False, False, True, True, False, True]
    assert metrics(store) == before


def test_a_table_for_a_person_marks_what_differs(store, evaluate) -> None:
    code, out, _ = evaluate("--where", "seed=1")
    assert code == 0
    assert "differs" not in out
    assert out.startswith(f"run {RUNS[0].run_id[:10]}\n")
    store.replace_metrics(RUNS[0].run_id, {"metric": 0.123})
    code, out, _ = evaluate("--where", "seed=1")
    (line,) = [line for line in out.splitlines() if "differs" in line]
    assert code == 0
    assert line.split()[0] == "metric"
    assert "stored   0.123000" in line


def test_writing_restores_what_was_tampered_with(store, evaluate) -> None:
    before = metrics(store)
    tampered = {"metric": 0.9, "aligned_accuracy": None, "eval_accuracy": 0.0}
    store.replace_metrics(RUNS[0].run_id, tampered)
    assert evaluate("--where", "seed=1")[0] == 0
    assert metrics(store)[RUNS[0].run_id] == before[RUNS[0].run_id] | tampered  # looking changes nothing
    assert evaluate("--where", "seed=1", "--write")[0] == 0
    after = metrics(store)
    assert after[RUNS[0].run_id] == {
        name: value if value is None else pytest.approx(value, abs=1e-9)
        for name, value in before[RUNS[0].run_id].items()
    }
    assert after[RUNS[1].run_id] == before[RUNS[1].run_id]


def weights(store):
    """The first run's."""
    (path,) = (store.folder / "weights").glob(f"{RUNS[0].run_id}.*")
    return path


@pytest.mark.parametrize("damage", ["cut short", "of another network"])
def test_damaged_weights_are_reported(store, evaluate, damage) -> None:
    path = weights(store)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else save({"x": np.zeros(3)}))
    code, _, err = evaluate("--where", f"run_id={RUNS[0].run_id}")
    assert code == 1
    assert "Traceback" not in err
    assert f"run {RUNS[0].run_id[:10]}: weights missing or damaged in {store.folder}" in err


def test_runs_without_weights_are_reported_and_the_others_evaluated(store, evaluate) -> None:
    weights(store).unlink()
    code, out, err = evaluate("--json")
    assert code == 1
    assert [each["run_id"] for each in json.loads(out)] == [run.run_id for run in RUNS[1:]]
    assert f"run {RUNS[0].run_id[:10]}: weights missing or damaged in {store.folder}" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
def test_weights_of_another_user_are_reported(store, evaluate) -> None:
    os.chown(weights(store), NOBODY, NOBODY)
    code, out, err = evaluate("--json", "--write")
    assert (code, len(json.loads(out))) == (1, len(RUNS) - 1)
    assert f"its weights {weights(store)}: it is not believed: user {NOBODY} wrote it" in err


def test_limits_and_filters_choose(evaluate) -> None:
    assert [each["run_id"] for each in json.loads(evaluate("--json", "-n", "1")[1])] == [RUNS[0].run_id]
    code, out, _ = evaluate("--json", "--where", "loss=l2")
    assert code == 0
    assert [each["run_id"] for each in json.loads(out)] == [RUNS[1].run_id]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--where", "seed=99"], "no completed run that matches --where 'seed=99' in"),
        (["--where", "sed=1"], "'sed'"),
        (["--where", "1; drop table run"], "--where"),
        (["--threads", "-1"], "-1"),
        (["--device", "quantum"], "device: 'quantum'"),
        (["-n", "0"], "0"),
        (["--db", "nowhere.db"], "no completed run in nowhere.db"),
        (["--db", "nonsense"], "--db: 'nonsense'"),
    ],
)
def test_bad_input_is_one_line(evaluate, store, tmp_path, arguments, reason) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = evaluate(*arguments)
    (line,) = err.splitlines()
    assert code == 2
    assert out == ""
    assert reason in line
    assert line.startswith("jobs.evaluate: error:")
    assert sorted(tmp_path.rglob("*")) == before
