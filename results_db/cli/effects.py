"""The command `effect`: what config keys do to the metric."""

from typing import TYPE_CHECKING, Any

import click

from results_db import console
from results_db.cli import options
from results_db.views import tables

if TYPE_CHECKING:
    from results_db.query.effect import Effect, Regression


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=console.complete_columns)
@options.metric_option
@options.choice_options(gate=True)
@options.style_options
def effect(
    *,
    keys: tuple[str, ...],
    metric: str | None,
    choice: options.Choice,
    style: str,
) -> None:
    """Show the metric's mean for each value of a config key, and the differences of these means.

    Each difference is printed with its 95% interval, over pairs and over all kept runs. The runs of a pair are equal in
    the seed and all config keys but KEY, and those that always change with it, which the output names. For two KEYs
    with two values each there is also their interaction: how the effect of one depends on the other.

    Without a KEY, a regression on all config keys in which the runs differ says which of them the metric depends on.

    Example: imagine-results effect features --where target=board
    """
    from results_db.query import effect as effects

    with choice.reading() as store:
        frame = choice.of(store.runs())
        metric = options.metric_of(metric, frame, store)
    if keys:
        found = effects.effect(frame, keys, metric=metric, gate=choice.gate)
        _show(_levels(found), _differences(found), style=style)
        if found.also and style not in tables.EXACT:
            console.say(f"compared runs also differ in: {', '.join(found.also)}")
        return
    fitted = effects.regression(frame, metric=metric, gate=choice.gate)
    rows = _slopes(fitted)
    if style == "json":
        click.echo(tables.as_json({"runs": fitted.runs, "explained": fitted.explained, "slopes": rows}))
    elif style == "csv":
        click.echo(tables.render(rows, list(rows[0]), style=style))
    else:
        shown = [
            {
                "key": row["key"],
                "from": row["low"],
                "to": row["high"],
                f"change of {metric}": tables.spread(row, "change"),
                "explains": f"{100 * row['share']:.0f}%",
            }
            for row in rows
        ]
        click.echo(tables.render(shown, list(shown[0]), style=style))
        more = (
            f"; left out, because their effect cannot be told apart: {', '.join(fitted.left_out)}"
            if fitted.left_out
            else ""
        )
        console.say(f"{fitted.runs} kept runs; all keys explain {100 * fitted.explained:.0f}%{more}")


def _levels(found: "Effect") -> list[dict[str, Any]]:
    return [
        {
            **level.cell,
            "kept": level.kept,
            "run": level.run,
            **level.pass_rate.columns("pass_rate"),
            **level.mean.columns("mean"),
        }
        for level in found.levels
    ]


def _differences(found: "Effect") -> list[dict[str, Any]]:
    interaction = [found.interaction] if found.interaction else []
    return [each.as_dict() for each in (*found.differences, *interaction)]


def _slopes(found: "Regression") -> list[dict[str, Any]]:
    return [
        {
            "key": slope.key,
            "low": slope.low,
            "high": slope.high,
            **slope.change.columns("change"),
            "share": slope.share,
        }
        for slope in found.slopes
    ]


def _show(levels: list[dict[str, Any]], differences: list[dict[str, Any]], *, style: str) -> None:
    """Prints the values and the differences; CSV has the differences alone."""
    if style == "json":
        click.echo(tables.as_json({"levels": levels, "differences": differences}))
        return
    if style == "csv":
        click.echo(tables.render(differences, list(differences[0]), style=style))
        return
    counts = ("kept", "run", "pass_rate", "pass_rate_low", "pass_rate_high", "mean", "mean_low", "mean_high")
    shown = [
        {name: value for name, value in level.items() if name not in counts}
        | {
            "kept/run": f"{level['kept']}/{level['run']}",
            "pass rate": tables.pass_rate(level),
            "mean": tables.spread(level, "mean"),
        }
        for level in levels
    ]
    click.echo(tables.render(shown, list(shown[0]), style=style))
    click.echo()
    shown = [
        {
            "difference": each["of"],
            "pairs": each["pairs"],
            "in pairs": tables.spread(each, "paired"),
            "of all": tables.spread(each, "unpaired"),
        }
        for each in differences
    ]
    click.echo(tables.render(shown, list(shown[0]), style=style))
