"""Reads a YAML file, and keeps the line of every key and item for error messages."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from typing_extensions import override

from imagination.schema import ConfigError, check_aliases, nearest, plain

MOST_LINES = 100
"""Most mistakes that are shown, so that a slip in a long axis does not fill the terminal."""


class SpecError(Exception):
    """One or more mistakes in a spec or an override, one line each: what was given, and what is allowed.

    Attributes:
        lines: the first mistakes, and a line that counts the others.
    """

    def __init__(self, *lines: str) -> None:
        more = len(lines) - MOST_LINES
        self.lines = (*lines[:MOST_LINES], f"and {more:,} more mistakes") if more > 0 else lines
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True)
class Node:
    """A part of a YAML file: its value, the file and the line (from 1)."""

    value: Any
    file: str
    line: int

    @property
    def where(self) -> str:
        """File and line, for the start of an error."""
        return f"{self.file}:{self.line}"

    def fail(self, message: str) -> NoReturn:
        """Raises SpecError, with file and line before the message."""
        raise SpecError(f"{self.where}: {message}")

    def mapping(self, what: str) -> dict[str, "Node"]:
        """The entries of a mapping, in the file's order. A SpecError if it is empty, or a key is not a word."""
        if not isinstance(self.value, Mapping):
            self.fail(f"{what}: {plain(self.value)} is not a mapping of keys to values")
        if not self.value:
            self.fail(f"{what} is empty; leave it out or give it a key")
        for key in self.value:
            if not isinstance(key, str):
                self.fail(f"{what}: the key {plain(key)} is not a word")
        return {str(key): self._child(key, value) for key, value in self.value.items()}

    def items(self, what: str) -> list["Node"]:
        """The items of a list. A SpecError if it is empty."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, str):
            self.fail(f"{what}: {plain(self.value)} is not a list; write [{plain(self.value)}]")
        if not self.value:
            self.fail(f"{what} is an empty list; leave it out or give it a value")
        return [self._child(index, value) for index, value in enumerate(self.value)]

    def word(self, what: str) -> str:
        """The value, if it is a string; else a SpecError."""
        if not isinstance(self.value, str):
            self.fail(f"{what}: {plain(self.value)} is not a word")
        return str(self.value)

    def _child(self, key: Any, value: Any) -> "Node":
        marks = getattr(getattr(self.value, "lc", None), "data", None) or {}
        line = marks[key][0] + 1 if key in marks else self.line  # a merged (`<<`) key has no line
        return Node(value, self.file, line)


class _Constructor(RoundTripConstructor):
    """Refuses an alias that stands inside what it names. Without this, ruamel puts nothing in its place."""

    @override
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node in self.recursive_objects and node not in self.constructed_objects:
            name = node.anchor
            problem = f"*{name} stands inside &{name}, which is a circle; remove it"
            raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_object(node, deep)


def read(path: Path) -> Node:
    """Reads a YAML 1.2 file: `1e-3` is a number, `no` a word, and a repeated key an error.

    Raises:
        SpecError: the file cannot be read, or is not YAML text.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{name} is not UTF-8 text; a spec is a YAML file") from None
    except OSError as error:
        raise SpecError(f"{name} cannot be read: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it; the last one counts
            yaml = YAML(typ="rt", pure=True)
            yaml.Constructor = _Constructor
            value = yaml.load(text)
        check_aliases(value)
        return Node(value, name, 1)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{name}:{line}: YAML syntax: {_first_line(error.problem)}") from None
    except ConfigError as error:
        raise SpecError(f"{name}: {error}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{name}: YAML syntax: {_first_line(str(error))}") from None


def _first_line(text: str | None) -> str:
    return (text or "the file ends too early").strip().splitlines()[0]


def check_keys(entries: Mapping[str, Node], what: str, valid: Sequence[str]) -> None:
    """Raises SpecError at the first key that is not among the valid ones."""
    for key, node in entries.items():
        if key not in valid:
            node.fail(f"unknown {what} '{key}'{nearest(key, valid)}; valid: {', '.join(valid)}")
