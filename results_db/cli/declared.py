"""Commands that experiments declare: their own figures and analyses, each a function of stored runs.

They come from installed code alone, by the names in its declarations; a store names no code. Commands are listed by
what the declarations say, and the code is imported when a command runs or shows its own help.
"""

import logging
from collections.abc import Sequence
from typing import Any

import click
from typing_extensions import override

from imagination import registry
from results_db import console
from results_db.cli.own_commands import Entry, Kind, command, summary

log = logging.getLogger(__name__)

_ONE = {"figures": "a figure", "analyses": "an analysis"}


class DeclaredGroup(console.ConsoleGroup):
    """Its own commands, and those that the installed experiments declare under `kind`."""

    kind: Kind = "figures"

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._declared(ctx)})

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._declared(ctx):
            return own
        return _Lazy(self.kind, cmd_name, self._declared(ctx)[cmd_name])

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not args[0].startswith("-"):
                hint = f"{_ONE[self.kind]} of an experiment that is not installed needs its package"
                raise click.UsageError(f"{error.message}; {hint}", ctx) from None
            raise

    def _declared(self, ctx: click.Context) -> dict[str, list[Entry]]:
        """The declared names with their meanings. A command of our own keeps its name."""
        key = f"{__name__}.{self.kind}"
        if key not in ctx.meta:
            found: dict[str, dict[str, Entry]] = {}
            for declared in registry.declarations():
                for name, (path, about) in getattr(declared, self.kind).items():
                    if super().get_command(ctx, name) is not None:
                        log.warning(
                            "'%s' of experiment '%s' is left out: it is a general command",
                            name,
                            declared.name,
                        )
                        continue
                    entry = found.setdefault(name, {}).setdefault(path, Entry(path, about, []))
                    entry.experiments.append(declared.name)
            ctx.meta[key] = {name: list(entries.values()) for name, entries in found.items()}
        return ctx.meta[key]  # type: ignore[no-any-return]


class AnalysisGroup(DeclaredGroup):
    """Its own commands, and the declared analyses."""

    kind: Kind = "analyses"


class _Lazy(click.Command):
    """A declared command in a list. It becomes the whole command when it is called."""

    def __init__(self, kind: Kind, name: str, entries: Sequence[Entry]) -> None:
        super().__init__(name, help=summary(entries))
        self._kind, self._entries = kind, entries

    @override
    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        whole = command(self._kind, str(self.name), self._entries)
        return whole.make_context(info_name, args, parent, **extra)
