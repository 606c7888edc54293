"""The specs that ship: the paper's cells with the paper's numbers of runs, and every shared run once."""

from collections.abc import Iterable

import pytest

from jobs.config import resolve
from jobs.pack import group
from sweeps.spec.expand import Expansion
from sweeps.spec.load import about, expand_spec, load, shipped

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

STATE_SPECS = ["table1", "table2", "table3", "learning_order", "channels", "coder_layers"]
SEARCHES = ["paper_search", "paper_search_4", "paper_search_count"]
PAPER_PRESET = {
    "table4": ["preset=paper"],
    "paper_search_count": ["preset=paper"],
    "paper": ["life_state.preset=paper_bce", "life_count.preset=paper"],
}


def expanded(name: str, *overrides: str) -> Expansion:
    return expand_spec(name, overrides)[1]


def ids(expansion: Expansion) -> set[str]:
    return {run.run_id for run in expansion.runs}


def cells(expansion: Expansion, *keys: str) -> list[tuple[object, ...]]:
    return [(*(cell.config[key] for key in keys), len(cell.runs)) for cell in expansion.cells]


def values(expansion: Expansion, key: str) -> set[object]:
    return {run.config[key] for run in expansion.runs}


def test_these_ship() -> None:
    ours = {"data_matters", "fast_search", "fast_shape", "quick"}
    assert set(shipped()) == {*STATE_SPECS, "table4", "paper", *SEARCHES, *ours}


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
def test_table4_is_the_papers(preset: str) -> None:
    expansion = expanded("table4", f"preset={preset}")
    assert cells(expansion, "gol", "model_t") == TABLE4
    assert (values(expansion, "experiment"), values(expansion, "gan")) == ({"life_count"}, {"posthoc"})


@pytest.mark.parametrize("name", STATE_SPECS)
@pytest.mark.parametrize("preset", ["fast", "paper_bce", "paper_l2"])
def test_a_preset_is_not_fought_with(name: str, preset: str) -> None:
    # What decides how a run is trained is the preset's: nothing but cells, axes and the adversary is said here.
    varied = {"channels": ["channels"], "coder_layers": ["enc_layers", "dec_layers"]}.get(name, [])
    said = {"gol", "model_t", "ae", "rnn", "gan", "seed", *varied}
    pure = resolve("life_state", preset)
    for run in expanded(name, f"preset={preset}").runs:
        assert {key for key, value in run.config.items() if value != pure[key]} <= said


def test_the_default_preset_is_fast_but_for_what_the_authors_searched() -> None:
    searched = {"paper_search": "paper_bce", "paper_search_4": "paper_bce", "paper_search_count": "paper"}
    for name in shipped():
        assert values(expanded(name), "preset") == {searched.get(name, "fast")}


def test_the_ablations_vary_one_thing() -> None:
    channels = cells(expanded("channels"), "gol", "model_t", "ae", "rnn", "channels")
    assert channels == [(3, 3, True, True, width, 10) for width in (20, 32, 48, 64)]
    layers = cells(expanded("coder_layers"), "gol", "model_t", "enc_layers", "dec_layers")
    assert layers == [(3, 3, 1, 1, 10), (3, 3, 3, 3, 10)]


def test_table3_trains_nothing_of_its_own() -> None:
    one, two, three = (ids(expanded(name)) for name in ("table1", "table2", "table3"))
    # Its cells 2/3 and 3/2 are all of Table 2; of Table 1 it takes all 20 without RNN and the first 10 of the 22
    # without autoencoder.
    assert two <= three
    assert (len(three & one), three - one - two) == (30, set())


def test_the_learning_order_is_read_from_table_1s_first_runs() -> None:
    first = expanded("table1").cells[1].runs[:15]
    assert [run.run_id for run in expanded("learning_order").runs] == [run.run_id for run in first]


@pytest.mark.parametrize("name", ["channels", "coder_layers"])
def test_the_papers_own_cell_of_an_ablation_is_table_1s(name: str) -> None:
    # paper_bce has 20 channels and one convolution in encoder and decoder.
    first = expanded("table1", "preset=paper_bce").cells[1].runs[:10]
    ablation = expanded(name, "preset=paper_bce").cells
    assert [run.run_id for run in ablation[0].runs] == [run.run_id for run in first]
    assert not {run.run_id for cell in ablation[1:] for run in cell.runs} & ids(expanded("table1"))


@pytest.mark.parametrize("overrides", [[], PAPER_PRESET["paper"]], ids=["fast", "paper"])
def test_the_paper_is_the_union_of_its_parts(overrides: list[str]) -> None:
    whole = expanded("paper", *overrides)
    state = [override.removeprefix("life_state.") for override in overrides[:1]]
    count = [override.removeprefix("life_count.") for override in overrides[1:]]
    parts = [ids(expanded(name, *state)) for name in STATE_SPECS] + [ids(expanded("table4", *count))]
    assert ids(whole) == set().union(*parts)
    assert len(whole.runs) == len(ids(whole))


def test_how_many_runs_the_paper_takes() -> None:
    whole = expanded("paper", *PAPER_PRESET["paper"])
    # Table 1: 6 + 42 + 33 + 22 + 20 = 123; Table 2: 16 + 22 = 38; Table 3 and the learning order: none of their own;
    # channels: 3 wider ones of 10; coder layers: 10; Table 4: 8 + 5 + 9 + 7 + 8 + 4 + 3 = 44.
    assert len(whole.runs) == 123 + 38 + 30 + 10 + 44 == 245
    # The 3/3 cell is wanted 42 times by Table 1, 15 by the learning order and 10 by each ablation.
    (cell,) = [cell for cell in whole.cells if len(cell.runs) == 42]
    assert cell.wanted == 42


def test_data_matters_goes_from_the_chain_to_fresh_boards() -> None:
    expansion = expanded("data_matters")
    assert cells(expansion, "reset") == [(reset, 5) for reset in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
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
    # 140 draws: that one of at most eight values never comes has a chance below 8 x (7/8)^140 = 6e-8.
    layers = {"enc": (2, 4), "lstm": (2, 3), "count": (1, 7), "adv": (3, 5), "disc": (3, 4)}
    for key, (least, most) in layers.items():
        assert values(expansion, f"{key}_layers") == set(range(least, most + 1))
    assert values(expansion, "disc_width") == set(range(5, 13))
    ranges = {"channels": (20, 50), "lr": (5e-4, 3e-3), "decay": (0.1, 0.7), "adv_weight": (0.1, 2)}
    for key, (low, high) in ranges.items():
        drawn = values(expansion, key)
        assert within(drawn, low, high)
        assert len(drawn) > 20


# The cells of fast_shape are single changes of `fast`, some of which the authors' presets make already.
@pytest.mark.parametrize("name", sorted(shipped().keys() - {"fast_shape"}))
def test_every_spec_takes_the_authors_settings(name: str) -> None:
    overrides = PAPER_PRESET.get(name, ["preset=paper_bce"])
    ours, theirs = expanded(name), expanded(name, *overrides)
    assert len(theirs.cells) == len(ours.cells)
    assert values(theirs, "preset") <= {"paper_bce", "paper"}


@pytest.mark.parametrize("name", STATE_SPECS[:4])
def test_runs_of_a_cell_share_a_pack(name: str) -> None:
    # Without RNN the shapes differ, and so they do between gol and model_t; the autoencoder is a switch.
    runs = expanded(name).runs
    shapes = {(run.config["gol"], run.config["model_t"], run.config["rnn"]) for run in runs}
    assert len(group(runs, size=1000)) == len(shapes)


@pytest.mark.parametrize("name", shipped())
def test_a_spec_says_in_one_line_what_it_is_for(name: str) -> None:
    assert 10 < len(about(shipped()[name])) <= 100
    assert load(name).name == name
