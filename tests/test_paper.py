"""The paper's numbers, compared with its tables as they are printed."""

import pandas as pd
import pytest

from imagination.paper import Effect
from imagination.registry import config_type
from imagination.schema import keys
from results_db.contract import StoreError
from results_db.paper import numbers
from results_db.query import where
from sweeps.spec.load import shipped

TABLE_1 = """
| 2 | True | True | 6 | 1.00 |
| 3 | True | True | 42 | 0.99 |
| 4 | True | True | 33 | 0.93 |
| 3 | False | True | 22 | 0.56 |
| 3 | True | False | 20 | 0.40 |
"""
TABLE_2 = """
| 2 | 3 | 16 | 0.73 |
| 3 | 2 | 22 | 0.74 |
"""
TABLE_3 = """
| 2 | 3 | True | True | 16 | 0.58 | 0.65 |
| 3 | 2 | True | True | 22 | 0.15 | 0.71 |
| 3 | 3 | True | False | 20 | 0.11 | 0.40 |
| 3 | 3 | False | True | 10 | 0.44 | 0.43 |
"""
TABLE_4 = """
| 2 | 2 | 0.79 | 8 |
| 2 | 3 | 0.81 | 5 |
| 2 | 4 | 0.73 | 9 |
| 3 | 2 | 0.93 | 7 |
| 3 | 3 | 0.76 | 8 |
| 3 | 4 | 0.76 | 4 |
| 4 | 3 | 0.86 | 3 |
"""


def printed(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.strip().splitlines()]


def cell(gol: str, model_t: str, ae: str = "True", rnn: str = "True") -> dict[str, object]:
    return {"gol": int(gol), "model_t": int(model_t), "ae": ae == "True", "rnn": rnn == "True"}


def ours(table: str) -> list[tuple[object, ...]]:
    return [
        (number.quantity, dict(number.cell), number.runs, number.value) for number in numbers.TABLES[table]
    ]


def test_table_1() -> None:
    assert ours("table1") == [
        ("metric", cell(t, t, ae, rnn), int(runs), float(metric))
        for t, ae, rnn, runs, metric in printed(TABLE_1)
    ]


def test_table_2() -> None:
    assert ours("table2") == [
        ("metric", cell(gol, model), int(runs), float(metric))
        for gol, model, runs, metric in printed(TABLE_2)
    ]


def test_table_3_has_two_numbers_a_row() -> None:
    expected = []
    for gol, model, ae, rnn, runs, without, adversarial in printed(TABLE_3):
        expected.append(("metric_plain", cell(gol, model, ae, rnn), int(runs), float(without)))
        expected.append(("metric_adv", cell(gol, model, ae, rnn), int(runs), float(adversarial)))
    assert ours("table3") == expected


def test_table_4() -> None:
    assert ours("table4") == [
        ("correlation", {"gol": int(gol), "model_t": int(lstm)}, int(runs), float(mean))
        for gol, lstm, mean, runs in printed(TABLE_4)
    ]


def test_section_3_1_1() -> None:
    # "15 versions ... the 3rd state reaches 98% accuracy 2773 training steps before the 4th state. The 2nd
    # state ... 5533".
    three = cell("3", "3")
    assert ours("learning_order") == [
        ("lead_state2", three, 15, 5533),
        ("lead_state3", three, 15, 2773),
    ]
    # "20 channels ... improves the metric by 0.09 over larger numbers", "1 layer in the encoder and decoder ...
    # by 0.14 compared to 3"; the paper does not say how many runs.
    signs = {str(number.cell["effect"]): number.value for number in numbers.TABLES["signs"]}
    assert (signs["channels"], signs["coder_layers"]) == (0.09, 0.14)


def test_the_other_signs_are_differences_of_the_tables() -> None:
    printed_1, printed_3 = printed(TABLE_1), printed(TABLE_3)
    whole, without_ae, without_rnn = (float(printed_1[row][-1]) for row in (1, 3, 4))
    without, adversarial = map(float, printed_3[1][-2:])
    signs = {str(number.cell["effect"]): number.value for number in numbers.TABLES["signs"]}
    assert signs["autoencoder"] == pytest.approx(whole - without_ae)
    assert signs["rnn"] == pytest.approx(whole - without_rnn)
    assert signs["adversary"] == pytest.approx(adversarial - without)


def test_every_table_has_a_heading() -> None:
    assert set(numbers.TABLES) == set(numbers.ABOUT)
    for table, of_table in numbers.TABLES.items():
        assert {number.table for number in of_table} == {table}


def test_the_specs_of_a_number_ship() -> None:
    sources = [source for table in numbers.TABLES.values() for number in table for source in number.sources]
    assert {spec for source in sources for spec in (source.spec, *source.specs)} <= shipped().keys()


@pytest.mark.parametrize("effect", [number.effect for number in numbers.TABLES["signs"]])
def test_the_sides_of_an_effect_are_filters_on_config_keys(effect: Effect) -> None:
    frame = pd.DataFrame({key: [1] for key in keys(config_type("life_state"))} | {"ae": True, "rnn": True})
    for side in (effect.first, effect.second):
        where.apply(side.where, frame)


CHESS = ["chess_paper", "chess"]


def test_a_table_by_its_name() -> None:
    assert numbers.chosen("table3") == ["table3"]
    assert numbers.chosen("all") == [*(f"table{n}" for n in (1, 2, 3, 4)), "learning_order", "signs", *CHESS]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "TABLE is missing; give one of table1, table2, "),
        ("tabel1", "unknown table 'tabel1' (did you mean 'table1'?); valid tables: table1, "),
        ("learning", "(did you mean 'learning_order'?)"),
        ("", "unknown table ''; valid tables: "),
    ],
)
def test_unknown_tables(name: str | None, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        numbers.chosen(name)
    assert says in str(caught.value)
    assert str(caught.value).endswith("signs, chess_paper, chess, all")
