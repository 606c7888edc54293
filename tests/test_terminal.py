"""Every listing on a real terminal of 80 columns: no line is longer, so none breaks inside a word."""

from pathlib import Path

import pytest
from compare_helpers import METRICS, WHO, complete
from store_helpers import start
from sweep_helpers import RESULTS, SWEEP, staged_launch
from terminal_helpers import on_terminal, plain, widest

from results_db.contract import Ending, RunRecord, State
from results_db.store.sql import open_store
from sweeps.spec.load import expand_spec

pytestmark = pytest.mark.slow

CURVES = {f"state{number}": ([0, 100, 200], [0.5, 0.6 + number / 10, 1.0]) for number in range(1, 5)}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which the smallest part of `paper` was launched: a run of every cell, the first of which failed."""
    store = open_store(str(tmp_path_factory.mktemp("terminal") / "a.db"), create=True)
    spec, expansion = expand_spec("paper", ["runs=2"])
    staged_launch(store, spec)
    first, *runs = expansion.runs
    attempt = start(store, first.run_id, WHO)
    assert attempt is not None
    error = "RuntimeError: a long message that has to fold into several lines of its narrow column"
    store.end(attempt, Ending(State.FAILED, error=error))
    for number, run in enumerate(runs):
        counts = run.config["experiment"] == "life_count"
        metrics = {**METRICS, "metric": 1 - number / 999, "baseline_perfect": 1.02, "steps": 1234.0}
        metrics = {"correlation": 0.8, "train_accuracy": 1.0} if counts else metrics
        complete(store, RunRecord(run.run_id, "reached", 61.5, metrics, CURVES))
    store.close()
    return store.url


@pytest.mark.parametrize(
    "command",
    [
        *(f"{SWEEP} {words}" for words in ("list", "plan paper", "status paper", "status", "coverage")),
        *(f"{RESULTS} {words}" for words in ("table", "runs", "compare all", "trace --no-plot")),
        f"{RESULTS} table --group gol,model_t,channels,batch,muon_lr",
        f"{RESULTS} runs --state failed",
        f"{RESULTS} runs --where golf=3",
    ],
    ids=lambda command: " ".join(Path(command).name.split()),
)
def test_no_line_is_wider_than_the_terminal(db: str, command: str) -> None:
    assert widest(on_terminal(*command.split(), IMAGINE_DB=db)) <= 80


def test_a_failed_state_has_a_colour(db: str) -> None:
    command = (RESULTS, "runs", "-n", "2", "--db", db)
    assert "\x1b[31mFAILED\x1b[0m" in on_terminal(*command)
    without = on_terminal(*command, NO_COLOR="1")
    assert without == plain(without)
