"""A declaration that contradicts itself is refused in one line."""

from dataclasses import dataclass
from typing import Any

import pytest

from imagination.declaration import Command, Declaration, Gate
from imagination.schema import ConfigError, RunConfig, need, setting


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    width: int = setting(4, low=2)


@dataclass(frozen=True, kw_only=True)
class NeedsNothing(RunConfig):
    model: str = need()


@dataclass(frozen=True, kw_only=True)
class LowDefault(RunConfig):
    width: int = setting(1, low=2)


@dataclass(frozen=True, kw_only=True)
class OtherBefore(RunConfig):
    width: int = setting(4, before="wide")


@dataclass(frozen=True, kw_only=True)
class OtherType(RunConfig):
    rate: float = setting(1)


@dataclass(frozen=True, kw_only=True)
class NoDefault(RunConfig):
    width: int


class NotDecorated(RunConfig):
    width: int = setting(4)


def declared(**said: Any) -> Declaration:
    return Declaration(
        **{"name": "one", "config": Config, "metrics": {"score": ""}, "function": "a:b", **said}
    )


def test_what_needs_no_more() -> None:
    declared().check()
    declared(config=RunConfig, gate=Gate("score", 0.5), presets={"wide": {}}).check()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"name": "One!"}, "its name is not of a-z, 0-9 and _"),
        ({"config": dict}, "config is not a dataclass derived from RunConfig"),
        (
            {"config": NotDecorated},
            "config is not a dataclass derived from RunConfig",
        ),  # else width were ignored
        ({"config": LowDefault}, "width: 1 is below 2, the smallest allowed"),
        ({"config": OtherBefore}, "width: 'wide' is not an integer"),
        ({"config": OtherType}, "rate: its type is not int, as its default"),
        ({"config": NoDefault}, "width: its default is no bool, int, float or str"),
        ({"config": NeedsNothing}, "the need model takes neither a run nor a file"),
        ({"cells": ("height",)}, "cells has height, which config lacks"),
        ({"cells": ("width", "width")}, "cells names a key twice"),
        ({"cells": ("seed", "preset")}, "cells has seed, preset, which every experiment has"),
        ({"metrics": {"state": ""}}, "state is a column of every run; choose another name"),
        ({"metrics": {"width": ""}}, "width is a metric and a config key"),
        ({"metrics": ["score"]}, "metrics is not a mapping of names to meanings"),
        ({"metrics": {"score": "a\nb"}}, "the meaning of score is not one line"),
        ({"shown": ("marks",)}, "shown has marks, which metrics lacks"),
        ({"gate": Gate("marks", 0.5)}, "the gate 'marks >= 0.5' is about a metric that metrics lacks"),
        ({"gate": Gate("score", float("nan"))}, "the gate is no Gate with a finite number"),
        ({"runner": "a:b"}, "give either runner or function"),
        ({"function": "a.b"}, "'a.b' is not of the form module:name"),
        ({"figures": {"loss": "a:b"}}, "loss is no Command with a line of help"),
        ({"analyses": {"The loss": Command("a:b", "")}}, "a name has a-z, 0-9 and -, at most 40"),
        ({"pack": 0}, "pack is below 1"),
        ({"presets": {}}, "presets is empty; give at least {'default': {}}"),
        ({"presets": {"thin": {"width": 1}}}, "preset 'thin': width: 1 is below 2, the smallest allowed"),
        ({"presets": {"thin": {"seed": 1}}}, "preset 'thin' sets seed, which specs set"),
        ({"presets": {"thin": {"preset": "fat"}}}, "preset 'thin' sets preset, which specs set"),
    ],
)
def test_a_contradiction(said: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        declared(**said).check()
    text = str(refused.value)
    assert text.startswith("experiment '")
    assert line in text
    assert "\n" not in text
