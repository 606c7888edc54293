"""What an experiment declares about itself. Torch-free: specs are checked against it on the login node."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, get_args, get_type_hints

from imagination.schema import (
    ASSET,
    ConfigError,
    RunConfig,
    Scalar,
    added,
    build,
    coerce,
    fitting,
    keys,
    needs,
    require,
)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
RESERVED = (
    *("run_id", "sweep", "state", "outcome", "attempts", "seconds", "tag", "note", "gate", "kept"),
    *("code", "host", "cause"),
)
"""The columns of every run, which no config key or metric may be named like."""

RESERVED_KEYS = ("steps", "run", "hydra", "asset", "same", "needs")
"""Words with a meaning of their own where config keys stand; `steps` is a metric, the trained steps."""

_METRIC = re.compile(r"[A-Za-z]\w{0,63}")
_COMMAND = re.compile(r"[a-z][a-z0-9-]{0,39}")
_DOTTED = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Gate:
    """A run is kept if this metric is at least `least`."""

    metric: str
    least: float

    def __str__(self) -> str:
        return f"{self.metric} >= {self.least:g}"


class Command(NamedTuple):
    """A figure or an analysis: the name of its code, and the line of help that lists of commands show."""

    code: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """An experiment: the schema of its configs, the meaning of its metrics, and what trains its runs.

    Names of code are `module:name`, so that nothing is imported before it is needed.

    Attributes:
        name: the experiment's name in specs and stores.
        config: its config dataclass, a subclass of `RunConfig`.
        presets: named values that differ from the config's defaults. The first is the default preset.
        cells: the config keys that usually tell the rows of a table apart; listings show them first.
        metrics: what each metric of a run means, in one line, in the order of listings.
        shown: the metrics that tables show, the first with its interval; default: the first metric.
        gate: which completed runs are kept; None: all of them.
        runner: a `imagination.runner.Runner`, which trains packs of runs.
        function: instead of a runner, a function of one run: `run(config, recorder)`, see `imagination.function`.
        ready: a function of the configs of runs that raises ConfigError if this machine lacks something that they use.
        pack: how many runs train in one pack at least, if the user gives no number; above 1 for a runner whose runs
            share work.
        progress: a function of the progress values of a run that gives the text which displays of running runs show;
            where room is short they show what is before ` | `. Default: each name with its value.
        numbers: the numbers of a paper that its runs are compared with: an `imagination.paper.Paper`.
        figures: its own figures, by name: functions that draw one run, `function(run, *, option=...)`, or several,
            `function(runs, *, option=...)`, and return an `imagination.figures.Drawn`.
        analyses: its own numbers, by name: each an `imagination.figures.Analysis`.
        gallery: what the report's gallery shows of a run: an `imagination.figures.Gallery`.
    """

    name: str
    config: type
    presets: Mapping[str, Mapping[str, Scalar]] = field(default_factory=lambda: {"default": {}})
    cells: tuple[str, ...] = ()
    metrics: Mapping[str, str]
    shown: tuple[str, ...] = ()
    gate: Gate | None = None
    runner: str = ""
    function: str = ""
    ready: str = ""
    pack: int = 1
    progress: str = ""
    numbers: str = ""
    figures: Mapping[str, Command] = field(default_factory=dict)
    analyses: Mapping[str, Command] = field(default_factory=dict)
    gallery: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The config keys in the order of listings: experiment, preset, the cells' keys, the others, the seed."""
        first = ("experiment", "preset", *self.cells)
        return (*first, *(key for key in keys(self.config) if key not in first))

    @property
    def default_preset(self) -> str:
        """The preset of a spec that names none."""
        return next(iter(self.presets))

    def check(self) -> None:
        """Check that the declaration does not contradict itself.

        Raises:
            ConfigError: it does; one line says where.
        """
        try:
            self._check()
        except ConfigError as error:
            raise ConfigError(f"experiment '{self.name}': {error}", key="experiment") from None

    def _check(self) -> None:
        _require(_NAME.fullmatch(self.name), "its name is not of a-z, 0-9 and _, with at most 40 characters")
        is_config = isinstance(self.config, type) and issubclass(self.config, RunConfig)
        is_dataclass = is_config and "__dataclass_fields__" in vars(self.config)  # not only its base
        _require(is_dataclass, "config is not a dataclass derived from RunConfig")
        known = keys(self.config)
        for place, names in (("cells", self.cells), ("metrics", self.metrics)):
            _require(len(set(names)) == len(names), f"{place} names a key twice")
        strange = [key for key in self.cells if key not in known]
        _require(not strange, f"cells has {', '.join(strange)}, which config lacks")
        general = [key for key in self.cells if key in keys(RunConfig)]
        _require(not general, f"cells has {', '.join(general)}, which every experiment has; leave it out")
        taken = [name for name in (*known, *self.metrics) if name in RESERVED]
        _require(not taken, f"{', '.join(taken)} is a column of every run; choose another name")
        taken = [name for name in known if name in RESERVED_KEYS]
        _require(not taken, f"the config key {', '.join(taken)} has another meaning; choose another name")
        _require(isinstance(self.metrics, Mapping), "metrics is not a mapping of names to meanings")
        odd = [name for name in self.metrics if not _METRIC.fullmatch(name)]
        _require(not odd, f"metrics has {odd}; a name has letters, digits and _, at most 64")
        odd = [name for name, said in self.metrics.items() if not isinstance(said, str) or "\n" in said]
        _require(not odd, f"the meaning of {', '.join(odd)} is not one line")
        _check_fields(self.config)
        both = [name for name in self.metrics if name in known]
        _require(not both, f"{', '.join(both)} is a metric and a config key")
        unknown = [name for name in self.shown if name not in self.metrics]
        _require(not unknown, f"shown has {', '.join(unknown)}, which metrics lacks")
        is_gate = self.gate is None or (isinstance(self.gate, Gate) and math.isfinite(self.gate.least))
        _require(is_gate, "the gate is no Gate with a finite number")
        _require(
            self.gate is None or self.gate.metric in self.metrics,
            f"the gate '{self.gate}' is about a metric that metrics lacks",
        )
        _require(self.pack >= 1, "pack is below 1")
        _require(bool(self.runner) != bool(self.function), "give either runner or function")
        odd = [name for name in (*self.figures, *self.analyses) if not _COMMAND.fullmatch(name)]
        _require(not odd, f"figures and analyses have {odd}; a name has a-z, 0-9 and -, at most 40")
        commands = (*self.figures.items(), *self.analyses.items())
        odd = [name for name, one in commands if not isinstance(one, Command) or "\n" in one.about]
        _require(not odd, f"{', '.join(odd)} is no Command with a line of help")
        paths = (self.runner, self.function, self.ready, self.progress, self.numbers, self.gallery)
        for path in filter(None, (*paths, *(one.code for _, one in commands))):
            _require(_DOTTED.fullmatch(path), f"'{path}' is not of the form module:name")
        _require(self.presets, "presets is empty; give at least {'default': {}}")
        given = {key: ("" if fitting(self.config, key) else ASSET) + "0" * 64 for key in needs(self.config)}
        for name, values in self.presets.items():
            general = [key for key in values if key in keys(RunConfig)]
            _require(not general, f"preset '{name}' sets {', '.join(general)}, which specs set")
            try:
                build(self.config, {**given, "experiment": self.name, "preset": name, **values})
            except ConfigError as error:
                raise ConfigError(f"preset '{name}': {error}") from None

    def stored(self) -> dict[str, Any]:
        """What a store keeps with the runs, as JSON, so that they can be read without this code."""
        return {
            "keys": list(self.keys),
            "cells": list(self.cells),
            "metrics": dict(self.metrics),
            "shown": list(self.shown or list(self.metrics)[:1]),
            "gate": None if self.gate is None else [self.gate.metric, self.gate.least],
            "needs": list(needs(self.config)),
            "before": dict(added(self.config)),
        }


def _check_fields(config: type) -> None:
    """Check each config key: its type, default, bounds and value before."""
    types = get_type_hints(config)
    for one in fields(config):
        kind = type(one.default)
        _require(kind in get_args(Scalar), f"{one.name}: its default is no bool, int, float or str")
        _require(types[one.name] is kind, f"{one.name}: its type is not {kind.__name__}, as its default")
        coerce(config, one.name, one.default)
        takes = one.metadata.get("need", True) or one.metadata["asset"]
        _require(takes, f"the need {one.name} takes neither a run nor a file")
    added(config)


def _require(holds: object, message: str) -> None:
    require(bool(holds), message, keys=("experiment",))
