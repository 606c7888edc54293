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
    return monkeypatch


def drawn(rows: list[dict[str, Any]]) -> list[str]:
    return tables.render(rows, list(rows[0]), style="rich").splitlines()


def test_one_value_in_every_row_is_said_once_where_the_table_is_too_wide(
    terminal: pytest.MonkeyPatch,
) -> None:
    """Columns of 3, 3, 3 and 4 with gutters of 3, and 1 before: 1 + 13 + 9 = 23 columns."""
    rows = [{"aaa": n, "bbb": 0.0 if n else 1, "ccc": "", "fail": 0} for n in range(2)]
    terminal.setenv("COLUMNS", "23")
    assert drawn(rows)[0] == " aaa   bbb   ccc   fail"
    assert drawn([{"aaa": 1}])[2:] == [" 1"]
    terminal.setenv("COLUMNS", "22")
    assert drawn(rows)[0] == " aaa  bbb  ccc  fail"
    terminal.setenv("COLUMNS", "19")
    assert drawn(rows) == [
        " aaa  bbb",
        " ────────",
        " 0    1",
        " 1    0",
        "in every row: ccc",
        "  empty; fail 0",
    ]
    assert drawn([rows[0]])[0].split() == ["aaa", "bbb", "ccc", "fail"]  # one row has nothing to compare


def test_names_fold_before_cells_and_words_are_cut_last(terminal: pytest.MonkeyPatch) -> None:
    rows = [
        {"run_id": f"{n}a2b3c4d5e", "train_accuracy": 0.5 + n, "ours": f"{n} [0.96, 1.00]", "verdict": n}
        for n in range(2)
    ]
    terminal.setenv("COLUMNS", "46")  # 10 + 8 (not 14) + 14 + 7, three gutters of 2 and a margin
    assert [line.split() for line in drawn(rows)] == [
        ["run_id", "train_", "ours", "verdict"],
        ["accuracy"],
        ["─" * 45],
        ["0a2b3c4d5e", "0.5", "0", "[0.96,", "1.00]", "0"],
        ["1a2b3c4d5e", "1.5", "1", "[0.96,", "1.00]", "1"],
    ]
    terminal.setenv("COLUMNS", "45")  # the interval stays whole
    assert [line.split() for line in drawn(rows)][3:5] == [
        ["0a2b3c4d5e", "0.5", "0", "0"],
        ["[0.96,", "1.00]"],
    ]
    terminal.setenv("COLUMNS", "32")
    assert max(map(len, drawn(rows))) <= 32
    assert drawn(rows)[4].split()[0] != "0a2b3c4d5e"


def test_config_keys_get_a_line_before_words_are_cut(terminal: pytest.MonkeyPatch) -> None:
    rows = [
        {"run_id": f"{n}a2b3c4d5e", "gol": 2 + n, "ae": None if n else True, "enc_layers": n, "seed": n}
        for n in range(2)
    ]
    terminal.setenv("COLUMNS", "32")
    assert drawn(rows) == [
        " run_id      seed",
        " ────────────────",
        " 0a2b3c4d5e  0",
        "   gol=2 ae=true enc_layers=0",
        " 1a2b3c4d5e  1",
        "   gol=3 enc_layers=1",
    ]


@pytest.mark.usefixtures("terminal")
@given(
    st.lists(st.tuples(*[st.text("ab _,=[]", max_size=30)] * 6), min_size=1, max_size=4),
    st.integers(40, 120),
)
def test_every_table_fits_and_keeps_its_letters(rows: list[tuple[str, ...]], width: int) -> None:
    """Six columns at their narrowest: 6 * 4 + 5 * 2 + 1 = 35."""
    names = ["gol", "ae", "train_accuracy", "state", "value", "name"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        text = tables.render([dict(zip(names, row, strict=True)) for row in rows], names, style="rich")
    assert max(map(len, text.splitlines())) <= width
    if len(rows) == 1:
        assert text.count("b") == sum(cell.count("b") for cell in rows[0])


def test_colours_only_on_a_terminal_that_wants_them(terminal: pytest.MonkeyPatch) -> None:
    rows = [{"state": "FAILED", "note": "FAILED"}, {"state": "COMPLETED", "note": ""}]
    terminal.setenv("COLUMNS", "80")
    terminal.setenv("TERM", "xterm")
    plain = drawn(rows)
    assert "\x1b" not in "".join(plain)
    terminal.setenv("NO_COLOR", "")  # as if it were not set: https://no-color.org
    coloured = drawn(rows)
    assert coloured[2].count("\x1b[31mFAILED\x1b[0m") == 1
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain
    terminal.setenv("TERM", "dumb")
    assert drawn(rows) == plain
    terminal.setattr("sys.stdout.isatty", lambda: False)
    assert drawn(rows) == plain


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
    return {"gol": 3, "ae": True, "kept": 4, "run": 5, **means}


def test_a_summary_for_people() -> None:
    rows = [row(0.98, 0.96, 1.0), {**row(0.5), "gol": 4}, {**row(None), "gol": 5}]
    table, said = tables.summary(rows, ["gol", "ae"], style="markdown").split("\n\n")
    assert shown(table) == [
        {"gol": "3", "kept/run": "4/5", "metric": "0.98 [0.96, 1.00]"},
        {"gol": "4", "kept/run": "4/5", "metric": "0.50"},
        {"gol": "5", "kept/run": "4/5", "metric": ""},
    ]
    assert said == "in every row: ae true"  # a group with one value
    rated = {**row(0.5), "pass_rate": 0.8, "pass_rate_low": 0.3755, "pass_rate_high": 0.9638}
    (found,) = shown(tables.summary([rated], ["gol"], style="markdown"))
    assert found["pass rate"] == "80% [38, 96]"
    found = shown(tables.summary([row(0.98, adv=0.25), {**row(0.5), "gol": 4}], ["gol"], style="markdown"))
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
            "difference -0.04, kept/run 5/6, baseline/ceiling 0.54/1.02, verdict reproduced",
        ),
        (
            {**STEPS, **SHARE, **NEITHER, "difference": -3732.6, "verdict": None},
            "gol 3, ae false, quantity lead_state2, paper 5,533, paper_runs 42, ours 1,800 [622, 2,978], "
            "difference -3,733, share 0.60 [0.50, 0.70], kept/run 5/6",
        ),
        (
            {"quantity": "effect", "difference": 0.01, **NEITHER, **FIRST, **SECOND, "sign": "open"},
            "gol 3, ae false, quantity effect, paper 0.99, paper_runs 42, ours 0.95 [0.90, 1.00], "
            "first 20: 0.99 (5/6), second more: (0/2), kept/run 5/6, sign open, verdict reproduced",
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


def test_latex_is_a_tabular_with_the_rules_of_booktabs() -> None:
    """As LaTeX reads it: braces and environments close, and each line has one cell for each column of the preamble."""
    rows = [
        {"metric_adv": 0.5, "cause": r"50% of {x} & \y ~ a_b ^ #1 $"},
        {"metric_adv": None, "cause": "<ok>"},
    ]
    text = tables.render(rows, ["metric_adv", "cause"], style="latex")
    first, *body, last = text.splitlines()
    assert (first, last) == (r"\begin{tabular}{rl}", r"\end{tabular}")
    assert [place for place, line in enumerate(body) if line.endswith("rule")] == [0, 2, len(body) - 1]
    assert [body[0], body[2], body[-1]] == [r"\toprule", r"\midrule", r"\bottomrule"]
    lines = [line for line in body if not line.endswith("rule")]
    for line in lines:
        assert line.endswith(r" \\")
        plain = re.sub(r"\\(text\w+\{\}|[&%$#_{}])", "", line.removesuffix(r" \\"))
        assert not set(plain) & set(r"%$#_{}~^\\"), plain  # nothing that LaTeX would read as a command
        assert plain.count("&") == 1
    assert lines[0] == r"metric\_adv & cause \\"


def test_what_stands_below_a_latex_table_is_a_comment() -> None:
    rows = [{"gol": 3, "ae": True}, {"gol": 4, "ae": True}]
    assert tables.render(rows, ["gol", "ae"], style="latex", captioned=["ae"]).splitlines()[-2:] == [
        r"\end{tabular}",
        "% in every row: ae true",
    ]
