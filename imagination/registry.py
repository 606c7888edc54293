"""The experiments, by name: those of this package, and those that installed packages add.

A package adds one by an entry point of the group `imagine_sweep.experiments`, which names its `Declaration`. Looking a
declaration up imports no torch.
"""

import functools
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from imagination.declaration import Declaration
from imagination.figures import FigureError
from imagination.schema import ConfigError, Scalar, nearest, rebuild

log = logging.getLogger(__name__)

GROUP = "imagine_sweep.experiments"

Result = TypeVar("Result")


class CodeError(FigureError):
    """Code that a declaration names is wrong: one line that says which code, and why."""


# Not entry points in our own pyproject.toml: these are metadata of the last installation, which a checkout may be
# newer than; and which experiments are ours, so that no package replaces one, would still have to be said here.
_OWN = {
    "life_state": "imagination.life.declaration:STATE",
    "life_count": "imagination.life.declaration:COUNT",
    "chess_positions": "imagination.chess.declaration:POSITIONS",
    "chess_network": "imagination.chess.declaration:NETWORK",
    "chess_probe": "imagination.chess.declaration:PROBE",
    "chess_decoder": "imagination.chess.declaration:DECODER",
}


@functools.cache
def _known() -> dict[str, EntryPoint]:
    """The experiments by name. A package cannot replace one of ours, or of another package."""
    own = [EntryPoint(name, path, GROUP) for name, path in _OWN.items()]
    found: dict[str, EntryPoint] = {}
    for point in (*own, *sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))):
        if found.setdefault(point.name, point).value != point.value:
            log.warning(
                "experiment '%s' is taken by %s; left out: %s",
                point.name,
                found[point.name].value,
                point.value,
            )
    return found


def own() -> list[Declaration]:
    """The declarations of this package."""
    return [declaration(name) for name in _OWN]


def names() -> list[str]:
    """The names of all experiments. Imports none of them."""
    return list(_known())


@functools.cache
def declaration(experiment: str) -> Declaration:
    """The declaration of an experiment.

    Raises:
        ConfigError: there is no such experiment, or its code cannot be imported, or contradicts itself.
    """
    if experiment not in _known():
        hint, valid = nearest(experiment, names()), ", ".join(names())
        raise ConfigError(
            f"unknown experiment '{experiment}'{hint}; valid experiments: {valid}; "
            "for another one, install its package",
            key="experiment",
        )
    point = _known()[experiment]
    try:
        with _without_torch():
            found = point.load()
    except (Exception, SystemExit) as error:  # whatever a foreign module raises
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError) and error.name == "torch":
            why = "it needs torch, which the login node does not load; import torch where the runs train"
        raise ConfigError(
            f"experiment '{experiment}': {point.value} cannot be imported: {why}", key="experiment"
        ) from error
    if not isinstance(found, Declaration) or found.name != experiment:
        raise ConfigError(
            f"experiment '{experiment}': {point.value} is not the Declaration of this experiment",
            key="experiment",
        )
    try:
        found.check()
    except ConfigError:
        raise
    except Exception as error:
        why = f"experiment '{experiment}': its declaration cannot be read: {type(error).__name__}: {error}"
        raise ConfigError(why, key="experiment") from error
    return found


@contextmanager
def _without_torch() -> Iterator[None]:
    """Inside it, torch cannot be imported, unless it already is: importing it takes a second of every command."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` then raises
    try:
        yield
    finally:
        del sys.modules["torch"]


def package(experiment: str) -> tuple[str, str] | None:
    """The name and version of the package that adds an experiment; None if it is this one."""
    point = _known().get(experiment)
    distribution = None if point is None else point.dist
    return None if distribution is None else (distribution.name, distribution.version)


def places() -> dict[str, list[Path]]:
    """Where the code of installed packages that add experiments lies: folders or a file, by import name.

    Imports none of them. A package that is not there, or whose name is that of one of ours, is left out.
    """
    names = {point.module.partition(".")[0] for point in _known().values()} - {__name__.partition(".")[0]}
    found = {}
    for name in sorted(names):
        spec = importlib.util.find_spec(name)
        if spec is not None and (spec.submodule_search_locations or spec.has_location):
            found[name] = [Path(place) for place in spec.submodule_search_locations or [str(spec.origin)]]
    return found


def declarations() -> Iterator[Declaration]:
    """All declarations. One that cannot be had is named in a warning and left out."""
    for name in names():
        try:
            yield declaration(name)
        except ConfigError as error:
            log.warning("%s; left out", error)


def config_keys() -> list[str]:
    """The config keys of all experiments."""
    return list(dict.fromkeys(key for declared in declarations() for key in declared.keys))


def metrics() -> list[str]:
    """The metrics of all experiments."""
    return list(dict.fromkeys(name for declared in declarations() for name in declared.metrics))


def load(path: str) -> Any:
    """The object that `module:name` names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def load_or_warn(path: str, check: Callable[[Any], object]) -> Any | None:
    """The object that `module:name` names; None, with a warning, if it cannot be imported or `check` refuses it.

    For code without which results can be read, such as figures. `check` raises a ConfigError that says why.
    """
    try:
        found = load(path)
    except (Exception, SystemExit) as error:  # whatever a foreign module raises
        log.warning("%s cannot be imported: %s: %s; left out", path, type(error).__name__, error)
        return None
    try:
        check(found)
    except (Exception, SystemExit) as error:
        why = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        log.warning("%s: %s; left out", path, why)
        return None
    return found


def call(path: str, code: Callable[[], Result], wanted: type[Result]) -> Result:
    """What declared code gives, which must be of the type `wanted`.

    Raises:
        FigureError: the code raises one.
        CodeError: it raises something else, or gives something else.
    """
    try:
        given = code()
    except FigureError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise CodeError(f"{path} raised {type(error).__name__}: {error} ({where})") from error
    if not isinstance(given, wanted):
        raise CodeError(f"{path} returned {type(given).__name__} instead of {wanted.__name__}")
    return given


def call_or_warn(path: str, code: Callable[[], Result], wanted: type[Result]) -> Result | None:
    """See `call`; None, with a warning, instead of a CodeError."""
    try:
        return call(path, code, wanted)
    except CodeError as error:
        log.warning("%s; left out", error)
        return None


def config_type(experiment: str) -> type:
    """The config dataclass of an experiment: the schema of its specs.

    Raises:
        ConfigError: see `declaration`.
    """
    return declaration(experiment).config


def rebuilt(config: Mapping[str, Scalar]) -> Any:
    """The config of a stored run as its experiment's dataclass.

    Raises:
        ConfigError: see `declaration`, and `schema.rebuild`: the experiment may have changed since.
    """
    return rebuild(config_type(str(config["experiment"])), config)


def preset(experiment: str, name: str) -> dict[str, Scalar]:
    """The named values of an experiment's preset.

    Raises:
        ConfigError: there is no such experiment or preset.
    """
    presets = declaration(experiment).presets
    if name not in presets:
        hint = nearest(name, presets)
        raise ConfigError(
            f"unknown preset '{name}' of {experiment}{hint}; valid presets: {', '.join(presets)}",
            key="preset",
        )
    return {"experiment": experiment, "preset": name, **presets[name]}
