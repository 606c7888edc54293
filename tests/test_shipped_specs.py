"""The specs that ship: the paper's cells with the paper's numbers of runs, and every shared run once."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from jobs.config import resolve
from jobs.pack import group
from sweeps.spec.expand import Expansion
from sweeps.spec.load import about, expand_spec, load, shipped
from sweeps.spec.sample import Distribution

# The paper's tables (arXiv 2405.06409): gol, model_t, autoencoder, RNN, number of runs.
TABLE1 = [
    (2, 2, True, True, 6),
    (3, 3, True, True, 42),
    (4, 4, True, True, 33),
    (3, 3, False, True, 22),
    (3, 3, True, False, 20),
]
TABLE2 = [(2, 3, True, True, 16), (3, 2, True, True, 22)]
TABLE3 = [*TABLE2, (3, 3, True, False, 20), (3, 3, False, True, 10)]
LEARNING_ORDER = [(3, 3, True, True, 15)]
# gol, timesteps of the LSTM, number of runs.
TABLE4 = [(2, 2, 8), (2, 3, 5), (2, 4, 9), (3, 2, 7), (3, 3, 8), (3, 4, 4), (4, 3, 3)]

TABLES = ["table1", "table2", "table3", "learning_order"]
STATE_SPECS = [*TABLES, "contrasts", "channels", "coder_layers"]
WITH_ADAM = {
    *STATE_SPECS,
    "table4",
    "paper",
    "signs",
    "tied",
    "longer",
    "second_decoder",
    "differences",
    "rates",
}
CHESS = {"chess", "chess_cause", "chess_data", "chess_paper"}
SEARCHES = ["paper_search", "paper_search_4", "paper_search_count"]
COUNTING = ["table4", "optimizer_count", "one_shape_count", "paper_search_count"]
PAPER_PRESET = {
    **{name: ["preset=paper"] for name in COUNTING},
    **{name: ["life_state.preset=paper_bce", "life_count.preset=paper"] for name in ("paper", "one_shape")},
}
DRAWN = {
    "channels": Distribution("randint", [2, 40]),
    "enc_layers": Distribution("randint", [1, 2]),
    "step_layers": Distribution("randint", [3, 8]),
    "dec_layers": Distribution("randint", [1, 2]),
    "lr": Distribution("loguniform", [5e-4, 1e-3]),
    "batch": Distribution("choice", [32, 64, 128]),
}
"""What the state task's specs draw for each run. The shapes are those of the authors' search."""


def expanded(name: str, *overrides: str) -> Expansion:
    return expand_spec(name, overrides)[1]


def ids(expansion: Expansion) -> set[str]:
    return {run.run_id for run in expansion.runs}


def cells(expansion: Expansion, *keys: str) -> list[tuple[object, ...]]:
    return [(*(cell.config[key] for key in keys), len(cell.runs)) for cell in expansion.cells]


def values(expansion: Expansion, key: str) -> set[object]:
    return {run.config[key] for run in expansion.runs}


def test_these_ship() -> None:
    ours = {"data_matters", "fast_search", "fast_shape", "quick", "one_shape", "one_shape_count"}
    ours |= {"optimizer", "optimizer_count", "tied", "longer", "second_decoder", "differences", "rates"}
    assert set(shipped()) == {*STATE_SPECS, "table4", "paper", "signs", *SEARCHES, *ours, *CHESS}


@pytest.mark.parametrize(
    ("name", "rows"),
    [("table1", TABLE1), ("table2", TABLE2), ("table3", TABLE3), ("learning_order", LEARNING_ORDER)],
)
@pytest.mark.parametrize("preset", ["fast", "paper_bce", "paper_l2"])
def test_the_cells_and_runs_are_the_papers(name: str, rows: list[tuple[object, ...]], preset: str) -> None:
    expansion = expanded(name, f"preset={preset}")
    assert cells(expansion, "gol", "model_t", "ae", "rnn") == rows
    assert [cell.wanted for cell in expansion.cells] == [row[-1] for row in rows]
    assert (values(expansion, "experiment"), values(expansion, "gan")) == ({"life_state"}, {"posthoc"})


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_table4_has_the_papers_cells_and_enough_runs_for_a_verdict(preset: str) -> None:
    expansion = expanded("table4", f"preset={preset}")
    assert cells(expansion, "gol", "model_t") == [(gol, model_t, 9) for gol, model_t, _ in TABLE4]
    assert (values(expansion, "experiment"), values(expansion, "gan")) == ({"life_count"}, {"posthoc"})


@pytest.mark.parametrize("name", STATE_SPECS)
def test_only_cells_axes_draws_and_the_adversary_differ_from_the_preset(name: str) -> None:
    said = {"gol", "model_t", "ae", "rnn", "gan", "seed", *DRAWN}
    pure = resolve("life_state", "small")
    for run in expanded(name).runs:
        assert {key for key, value in run.config.items() if value != pure[key]} <= said


@pytest.mark.parametrize("name", STATE_SPECS)
def test_the_state_task_draws_the_authors_shapes(name: str) -> None:
    axes = {"channels": {"channels"}, "coder_layers": {"enc_layers", "dec_layers"}}.get(name, set())
    for cell in expanded(name).cells:
        assert dict(cell.sample) == {key: drawn for key, drawn in DRAWN.items() if key not in axes}


def test_equal_seeds_have_equal_draws_in_every_cell_and_spec() -> None:
    """So the two sides of a contrast are networks of the same shapes."""
    drawn: dict[tuple[str, object], set[object]] = {}
    for name in STATE_SPECS:
        for cell in expanded(name).cells:
            for run in cell.runs:
                for key in cell.sample:
                    drawn.setdefault((key, run.config["seed"]), set()).add(run.config[key])
    assert len(drawn) > 6 * 40
    assert {len(found) for found in drawn.values()} == {1}


def test_table_4_draws_the_authors_shapes() -> None:
    shapes = {"channels": [20, 50], "enc_layers": [2, 4], "lstm_layers": [2, 3], "count_layers": [1, 7]}
    for cell in expanded("table4").cells:
        assert {key: cell.sample[key].values for key in shapes} == shapes
        assert cell.sample["lr"].values == [5e-4, 3e-3]


def test_the_presets() -> None:
    """The paper's tables have the authors' optimiser, what was found with Muon has `fast`."""
    searched = {"paper_search": "paper_bce", "paper_search_4": "paper_bce", "paper_search_count": "paper"}
    for name in shipped().keys() - CHESS:
        preset = "small" if name in WITH_ADAM else searched.get(name, "fast")
        assert values(expanded(name), "preset") == {preset}


def test_muon_and_adam_train_equal_shapes() -> None:
    shapes = [key for key in DRAWN if key != "lr"]
    runs = expanded("optimizer").runs
    muon, adam = (
        [
            [run.config[key] for key in (*shapes, "ae", "seed")]
            for run in runs
            if run.config["optimizer"] == name
        ]
        for name in ("muon", "adam")
    )
    assert muon == adam
    assert len(muon) == 36


def test_tied_networks_have_the_shapes_of_the_contrasts() -> None:
    assert all(dict(cell.sample) == DRAWN for cell in expanded("tied").cells)


def test_longer_is_a_chain_with_the_shapes_of_the_contrasts() -> None:
    """Each run starts from one of the same shape with a timestep less."""
    expansion = expanded("longer")
    by_id = {run.run_id: run for run in expansion.runs}
    assert cells(expansion, "gol", "model_t") == [(t, t, 16) for t in range(3, 9)]
    shapes = {key: drawn for key, drawn in DRAWN.items() if key != "lr"}
    assert all(dict(cell.sample) == shapes for cell in expansion.cells)
    for run in expansion.runs:
        if run.config["gol"] != 3:
            start = by_id[run.needs["start"]].config
            assert (start["gol"], start["model_t"]) == (run.config["gol"] - 1, run.config["model_t"] - 1)
            assert all(start[key] == run.config[key] for key in (*shapes, "seed"))


def test_a_second_decoder_reads_a_network_of_the_contrasts() -> None:
    expansion, contrasts = expanded("second_decoder"), ids(expanded("contrasts"))
    second = [run for run in expansion.runs if run.needs]
    assert len(second) == 3 * 16
    assert all(run.needs["start"] in contrasts and run.config["adv_weight"] == 0 for run in second)


def test_each_of_the_differences_changes_one_key_of_a_run_of_the_contrasts() -> None:
    def key_values(run: Any) -> set[tuple[str, object]]:
        return set(run.config.items())

    alone = {
        run.config["seed"]: key_values(run) for run in expanded("contrasts").runs if not run.config["ae"]
    }
    changes = [key_values(run) - alone[run.config["seed"]] for run in expanded("differences").runs]
    wanted = [("loss", "l2"), ("schedule", "constant"), ("board", 20)]
    assert Counter(map(frozenset, changes)) == {frozenset([change]): 16 for change in wanted}


def test_the_rates_have_the_shapes_of_the_contrasts() -> None:
    expansion = expanded("rates")
    assert cells(expansion, "gol", "model_t", "ae", "lr") == [
        (3, 3, False, lr, 16) for lr in (5e-4, 1e-3, 2e-3)
    ]
    assert all(dict(cell.sample) == {k: d for k, d in DRAWN.items() if k != "lr"} for cell in expansion.cells)


def test_the_ablations_vary_one_thing() -> None:
    channels = cells(expanded("channels"), "gol", "model_t", "ae", "rnn", "channels")
    assert channels == [(3, 3, True, True, width, 14) for width in (20, 32)]
    layers = cells(expanded("coder_layers"), "gol", "model_t", "enc_layers", "dec_layers")
    assert layers == [(3, 3, 1, 1, 14), (3, 3, 3, 3, 14)]


def test_table3_trains_nothing_of_its_own() -> None:
    one, two, three = (ids(expanded(name)) for name in ("table1", "table2", "table3"))
    # Its cells 2/3 and 3/2 are all of Table 2; of Table 1 it takes all 20 without RNN and the first 10 of the 22
    # without autoencoder.
    assert two <= three
    assert (len(three & one), three - one - two) == (30, set())


def test_the_learning_order_is_read_from_table_1s_first_runs() -> None:
    first = expanded("table1").cells[1].runs[:15]
    assert [run.run_id for run in expanded("learning_order").runs] == [run.run_id for run in first]


def test_the_contrasts_are_the_first_runs_of_tables_1_and_2() -> None:
    assert ids(expanded("contrasts")) <= ids(expanded("table1")) | ids(expanded("table2"))


def test_one_shape_has_the_cells_of_the_tables_and_draws_nothing() -> None:
    expansion = expanded("one_shape")
    wanted = [*TABLE1, *TABLE2]
    state = [cell for cell in expansion.cells if cell.config["experiment"] == "life_state"]
    count = [cell for cell in expansion.cells if cell.config["experiment"] == "life_count"]
    rows = [
        (*(cell.config[key] for key in ("gol", "model_t", "ae", "rnn")), len(cell.runs)) for cell in state
    ]
    assert rows == wanted
    assert [(cell.config["gol"], cell.config["model_t"], len(cell.runs)) for cell in count] == TABLE4
    assert not any(cell.sample for cell in expansion.cells)


def test_the_paper_is_the_union_of_its_parts() -> None:
    parts = [*TABLES, "channels", "coder_layers", "table4"]
    assert ids(expanded("paper")) == set().union(*(ids(expanded(name)) for name in parts))


def test_how_many_runs_the_paper_takes() -> None:
    whole = expanded("paper")
    # Table 1: 6 + 42 + 33 + 22 + 20 = 123; Table 2: 16 + 22 = 38; Table 3 and the learning order: none of their own;
    # the ablations: 14 a side, but 4 runs have a shape that Table 1 drew; Table 4: 7 * 9 = 63.
    assert len((ids(expanded("channels")) | ids(expanded("coder_layers"))) & ids(expanded("table1"))) == 4
    assert len(whole.runs) == len(ids(whole)) == 123 + 38 + (28 + 28 - 4) + 63 == 276
    # The 3/3 cell is wanted 42 times by Table 1 and 15 times by the learning order.
    (cell,) = [cell for cell in whole.cells if len(cell.runs) == 42]
    assert cell.wanted == 42


def test_data_matters_goes_from_the_chain_to_fresh_boards() -> None:
    expansion = expanded("data_matters")
    assert cells(expansion, "reset") == [(reset, 10) for reset in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert [values(expansion, key) for key in ("gan", "gol", "model_t")] == [{"none"}, {3}, {3}]


def within(drawn: Iterable[object], low: float, high: float) -> bool:
    return all(isinstance(value, int | float) and low <= value <= high for value in drawn)


@pytest.mark.parametrize("preset", ["paper_bce", "paper_l2"])
def test_the_search_draws_from_the_authors_ranges(preset: str) -> None:
    expansion = expanded("paper_search", f"preset={preset}")
    searched = {tuple(row) for row in cells(expansion, "gol", "model_t", "ae", "rnn")}
    assert searched == {(*row[:4], 20) for row in TABLE1 + TABLE2}
    for cell in expansion.cells:
        rates = {run.config["lr"] for run in cell.runs}
        assert len(rates) == 20  # one draw per run
        assert within(rates, *((3e-5, 3e-3) if cell.config["gol"] == 4 else (1e-5, 1e-3)))
    assert within(values(expansion, "channels"), 2, 40)
    # 140 draws: that one of at most six values never comes has a chance below 6 x (5/6)^140 = 5e-11.
    assert values(expansion, "enc_layers") == values(expansion, "dec_layers") == {1, 2}
    assert values(expansion, "step_layers") == {3, 4, 5, 6, 7, 8}


def test_the_search_of_table_4_draws_from_the_authors_ranges() -> None:
    expansion = expanded("paper_search_count")
    assert cells(expansion, "gol", "model_t") == [(gol, model_t, 20) for gol, model_t, _ in TABLE4]
    assert values(expansion, "experiment") == {"life_count"}
    layers = {"enc": (2, 4), "lstm": (2, 3), "count": (1, 7), "adv": (3, 5), "disc": (3, 4)}
    for key, (least, most) in layers.items():
        assert within(values(expansion, f"{key}_layers"), least, most)
    assert within(values(expansion, "disc_width"), 5, 12)
    ranges = {"channels": (20, 50), "lr": (5e-4, 3e-3), "decay": (0.1, 0.7), "adv_weight": (0.1, 2)}
    for key, (low, high) in ranges.items():
        drawn = values(expansion, key)
        assert within(drawn, low, high)
        assert len(drawn) > 10  # of 20 seeds, each of which has one draw in all cells


# Not those with needs, whose preset stays, nor those whose cells are single changes, some of which the authors' presets
# make already.
@pytest.mark.parametrize(
    "name", sorted(shipped().keys() - {"fast_shape", "differences", "longer", "second_decoder", *CHESS})
)
def test_every_spec_takes_the_authors_settings(name: str) -> None:
    overrides = PAPER_PRESET.get(name, ["preset=paper_bce"])
    ours, theirs = expanded(name), expanded(name, *overrides)
    assert len(theirs.cells) == len(ours.cells)
    assert values(theirs, "preset") <= {"paper_bce", "paper"}


def test_runs_of_a_cell_share_a_pack_if_nothing_is_drawn() -> None:
    # Without RNN the shapes differ, and so they do between gol and model_t; the autoencoder is a switch.
    runs = [run for run in expanded("one_shape").runs if run.config["experiment"] == "life_state"]
    shapes = {(run.config["gol"], run.config["model_t"], run.config["rnn"]) for run in runs}
    assert len(group(runs, size=1000)) == len(shapes)


@pytest.mark.parametrize("name", shipped())
def test_a_spec_says_in_one_line_what_it_is_for(name: str) -> None:
    assert 10 < len(about(shipped()[name])) <= 100
    assert load(name).name == name
