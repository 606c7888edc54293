"""Rows as text: every format, and nothing lost on the way."""

import csv
import io
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cli_helpers import cells
from hypothesis import given
from hypothesis import strategies as st

from results_db.text import cell_text
from results_db.views import tables

ROWS = [
    {"gol": 3, "ae": True, "name": "a|b", "value": 1 / 3},
    {"gol": 12, "ae": False, "name": "[red]", "value": None},
]
NAMES = ["gol", "ae", "name", "value"]


def test_markdown_and_csv() -> None:
    assert tables.render(ROWS, NAMES, style="markdown").splitlines() == [
        "| gol | ae | name | value |",
        "| --- | --- | --- | --- |",
        r"| 3 | true | a\|b | 0.3333 |",
        "| 12 | false | [red] |  |",
    ]
    assert tables.render(ROWS, NAMES, style="csv").splitlines() == [
        "gol,ae,name,value",
        "3,true,a|b,0.3333333333333333",
        "12,false,[red],",
    ]


@given(
    st.lists(
        st.tuples(st.integers(), st.text().filter(lambda t: "\0" not in t and "\r" not in t)), min_size=1
    )
)
def test_csv_reads_back(values: list[tuple[int, str]]) -> None:
    text = tables.render([{"a": a, "b": b} for a, b in values], ["a", "b"], style="csv")
    read = list(csv.reader(io.StringIO(text + "\n", newline="")))
    assert read == [["a", "b"], *([str(a), b] for a, b in values)]


def test_json_has_times_in_iso_form_and_refuses_nan() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert json.loads(tables.as_json({"at": when})) == {"at": "2026-01-02T03:04:05+00:00"}
    with pytest.raises(ValueError, match="Out of range"):
        tables.as_json([float("nan")])


def test_a_table_outside_a_terminal_is_never_cut() -> None:
    long = "x" * 300
    text = tables.render([{"a": long, "b": "[bold]kept as it is[/bold]"}], ["a", "b"], style="rich")
    assert long in text
    assert "[bold]kept as it is[/bold]" in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A terminal without colours; its width is the variable COLUMNS."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "40")
    return monkeypatch


@pytest.mark.usefixtures("terminal")
def test_a_table_on_a_narrow_terminal_folds_no_cell() -> None:
    text = tables.render([{"a": "x" * 50, "b": "two words " * 5}], ["a", "b"], style="rich")
    assert "x" * 50 in text  # can be copied
    assert "two words " * 4 + "two words" in text
    assert len(text.splitlines()) == 3  # names, a rule, the row


def test_a_table_too_wide_for_its_terminal_loses_space_and_zeros(terminal: pytest.MonkeyPatch) -> None:
    """Columns of 3, 3, 3 and 4 with gutters of 3, and 1 before: 1 + 13 + 9 = 23 columns."""

    def drawn() -> list[str]:
        text = tables.render(rows, ["aaa", "bbb", "ccc", "fail"], style="rich")
        return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()

    rows = [{"aaa": n, "bbb": 0.0 if n else 1, "ccc": "", "fail": 0} for n in range(2)]
    terminal.setenv("COLUMNS", "23")
    assert drawn()[0] == " aaa   bbb   ccc   fail"
    terminal.setenv("COLUMNS", "22")
    assert drawn() == [
        " aaa  bbb  ccc",
        " ─────────────",
        " 0    1",
        " 1    0",
        "0 in every row: fail",
    ]


def shown(text: str) -> list[dict[str, str]]:
    """The rows of a Markdown table, by column."""
    head, _, *rows = map(cells, text.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def row(
    metric: float | None, low: float | None = None, high: float | None = None, adv: float | None = None
) -> dict[str, Any]:
    means = {
        "metric": metric,
        "metric_low": low,
        "metric_high": high,
        "metric_plain": None,
        "metric_adv": adv,
    }
    return {"gol": 3, "kept": 4, "run": 5, **means}


def test_a_summary_for_people() -> None:
    rows = [row(0.98, 0.96, 1.0), row(0.5), row(None)]
    assert shown(tables.summary(rows, ["gol"], style="markdown")) == [
        {"gol": "3", "kept/run": "4/5", "metric": "0.98 [0.96, 1.00]"},
        {"gol": "3", "kept/run": "4/5", "metric": "0.50"},
        {"gol": "3", "kept/run": "4/5", "metric": ""},
    ]
    found = shown(tables.summary([row(0.98, adv=0.25), row(0.5)], ["gol"], style="markdown"))
    assert [one["metric_adv"] for one in found] == ["0.25", ""]


def test_a_summary_leaves_out_columns_without_a_value() -> None:
    correlation = {
        "correlation": 0.0,
        "correlation_low": -0.1,
        "correlation_high": 0.1,
        "correlation_adv": 0.25,
    }
    count = {**row(None), "ae": None, "rnn": False, **correlation}
    (found,) = shown(tables.summary([count], ["gol", "ae", "rnn"], style="markdown"))
    assert list(found.items()) == [
        ("gol", "3"),
        ("rnn", "false"),
        ("kept/run", "4/5"),
        ("correlation", "0.00 [-0.10, 0.10]"),
        ("correlation_adv", "0.25"),
    ]


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
    "ceiling": 1.02,
    "verdict": "reproduced",
}
STEPS = {"quantity": "lead_state2", "paper": 5533, "ours": 1800.4, "low": 622.0, "high": 2978.0}
SHARE = {"share": 0.6, "share_low": 0.5, "share_high": 0.7}
NEITHER = {"baseline": None, "ceiling": None}
FIRST = {"first": "20", "first_mean": 0.988, "first_kept": 5, "first_run": 6}
SECOND = {"second": "more", "second_mean": None, "second_kept": 0, "second_run": 2}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "gol 3, ae false, quantity metric, paper 0.99, paper_runs 42, ours 0.95 [0.90, 1.00], "
            "difference -0.04, kept/run 5/6, baseline 0.54, ceiling 1.02, verdict reproduced",
        ),
        (
            {**STEPS, **SHARE, **NEITHER, "difference": -3732.6, "verdict": None},
            "gol 3, ae false, quantity lead_state2, paper 5,533, paper_runs 42, ours 1,800 [622, 2,978], "
            "difference -3,733, share 0.60 [0.50, 0.70], kept/run 5/6",
        ),
        (
            {"quantity": "effect", "difference": 0.01, **NEITHER, **FIRST, **SECOND, "sign": "open"},
            "gol 3, ae false, quantity effect, paper 0.99, paper_runs 42, ours 0.95 [0.90, 1.00], "
            "difference +0.01, first 20: 0.99 (5/6), second more: (0/2), kept/run 5/6, sign open, verdict reproduced",
        ),
    ],
    ids=["metric", "lead", "effect"],
)
def test_a_comparison_for_people(changes: dict[str, Any], expected: str) -> None:
    (found,) = shown(tables.comparison([{**COMPARED, **changes}], ["gol", "ae"], style="markdown"))
    assert ", ".join(f"{name} {value}" for name, value in found.items()) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, ""), (True, "true"), (3, "3"), ("x", "x"), (0.99, "0.99"), (0.0005, "0.0005")),
        *((1234.5678, "1235"), (12345.678, "1.235e+04"), (0.123456, "0.1235")),
        *(
            (12345.0, "12345"),
            (20000.0, "20000"),
            (-0.0, "0"),
        ),  # whole numbers have all digits, and zero no sign
    ],
)
def test_cells(value: object, expected: str) -> None:
    assert cell_text(value) == expected


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        *((-0.002, True, "0.00"), (0.002, True, "0.00"), (-0.0, False, "0.00"), (-0.005001, True, "-0.01")),
        *((0.05, True, "+0.05"), (0.05, False, "0.05"), (None, True, "")),
    ],
)
def test_what_rounds_to_zero_has_no_sign(value: float | None, signed: bool, expected: str) -> None:
    assert tables.decimals(value, signed=signed) == expected
