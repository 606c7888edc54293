"""The command line of `jobs.train`: Hydra's own, with errors of one line, checked before anything is imported."""

import os
from collections.abc import Sequence
from itertools import islice
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

from imagination import registry
from imagination.schema import ConfigError, coerce
from jobs.overrides import parse as parse_override
from jobs.overrides import values
from results_db.store.address import locate

_MOST = 10_000
"""Values of one axis that are checked beforehand; later ones are checked when their run is composed."""


def parse(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options and overrides of a command line, where they may stand in any order; `--db` goes into IMAGINE_DB.

    Raises:
        ConfigError: an option that neither Hydra nor this command has.
        StoreError: `--db` names no store.
    """
    parser = get_args_parser()
    parser.add_argument("--db")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see python -m jobs.train --help")

    parser.error = refuse  # type: ignore[method-assign]  # argparse would print a page
    parsed = parser.parse_intermixed_args(list(arguments))
    if parsed.db is not None:
        locate(parsed.db)  # complains, if it must, of `--db` and not of the variable
        # Not as an override: a path may hold what Hydra's grammar takes for its own.
        os.environ["IMAGINE_DB"] = parsed.db
    options = list(arguments)
    for override in parsed.overrides:
        options.remove(override)
    return _without_db(options), list(parsed.overrides)


def _without_db(options: Sequence[str]) -> list[str]:
    rest = iter(options)
    kept = []
    for option in rest:
        if option == "--db":
            next(rest)
        elif not option.startswith("--db="):
            kept.append(option)
    return kept


def check(overrides: Sequence[str]) -> None:
    """Refuse what Hydra would answer with a page: wrong syntax, an unknown key, a value that is not allowed.

    Raises:
        ConfigError: in one line.
    """
    chosen: dict[str, Override] = {}
    for text in overrides:
        override = parse_override(text)
        key = str(override.key_or_group)
        if key in chosen:
            raise ConfigError(f"{key} is given twice")
        if key.split(".")[0].split("/")[0] not in ("hydra", "run"):
            chosen[key] = override
    named = chosen.get("experiment")
    experiment = str(named.value()) if named else next(iter(registry.EXPERIMENTS))
    config_type = registry.config_type(experiment)
    for key, override in chosen.items():
        for value in islice(values(override), _MOST):
            coerced = coerce(config_type, key, value)
            if key == "preset":
                registry.preset(experiment, str(coerced))
