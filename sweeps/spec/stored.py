"""Sweeps that were launched into a store. The store keeps the spec of every launch as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError
from results_db.contract import Store
from sweeps.spec.document import SpecError
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import expand_spec, find, load
from sweeps.spec.model import Exclusion, Part, Row, Seeds, Spec
from sweeps.spec.needs import recompose as recompose_needs
from sweeps.spec.overrides import apply_overrides
from sweeps.spec.sample import Distribution

NO_SWEEP = "this store has no launched sweep; launch one with: imagine-sweep launch SPEC"


def sweeps_of(
    store: Store, name: str | None, overrides: Sequence[str], *, report: Callable[[str], None]
) -> list[tuple[Spec, Expansion]]:
    """The sweep that `find_sweep` finds, or without a name every sweep that was launched into the store.

    A sweep is left out if another one in the store includes it with all of its runs. Sweeps are also left out if their
    stored spec cannot be read here, as without the package of its experiment; `report` is called with a line for each.
    """
    if name is not None:
        return [find_sweep(store, name, overrides, report=report)]
    sweeps = []
    for launched, texts in _texts(store).items():
        try:
            spec = _united(texts)
            sweeps.append((spec, expand(spec)))
        except ValueError:
            report(f"{launched}: left out, because another version stored its spec; name the spec's file")
        except (SpecError, ConfigError) as error:
            report(f"{launched}: left out: {str(error).splitlines()[0]}")
    return [found for found in sweeps if not any(_includes(other, found) for other in sweeps)]


def _includes(one: tuple[Spec, Expansion], other: tuple[Spec, Expansion]) -> bool:
    """Whether a sweep includes another one with all of its runs."""
    named = other[0].name in {spec.name for spec in one[0].included}
    return named and {run.run_id for run in other[1].runs} <= {run.run_id for run in one[1].runs}


def find_spec(
    store: Store, name: str, overrides: Sequence[str] = (), *, report: Callable[[str], None]
) -> tuple[Spec, Expansion]:
    """A spec by its file or shipped name, else the sweep that was launched under this name; its cells and runs.

    `report` is called with a line if a file NAME.yaml, which NAME does not mean, wants other runs.

    Raises:
        SpecError: there is neither; or see `expand_spec`.
    """
    try:
        found = find(name)
    except SpecError as missing:
        texts = _texts(store)
        if name not in texts:
            raise SpecError(f"{missing}; launched into this store: {', '.join(texts) or 'nothing'}") from None
        try:
            spec = apply_overrides(_united(texts[name]), overrides)
        except ValueError:
            raise SpecError(f"{missing}; another version stored the spec of the sweep {name}") from None
        found, used = None, "as launched"
    else:
        spec, used = apply_overrides(load(name), overrides), "the spec that ships"
    expansion, file = expand(spec), Path(f"{name}.yaml")
    if file.is_file() and not (found and found.samefile(file)) and _wants_others(file, overrides, expansion):
        report(f"{name}: {used}; to use the file {file}, name it with .yaml")
    return spec, expansion


def _wants_others(file: Path, overrides: Sequence[str], expansion: Expansion) -> bool:
    """Whether the spec in this file wants other runs than these; also if it cannot be read."""
    try:
        return _ids(expand_spec(file, overrides)[1]) != _ids(expansion)
    except SpecError:
        return True


def find_sweep(
    store: Store, name: str, overrides: Sequence[str] = (), *, report: Callable[[str], None]
) -> tuple[Spec, Expansion]:
    """The sweep of a spec as it was launched into the store.

    Before any launch, and with overrides of config keys, see `find_spec`. If one of the launches was of the spec as it
    is, this is the spec, else all launches together. The launcher is that of the last launch, with its overrides.
    `report` is called with a line if launches wanted other runs than the spec.

    Raises:
        SpecError: see `find_spec`.
    """
    spec, expansion = find_spec(store, name, overrides, report=report)
    others = [text for text in overrides if not text.startswith("launcher")]
    texts = [] if others else _texts(store).get(spec.name, [])
    try:
        wanted = [_ids(expand(recompose(text))) for text in texts]
        launched = apply_overrides(_united(texts), overrides) if texts else spec
        found = expand(launched)
    except (ValueError, SpecError, ConfigError):
        return spec, expansion  # another version stored it
    own = _ids(expansion)
    if _ids(found) == own:
        return replace(spec, launcher=launched.launcher), expansion
    if own in wanted:
        report(f"{spec.name}: other launches wanted other runs; give their overrides to see them")
        return replace(spec, launcher=launched.launcher), expansion
    report(f"{spec.name}: as launched; the spec wants other runs (imagine-sweep plan {name})")
    return launched, found


def _ids(expansion: Expansion) -> set[str]:
    return {run.run_id for run in expansion.runs}


def _texts(store: Store) -> dict[str, list[str]]:
    """Sweep name to the texts of its launches, oldest first."""
    texts: dict[str, list[str]] = {}
    for launch in store.launches():
        texts.setdefault(launch.name, []).append(launch.spec)
    return texts


def _united(texts: Sequence[str]) -> Spec:
    """One spec with the cells of all texts and the launcher of the last. `expand` merges equal cells."""
    specs = [recompose(text) for text in texts]
    parts: list[Part] = []
    for spec in specs:
        parts += [part for part in spec.parts if part not in parts]
    return Spec(name=specs[-1].name, parts=parts, launcher=specs[-1].launcher)


def recompose(text: str) -> Spec:
    """Reads a spec back from its `composed` text.

    Raises:
        ValueError: the text is not a composed spec, or another version wrote it.
    """
    try:
        said = json.loads(text)
        spec = Spec(**{**said, "parts": [_part(part) for part in said["parts"]]})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a composed spec of this version: {error!r}") from error
    if any(part.sample and not part.spec for part in spec.parts):
        raise ValueError("versions before 0.3 drew other values")
    return spec


def _part(said: Mapping[str, Any]) -> Part:
    return Part(
        **{
            **said,
            "rows": [Row(**row) for row in said["rows"]],
            "exclude": [Exclusion(**exclusion) for exclusion in said["exclude"]],
            "sample": {key: Distribution(**drawn) for key, drawn in said["sample"].items()},
            "seeds": Seeds(**said["seeds"]),
            "needs": recompose_needs(said.get("needs", {})),
            "overridden": frozenset(said["overridden"]),
        }
    )
