"""The command line of `jobs.train`: checked before Hydra reads it, so that errors are one line."""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import islice
from typing import NoReturn

from hydra.core.override_parser.types import Override
from typing_extensions import override

from imagination import registry
from imagination.schema import ConfigError, coerce
from jobs.overrides import parse as parse_override
from jobs.overrides import values
from results_db.store.address import locate

_MOST_VALUES = 10_000
"""How many values of an axis are checked here. The others are checked when their run begins."""


class _Parser(ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see python -m jobs.train --help")


def parse(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's options and the overrides of a command line, which may come in any order.

    `--db` is removed and put into IMAGINE_DB. It is not an override, because Hydra's grammar does not allow every path.

    Raises:
        ConfigError: an unknown option.
        StoreError: `--db` is not the address of a store.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--db")
    parsed, rest = parser.parse_known_args(list(arguments))
    if parsed.db is not None:
        locate(parsed.db)  # here, so that an error names `--db` and not the variable
        os.environ["IMAGINE_DB"] = parsed.db
    overrides: list[str] = _hydra_parser().parse_intermixed_args(rest).overrides
    return [argument for argument in rest if argument not in overrides], overrides


def _hydra_parser() -> _Parser:
    """The options of Hydra 1.3, which has no public parser of its own."""
    parser = _Parser(add_help=False)
    for flag in ("-h --help", "--hydra-help", "--version", "--resolve", "-r --run", "-m --multirun"):
        parser.add_argument(*flag.split(), action="store_true")
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    for option in ("-p --package", "-cp --config-path", "-cn --config-name", "-cd --config-dir"):
        parser.add_argument(*option.split())
    parser.add_argument("--experimental-rerun")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    shown = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("-i", "--info", nargs="?", choices=shown)
    parser.add_argument("overrides", nargs="*")
    return parser


def check(overrides: Sequence[str]) -> str:
    """Checks overrides, and returns their experiment. Hydra would answer the same mistakes with a page of text.

    Raises:
        ConfigError: wrong syntax, an unknown key, or a value that is not allowed.
    """
    chosen: dict[str, Override] = {}
    for text in overrides:
        parsed = parse_override(text)
        key = str(parsed.key_or_group)
        if key in chosen:
            raise ConfigError(f"{key} is given twice")
        if key.split(".", 1)[0].split("/", 1)[0] not in ("hydra", "run"):
            chosen[key] = parsed
    named = chosen.get("experiment")
    experiment = str(named.value()) if named else registry.names()[0]
    config_type = registry.config_type(experiment)
    for key, parsed in chosen.items():
        found = list(islice(values(parsed), _MOST_VALUES))
        if not found and (parsed.is_choice_sweep() or parsed.is_range_sweep()):
            raise ConfigError(f"'{parsed.input_line}' gives no values; write them out: {key}=1,2")
        for value in found:
            coerced = coerce(config_type, key, value)
            if key == "preset":
                registry.preset(experiment, str(coerced))
    return experiment
