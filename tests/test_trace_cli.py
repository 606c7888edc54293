"""`imagine-results trace` and `figure strip` from the outside: tables, JSON, files, and refusals of one line."""

import csv
import io
import json
from pathlib import Path

import pytest
from cli_helpers import call, cells, imported_by, output
from matplotlib.image import imread
from picture_helpers import add, curves, run_id, seven

from results_db.contract import PlannedRun
from results_db.store.sql import SqlStore, open_store

SHORT = {number: run_id(number)[:10] for number in range(10)}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_tmp_path")]

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def filled() -> SqlStore:
    """Kept runs of 3/3 (1, 2) and 2/2 (3), one of 3/3 below the gate (4), a diverged one (5), a STAGED one (6),
    a 3/3 without RNN (7), one on fresh boards with a damaged sample (8)."""
    store = open_store(None, create=True)
    boards = {"plain": seven(3, 3), "adversarial": seven(3, 3, noise=0.4)}
    add(store, 1, traces=curves(200, 300, 400), samples=boards)
    add(store, 2, traces=curves(400, 700, 800), samples={"plain": seven(3, 3)})
    add(store, 3, traces=curves(100, 200), gol=2, model_t=2, samples={"plain": seven(2, 2)})
    add(store, 4, traces=curves(500, None, None), accuracy=0.9, outcome="step_limit")
    add(store, 5, accuracy=0.5, outcome="diverged")
    store.stage([PlannedRun(run_id(6), {"experiment": "life_state", "gol": 3, "model_t": 3, "seed": 6})])
    add(store, 7, traces=curves(300, 600, 900), rnn=False)
    add(store, 8, traces=curves(300, 600, 900), reset=1.0, sweep="data_matters", samples={"plain": b"npz"})
    return store


def here() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()} - {"outputs"}


def traced(capsys: Capsys, *args: str) -> dict:
    return json.loads(output(capsys, "trace", *args, "--json", "--no-plot"))


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each of several Markdown tables, without the rules."""
    parts = [[cells(line) for line in part.splitlines()] for part in text.strip().split("\n\n")]
    return [[head, *rows] for head, _, *rows in parts]


# --- trace


def test_the_papers_runs_with_their_means(capsys: Capsys, filled: SqlStore) -> None:
    """The default is the kept runs of `compare learning_order`: 3/3 with autoencoder and RNN, so runs 1 and 2.

    Leads of state 2: 200 of 400 and 400 of 800, mean 300. Of state 3: 100 of 400 (.25) and 100 of 800 (.125), mean
    100, and shares .1875 +- t(1) * .0884 / sqrt(2) = 12.706 * .0625 = .794.
    """
    runs, means = tables(output(capsys, "trace", "--format", "markdown", says="wrote trace.png"))
    assert runs == [
        ["run", "gol", "model_t", "seed", "state2", "state3", "state4", "state2 leads by", "state3 leads by"],
        [SHORT[1], "3", "3", "1", "200", "300", "400", "200 (50%)", "100 (25%)"],
        [SHORT[2], "3", "3", "2", "400", "700", "800", "400 (50%)", "100 (12%)"],
    ]
    assert means == [
        ["gol", "model_t", "state", "runs", "leads by, steps", "leads by, share"],
        # 300 +- 12.706 * 141.42 / sqrt(2) = 12.706 * 100.
        ["3", "3", "state2", "2", "300 [-971, 1,571]", "0.50 [0.50, 0.50]"],
        ["3", "3", "state3", "2", "100 [100, 100]", "0.19 [-0.61, 0.98]"],
    ]
    assert here() == {"trace.png"}
    assert imread("trace.png").shape[1] == 975


def test_a_named_run_whatever_it_reached(capsys: Capsys, filled: SqlStore) -> None:
    file = f"trace-{SHORT[4]}.png"
    (runs,) = tables(output(capsys, "trace", SHORT[4], "--format", "markdown", says=f"wrote {file}"))
    assert runs[1][4:7] == ["500", "never", "never"]
    assert here() == {file}


def test_json(capsys: Capsys, filled: SqlStore) -> None:
    found = traced(capsys, SHORT[1], SHORT[4], SHORT[1][:3])
    assert found["similarity"] == 0.98
    three = {
        "experiment": "life_state",
        "preset": "fast",
        "gol": 3,
        "model_t": 3,
        "ae": True,
        "rnn": True,
        "reset": 0.1,
    }
    steps = {"state2": 200, "state3": 300, "state4": 400, "lead_state2": 200, "lead_state3": 100}
    never = dict.fromkeys(("state3", "state4", "lead_state2", "lead_state3", "share_state2", "share_state3"))
    assert found["runs"] == [
        {"run_id": run_id(1), **three, "seed": 1, **steps, "share_state2": 0.5, "share_state3": 0.25},
        {"run_id": run_id(4), **three, "seed": 4, "state2": 500, **never},
    ]
    lead = {"lead": 200, "lead_low": None, "lead_high": None}
    share = {"share": 0.5, "share_low": None, "share_high": None}
    assert found["means"][0] == {**three, "state": "state2", "runs": 1, **lead, **share}
    assert here() == set()


def test_csv_has_a_column_for_every_state(capsys: Capsys, filled: SqlStore) -> None:
    out = output(capsys, "trace", "--where", "gol<9", "--format", "csv", "--no-plot")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["run_id"] for row in rows] == [run_id(number) for number in (1, 2, 3, 7, 8)]
    assert list(rows[0]) == [
        *("run_id", "experiment", "preset", "gol", "model_t", "ae", "rnn", "reset", "seed"),
        *("state2", "state3", "state4", "lead_state2", "lead_state3", "share_state2", "share_state3"),
    ]
    assert [row["state4"] for row in rows] == ["400", "800", "", "900", "900"]


@pytest.mark.parametrize(
    ("args", "seeds"),
    [
        ([], [1, 2]),
        (["--gate", "train_accuracy>=.5"], [1, 2, 4]),  # 5 has diverged
        (["--where", "rnn=false"], [7]),
        (["--where", "gol=3"], [1, 2, 7, 8]),
        (["--sweep", "data_matters"], [8]),
        ([SHORT[1], SHORT[3], "--where", "gol=2"], [3]),
    ],
)
def test_which_runs(capsys: Capsys, filled: SqlStore, args: list[str], seeds: list[int]) -> None:
    assert [row["seed"] for row in traced(capsys, *args)["runs"]] == seeds


def test_similarity(capsys: Capsys, filled: SqlStore) -> None:
    (row,) = traced(capsys, SHORT[1], "--similarity", "0.8")["runs"]
    assert (row["state4"], row["share_state2"]) == (0, None)  # every curve begins at .85


def test_a_file_of_ones_own(capsys: Capsys, filled: SqlStore) -> None:
    Path("pictures").mkdir()
    args = ["--where", "rnn=true and reset=.1", "-o", "pictures/all.svg"]
    output(capsys, "trace", *args, says="wrote pictures/all.svg")
    text = Path("pictures/all.svg").read_text()
    assert text.startswith("<?xml")
    assert "gol 2, model_t 2" in text
    assert [path.name for path in Path("pictures").iterdir()] == ["all.svg"]


def test_different_networks_have_no_common_mean(capsys: Capsys, filled: SqlStore) -> None:
    """3/3 runs: two with RNN and chain, one without RNN, one on fresh boards, one that counts."""
    count = {"experiment": "life_count", "board": 10, "ae": None, "rnn": None}
    add(filled, 9, traces=curves(300, 600, 900), accuracy=1.0, **count)
    means = traced(capsys, "--where", "gol=3")["means"]
    assert [(row["experiment"], row["rnn"], row["reset"], row["state"], row["runs"]) for row in means] == [
        (*cell, state, runs)
        for cell, runs in (
            (("life_count", None, 0.1), 1),
            (("life_state", False, 0.1), 1),
            (("life_state", True, 0.1), 2),
            (("life_state", True, 1.0), 1),
        )
        for state in ("state2", "state3")
    ]
    _, shown = tables(output(capsys, "trace", "--where", "gol=3", "--no-plot", "--format", "markdown"))
    assert shown[0][:8] == ["experiment", "gol", "model_t", "ae", "rnn", "reset", "state", "runs"]
    assert shown[3][:8] == ["life_state", "3", "3", "true", "false", "0.1", "state2", "1"]


def test_states_of_unequal_timesteps_have_names_of_their_own(capsys: Capsys, filled: SqlStore) -> None:
    """3/2: state2 is h_1 decoded, and may be s_2 or s_3; state3 is the final one."""
    add(filled, 9, traces=curves(100, 400), model_t=2)
    args = ["--format", "markdown", "--no-plot"]
    (alone,) = tables(output(capsys, "trace", SHORT[9], *args))
    assert alone == [
        ["run", "gol", "model_t", "seed", "decoded 2", "final", "decoded 2 leads by"],
        [SHORT[9], "3", "2", "9", "100", "400", "300 (75%)"],
    ]
    runs, means = tables(output(capsys, "trace", SHORT[9], SHORT[1], *args))
    states = ["state2", "state3", "state4", "decoded 2", "final"]
    led = ["state2 leads by", "state3 leads by", "decoded 2 leads by"]
    assert runs[0] == ["run", "gol", "model_t", "seed", *states, *led]
    assert runs[2][4:] == ["", "", "", "100", "400", "", "", "300 (75%)"]
    assert [row[2] for row in means[1:]] == ["decoded 2", "state2", "state3"]
    # JSON keeps the names of the traces.
    (row,) = traced(capsys, SHORT[9])["runs"]
    assert (row["state2"], row["state3"], row["lead_state2"]) == (100, 400, 300)


def test_a_share_that_rounds_to_zero_has_no_sign(capsys: Capsys) -> None:
    # State 2 one step after the final one, at 301 instead of 300: -1/300 is -0.3%.
    steps = [0, 300, 301]
    late = {"state2": (steps, [0.5, 0.5, 1.0]), "state3": (steps, [0.5, 1.0, 1.0])}
    add(open_store(None, create=True), 1, traces=late, gol=2, model_t=2)
    assert "| -1 (0%) |" in output(capsys, "trace", SHORT[1], "--format", "markdown", "--no-plot")


def test_nothing_to_show(capsys: Capsys) -> None:
    open_store(None, create=True).close()
    said = "no run of `compare learning_order` (choose others with --where) is stored in outputs/imagine.db; "
    assert output(capsys, "trace").startswith(said)
    said = "no run with --where 'gol=2' is stored in "
    assert output(capsys, "trace", "--where", "gol=2").startswith(said)
    assert json.loads(output(capsys, "trace", "--json")) == {"similarity": 0.98, "runs": [], "means": []}
    assert (
        output(capsys, "trace", "--format", "csv")
        == "run_id,experiment,preset,gol,model_t,ae,rnn,reset,seed\n"
    )
    assert here() == set()


# --- figure strip


def test_strip_prints_the_name_of_its_file(capsys: Capsys, filled: SqlStore) -> None:
    assert output(capsys, "figure", "strip", SHORT[1]) == f"strip-{SHORT[1]}-all.png\n"
    assert output(capsys, "figure", "strip", SHORT[2], "--pick", "best", "-o", "a.svg") == "a.svg\n"
    assert output(capsys, "figure", "strip", SHORT[3], "--pick", "4711") == f"strip-{SHORT[3]}-4711.png\n"
    assert here() == {f"strip-{SHORT[1]}-all.png", "a.svg", f"strip-{SHORT[3]}-4711.png"}
    both, one = (imread(name).shape for name in (f"strip-{SHORT[1]}-all.png", f"strip-{SHORT[3]}-4711.png"))
    assert both[1] == one[1] == 975
    assert both[0] > 2 * one[0]  # nine rows and two; the nine are smaller, to fit a page


def test_strip_as_json(capsys: Capsys, filled: SqlStore) -> None:
    found = json.loads(output(capsys, "figure", "strip", SHORT[1], "--pick", "median", "--json"))
    scores = {"plain": 0.75, "adversarial": 0.75}
    assert found == {
        "run_id": run_id(1),
        "file": f"strip-{SHORT[1]}-median.png",
        "sequences": [{"pick": "median", "index": 4711, "scores": scores}],
    }
    assert here() == {found["file"]}


# --- refusals


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trace abc", "'abc'"),
        ("trace 0", "8 runs begin with '0'"),
        (f"trace {SHORT[6]}", f"run {SHORT[6]} is STAGED and has no traces of its states"),
        (
            f"trace {SHORT[1]} {SHORT[5]}",
            f"run {SHORT[5]} is COMPLETED and has no traces of its states (diverged)",
        ),
        (f"trace {SHORT[1]} --gate metric>0", "--gate chooses among runs"),
        ("trace -o a.jpg", "'a.jpg' does not end in .png or .svg or .pdf"),
        ("trace -o none/a.png", "the folder none does not exist"),
        ("trace -o outputs", "'outputs' does not end in"),
        ("trace -o a.png --no-plot", "-o names a file to draw into, and --no-plot draws nothing"),
        ("trace --similarity 98", "98.0 is not in the range 0<=x<=1"),
        ("trace --where depth=3", "unknown column 'depth'"),
        ("trace --json --format csv", "--json and --format are two ways to print"),
        (f"figure strip {SHORT[4]}", f"run {SHORT[4]} is COMPLETED (step_limit) and has no decoded boards"),
        (f"figure strip {SHORT[6]}", f"run {SHORT[6]} is STAGED and has no decoded boards"),
        (f"figure strip {SHORT[8]}", "its sample 'plain' is damaged"),
        (f"figure strip {SHORT[1]} --pick 12", "--pick: '12' is none of best, median, worst, all, first"),
        (f"figure strip {SHORT[1]} -o a.jpeg", "'a.jpeg' does not end in .png"),
        (f"figure stripe {SHORT[1]}", "unknown command 'stripe' (did you mean 'strip'?)"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    capsys: Capsys, filled: SqlStore, command: str, says: str
) -> None:
    code, out, err = call(capsys, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith("imagine-results: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert here() == set()


def test_only_drawing_loads_matplotlib(filled: SqlStore) -> None:
    """And nothing loads pyplot, which keeps figures in a global state."""
    assert "matplotlib" not in imported_by("trace", "--no-plot")
    drawn = imported_by("figure", "strip", SHORT[1])
    assert "matplotlib" in drawn
    assert not {"matplotlib.pyplot", "torch"} & drawn
