"""`KEY=VALUE` on a command line, in Hydra's grammar, for every command that takes overrides."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from imagination.schema import ConfigError, plain

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def parse(text: str) -> "Override":
    """One override.

    Raises:
        ConfigError: the text is not in Hydra's grammar, or nested too deeply.
    """
    from hydra.errors import HydraException  # slow to import: only if needed

    try:
        return _parse(text)
    except HydraException as error:
        what = f"'{text}' is not KEY=VALUE in Hydra's grammar"
        reason = str(error).strip().splitlines()[0]
    except RecursionError:
        raise ConfigError(f"'{plain(text)}' is nested too deeply; use fewer brackets") from None
    quoted = _quoted(text)
    with suppress(HydraException):
        _parse(quoted)
        raise ConfigError(f"{what}; put text in quotes: {shlex.quote(quoted)}")
    raise ConfigError(f"{what}: {reason}")


def _parse(text: str) -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(text)


def _quoted(text: str) -> str:
    """The override with its value in quotes; of a list, each item."""
    key, given, value = text.partition("=")
    if not given:
        return text
    if value.startswith("[") and value.endswith("]"):
        return f"{key}=[{', '.join(_in_quotes(item) for item in value[1:-1].split(','))}]"
    return f"{key}={_in_quotes(value)}"


def _in_quotes(text: str) -> str:
    """The text in quotes, unless quotes or brackets in it say that it is more than plain text."""
    return text if set(text) & set("\"'[]{}()") else f'"{text.strip()}"'


def values(override: "Override") -> Iterator[object]:
    """The values of an axis, or the one value of a plain override.

    Of axes, only choices and ranges have values here. A range may have more values than fit into memory.
    """
    from hydra.errors import HydraException

    if not override.is_sweep_override():
        yield override.value()
    elif override.is_choice_sweep() or override.is_range_sweep():
        try:
            yield from override.sweep_iterator(transformer=lambda value: value)
        except (HydraException, ValueError):  # a glob, or a range with step 0
            return
