"""`KEY=VALUE` on a command line, in Hydra's grammar, for every command that takes overrides."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from imagination.schema import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def parse(text: str) -> "Override":
    """One override.

    Raises:
        ConfigError: the text is not in Hydra's grammar.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow to import: only if needed
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"'{text}' is not KEY=VALUE in Hydra's grammar: {reason}") from None


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
