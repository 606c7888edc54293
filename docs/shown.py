"""What the pages show of the store `examples/paper.db`. `make docs` writes it into them.

A page calls these functions in comments, such as `<!-- [[[cog shown("compare table1") ]]] -->`. cog runs the call and
writes what it says between this comment and the next, `<!-- [[[end]]] -->`.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import cog
import pandas as pd
from click.testing import CliRunner

import results_db
from imagination.intervals import Interval, decimals, mean_interval
from results_db.cli.root import results
from results_db.query.gate import completed, passed
from results_db.query.where import apply
from results_db.views.tables import render

STORE = "examples/paper.db"
TABLES = "preset=small and (sweep=contrasts or sweep=table1 or sweep=table2 or sweep=table3)"
"""The runs of Tables 1 to 3."""

_FILE = str(Path(__file__).parents[1] / STORE)


def shown(command: str) -> None:
    """A command of imagine-results, and its answer.

    Raises:
        ValueError: the command fails.
    """
    cog.outl(f"\n    imagine-results {command} --db {STORE}\n\n{_answer(command, '--format', 'markdown')}")


def _answer(command: str, *more: str) -> str:
    words = [*shlex.split(command), "--db", _FILE, *more]
    done = CliRunner().invoke(results, words, catch_exceptions=False)
    if done.exit_code:
        raise ValueError(f"{command}: {done.output}")
    return done.output


def numbers(because: Mapping[str, str]) -> None:
    """Every number of the paper about Life beside ours.

    Args:
        because: what may explain a difference, by the name of the row.
    """
    rows = []
    for number in json.loads(_answer("compare all", "--json")):
        if number["table"].startswith("chess"):
            continue
        name, quantity = _name(number), number["quantity"]
        ratio = "ratio" if number["table"] == "learning_order" else ""
        paper = number["paper_ratio"] if ratio else number["paper"]
        mean, low, high = (
            number[f"{ratio}{end}"] for end in (("", "_low", "_high") if ratio else ("ours", "low", "high"))
        )
        runs = number["paper_runs"] and f" ({number['paper_runs']})"
        rows.append(
            {
                "table": number["table"],
                "runs": name,
                "number": f"ratio of {quantity}" if ratio else quantity,
                "paper": f"{decimals(paper)}{runs or ''}",
                "ours": Interval(mean, low, high).text(),
                "kept/run": f"{number['kept']}/{number['run']}",
                "ceiling": decimals(number["ceiling"]),
                "verdict": ", ".join(filter(None, (number.get("sign"), number["verdict"]))),
                "what may explain it": because.get(name, ""),
            }
        )
    _say(rows)


def _name(number: Mapping[str, object]) -> str:
    """The row of a number, such as `3/3, no RNN`."""
    if "effect" in number:
        return f"{number['effect']}: {number['first']} - {number['second']}"
    without = [
        f", no {word}" for key, word in (("ae", "autoencoder"), ("rnn", "RNN")) if number.get(key) is False
    ]
    return "".join([f"{number['gol']}/{number['model_t']}", *without])


def best_third(where: str, *, by: Sequence[str], metrics: Sequence[str]) -> None:
    """For each group of kept runs, means over all of them, and over the third of them with the largest `metric`."""
    runs = _completed(where)
    rows = []
    for cell, group in runs[passed(runs)].groupby(list(by)):
        best = group.nlargest(math.ceil(len(group) / 3), "metric")
        counts = {"kept": len(group), "best": len(best)}
        means = {name: f"{group[name].mean():.2f}; {best[name].mean():.2f}" for name in metrics}
        rows.append(dict(zip(by, cell, strict=True)) | counts | means)
    _say(rows)


def adversary(where: str, *, by: Sequence[str], right: float = 0.9, change: float = 0.1) -> None:
    """For each group of kept runs: how many decode right by the plain decoder, and what the adversarial one changes.

    Args:
        where: the runs.
        by: the columns to group by.
        right: the metric above which a decoder is right.
        change: the least change of the metric that counts.
    """
    runs = _completed(where)
    rows = []
    for cell, group in runs[passed(runs)].groupby(list(by)):
        plain, changed = group["metric_plain"], group["metric_adv"] - group["metric_plain"]
        counts = {
            "kept": len(group),
            "plain right": int((plain > right).sum()),
            "of these spoiled": int(((plain > right) & (changed < -change)).sum()),
            "plain not right": int((plain <= right).sum()),
            "of these improved": int(((plain <= right) & (changed > change)).sum()),
            "right afterwards": int(((plain <= right) & (group["metric_adv"] > right)).sum()),
        }
        rows.append(dict(zip(by, cell, strict=True)) | counts)
    _say(rows)


def paired(sets: Mapping[str, str], *, metric: str, by: Sequence[str] = ()) -> None:
    """Kept runs of two sets that share seed, shape and batch: each set's mean, and the mean difference, in each group.

    Args:
        sets: the name and the filter of each set.
        metric: what is compared.
        by: the columns to group by, which pairs share as well.
    """
    on = list(dict.fromkeys([*by, "seed", "channels", "enc_layers", "step_layers", "dec_layers", "batch"]))
    (first, one), (second, other) = ((name, _completed(where)) for name, where in sets.items())
    one, other = (runs[passed(runs)].groupby(on)[metric].mean() for runs in (one, other))
    pairs = pd.concat([one.rename(first), other.rename(second)], axis=1, join="inner").reset_index()
    rows = []
    for cell, group in pairs.groupby(list(by)) if by else [((), pairs)]:
        means = {name: f"{group[name].mean():.2f}" for name in (first, second)}
        change = mean_interval(list(group[second] - group[first])).text()
        rows.append(dict(zip(by, cell, strict=True)) | {"pairs": len(group)} | means | {"difference": change})
    _say(rows)


def cost() -> None:
    """The completed runs of each preset and optimiser, their steps of their networks, and their time on one core."""
    rows = []
    keys = ("experiment", "preset", "optimizer")
    for cell, group in _completed(None).groupby(list(keys)):
        steps, hours = f"{group['steps'].sum() / 1e6:.2f}", f"{group['seconds'].sum() / 3600:.1f}"
        of = dict(zip(keys, cell, strict=True))
        counts = {"runs": len(group), "kept": int(passed(group).sum())}
        median = f"{group['seconds'].median():.0f}"
        rows.append(of | counts | {"million steps": steps, "hours": hours, "median seconds": median})
    _say(rows)


def _completed(where: str | None) -> pd.DataFrame:
    with results_db.open(_FILE) as store:
        return completed(apply(where, store.runs()))


def _say(rows: Sequence[dict[str, object]]) -> None:
    cog.outl(f"\n{render(rows, list(rows[0]), style='markdown')}\n")
