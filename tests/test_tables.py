"""Rows as text: every format, and nothing lost on the way."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results_db.text import cell_text
from results_db.views import tables

ROWS = [
    {"gol": 3, "ae": True, "name": "a|b", "value": 1 / 3},
    {"gol": 12, "ae": False, "name": "[red]", "value": None},
]
NAMES = ["gol", "ae", "name", "value"]


def test_markdown() -> None:
    assert tables.render(ROWS, NAMES, style="markdown").splitlines() == [
        "| gol | ae | name | value |",
        "| --- | --- | --- | --- |",
        r"| 3 | true | a\|b | 0.3333 |",
        "| 12 | false | [red] |  |",
    ]


def test_csv_holds_the_values_as_they_are() -> None:
    assert tables.render(ROWS, NAMES, style="csv").splitlines() == [
        "gol,ae,name,value",
        "3,true,a|b,0.3333333333333333",
        "12,false,[red],",
    ]


def test_a_table_outside_a_terminal_is_never_cut() -> None:
    long = "x" * 300
    text = tables.render([{"a": long, "b": "[bold]kept as it is[/bold]"}], ["a", "b"], style="rich")
    assert long in text
    assert "[bold]kept as it is[/bold]" in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_table_on_a_narrow_terminal_folds_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    text = tables.render([{"a": "x" * 50, "b": "two words " * 5}], ["a", "b"], style="rich")
    assert "x" * 50 in text  # so that it can be copied
    assert "two words " * 4 + "two words" in text
    assert len(text.splitlines()) == 3  # names, a rule, the row


def test_a_table_too_wide_for_its_terminal_stands_closer_and_without_zeros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three columns of 3 and 11 for `fail|0`: 3 * 3 + 3 * 3 + 4 = 22 columns with gutters of 3, and 1 before."""
    names = ["aaa", "bbb", "ccc", "fail"]
    rows = [{"aaa": n, "bbb": 0.0 if n else 1, "ccc": "", "fail": 0} for n in range(2)]
    wide = tables.render(rows, names, style="rich")
    assert wide.splitlines()[0] == " aaa   bbb   ccc   fail"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "23")
    assert plain(tables.render(rows, names, style="rich")) == wide
    monkeypatch.setenv("COLUMNS", "22")
    assert plain(tables.render(rows, names, style="rich")).splitlines() == [
        " aaa  bbb  ccc",
        " ─────────────",
        " 0    1",
        " 1    0",
        "0 in every row: fail",
    ]


def plain(text: str) -> str:
    """Without the codes for a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def row(metric: float | None, low: float | None, high: float | None, adv: float | None = None) -> dict:
    return {
        "gol": 3,
        "kept": 4,
        "run": 5,
        "metric": metric,
        "metric_low": low,
        "metric_high": high,
        "metric_plain": None,
        "metric_adv": adv,
    }


def test_a_summary_is_what_a_person_reads() -> None:
    shown, names = tables.summary(
        [row(0.98, 0.96, 1.0), row(0.5, None, None), row(None, None, None)], ["gol"]
    )
    assert names == ["gol", "kept/run", "metric"]
    assert shown[0] == {"gol": 3, "kept/run": "4/5", "metric": "0.98 [0.96, 1.00]"}
    assert [line["metric"] for line in shown[1:]] == ["0.50", ""]


def test_a_summary_leaves_out_columns_without_a_value() -> None:
    count = {
        "gol": 3,
        "ae": None,
        "rnn": False,
        "kept": 2,
        "run": 2,
        "metric": None,
        "metric_low": None,
        "metric_high": None,
        "metric_plain": None,
        "correlation": 0.0,
        "correlation_low": -0.1,
        "correlation_high": 0.1,
        "correlation_aligned": 0.25,
    }
    shown, names = tables.summary([count], ["gol", "ae", "rnn"])
    assert names == ["gol", "rnn", "kept/run", "correlation", "correlation_aligned"]
    assert (shown[0]["correlation"], shown[0]["correlation_aligned"]) == ("0.00 [-0.10, 0.10]", "0.25")
    assert tables.summary([], ["gol"]) == ([], [])


COMPARED = {
    "table": "table1",
    "quantity": "metric",
    "gol": 3,
    "ae": False,
    "paper": 0.99,
    "paper_runs": 42,
    "ours": 0.95,
    "low": 0.9,
    "high": 1.0,
    "difference": -0.04,
    "kept": 5,
    "run": 6,
    "baseline": 0.54,
    "verdict": "reproduced",
}


def test_a_comparison_is_what_a_person_reads() -> None:
    shown, names = tables.comparison([COMPARED], ["gol", "ae"])
    assert [(name, shown[0][name]) for name in names] == [
        ("gol", 3),
        ("ae", False),
        ("quantity", "metric"),
        ("paper", "0.99"),
        ("paper_runs", 42),
        ("ours", "0.95 [0.90, 1.00]"),
        ("difference", "-0.04"),
        ("kept/run", "5/6"),
        ("baseline", "0.54"),
        ("verdict", "reproduced"),
    ]


def test_a_comparison_of_steps_is_in_whole_steps_and_shares() -> None:
    steps = {
        **COMPARED,
        "quantity": "lead_state2",
        "paper": 5533,
        "ours": 1800.4,
        "low": 622.0,
        "high": 2978.0,
        "difference": -3732.6,
        "share": 0.6,
        "share_low": 0.5,
        "share_high": 0.7,
        "verdict": None,
    }
    (shown,), names = tables.comparison([steps], ["gol"])
    assert [shown[name] for name in ("paper", "ours", "difference", "share")] == [
        "5533",
        "1800 [622, 2978]",
        "-3733",
        "0.60 [0.50, 0.70]",
    ]
    assert "verdict" not in names


def test_a_comparison_of_an_effect_has_both_sides() -> None:
    first = {"first": "channels = 20", "first_mean": 0.988, "first_kept": 5, "first_run": 6}
    second = {"second": "channels > 20", "second_mean": None, "second_kept": 0, "second_run": 2}
    (shown,), names = tables.comparison([{**COMPARED, "difference": 0.01, **first, **second}], ["gol"])
    assert (shown["first"], shown["second"]) == ("channels = 20: 0.99 (5/6)", "channels > 20: (0/2)")
    assert shown["difference"] == "+0.01"
    assert names.index("first") + 1 == names.index("second") < names.index("verdict")


def test_a_summary_has_the_adversarial_mean_where_there_is_one() -> None:
    shown, names = tables.summary([row(0.98, 0.96, 1.0, adv=0.25), row(0.5, None, None)], ["gol"])
    assert names == ["gol", "kept/run", "metric", "metric_adv"]
    assert [line["metric_adv"] for line in shown] == ["0.25", ""]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (True, "true"),
        (3, "3"),
        (0.99, "0.99"),
        (0.0005, "0.0005"),
        (1234.5678, "1235"),
        ("x", "x"),
    ],
)
def test_cells(value: object, expected: str) -> None:
    assert cell_text(value) == expected


def test_json_has_times_in_iso_form_and_refuses_nan() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert json.loads(tables.as_json({"at": when})) == {"at": "2026-01-02T03:04:05+00:00"}
    with pytest.raises(ValueError, match="Out of range"):
        tables.as_json([float("nan")])


@given(
    st.lists(
        st.tuples(st.integers(), st.text().filter(lambda t: "\0" not in t and "\r" not in t)), min_size=1
    )
)
def test_csv_reads_back(cells: list[tuple[int, str]]) -> None:
    text = tables.render([{"a": a, "b": b} for a, b in cells], ["a", "b"], style="csv")
    read = list(csv.reader(io.StringIO(text + "\n", newline="")))
    assert read == [["a", "b"], *([str(a), b] for a, b in cells)]


def test_whole_numbers_are_shown_whole() -> None:
    shown = [cell_text(value) for value in (20000.0, 12345.0, 12345.678, 0.123456)]
    assert shown == ["20000", "12345", "1.235e+04", "0.1235"]


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        *((-0.002, True, "0.00"), (0.002, True, "0.00"), (-0.0, False, "0.00"), (-0.005001, True, "-0.01")),
        *((0.05, True, "+0.05"), (0.05, False, "0.05"), (None, True, "")),
    ],
)
def test_what_rounds_to_zero_has_no_sign(value: float | None, signed: bool, expected: str) -> None:
    assert tables.decimals(value, signed=signed) == expected


def test_zero_has_no_sign_in_a_cell() -> None:
    assert cell_text(-0.0) == "0"
