"""The sweeps that were launched, from the text that the store keeps of every launch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagination.schema import ConfigError
from results_db.contract import Store
from sweeps.spec.document import SpecError
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.model import Exclusion, Part, Row, Seeds, Spec
from sweeps.spec.sample import Distribution


@dataclass(frozen=True)
class Launched:
    """What was launched into a store.

    Attributes:
        sweeps: one spec per name, which holds the cells of all launches of that name and the launcher of the last,
            and its expansion.
        unreadable: names of those whose text this version does not understand.
    """

    sweeps: Sequence[tuple[Spec, Expansion]]
    unreadable: Sequence[str]


def launched(store: Store) -> Launched:
    """Every sweep that was launched into the store."""
    sweeps, unreadable = [], []
    for name, texts in _texts(store).items():
        try:
            spec = _united(texts)
            sweeps.append((spec, expand(spec)))
        except (ValueError, SpecError, ConfigError):
            unreadable.append(name)
    return Launched(sweeps, unreadable)


def find(store: Store, name: str) -> Spec:
    """The spec of the sweep that was launched into the store under this name.

    Raises:
        SpecError: there is none, or its text is of another version.
    """
    texts = _texts(store)
    if name not in texts:
        raise SpecError(f"launched into this store: {', '.join(texts) or 'nothing'}")
    try:
        return _united(texts[name])
    except ValueError:
        raise SpecError(
            f"the text that was launched as {name} is of another version; give its file"
        ) from None


def _texts(store: Store) -> dict[str, list[str]]:
    """Name to the texts of its launches, the last launched last."""
    texts: dict[str, list[str]] = {}
    for launch in store.launches():
        texts.setdefault(launch.name, []).append(launch.spec)
    return texts


def recompose(text: str) -> Spec:
    """The spec whose `composed` this is.

    Raises:
        ValueError: it is no spec's, or that of another version.
    """
    try:
        said = json.loads(text)
        parts = [_part(part) for part in said["parts"]]
        return Spec(name=said["name"], parts=parts, launcher=said["launcher"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a composed spec of this version: {error!r}") from error


def _part(said: Mapping[str, Any]) -> Part:
    return Part(
        **{
            **said,
            "rows": [Row(**row) for row in said["rows"]],
            "exclude": [Exclusion(**exclusion) for exclusion in said["exclude"]],
            "sample": {key: Distribution(**drawn) for key, drawn in said["sample"].items()},
            "seeds": Seeds(**said["seeds"]),
            "overridden": frozenset(said["overridden"]),
        }
    )


def _united(texts: Sequence[str]) -> Spec:
    """The cells of all of them; equal ones are united when they are expanded."""
    specs = [recompose(text) for text in texts]
    parts: list[Part] = []
    for spec in specs:
        parts += [part for part in spec.parts if part not in parts]
    return Spec(name=specs[-1].name, parts=parts, launcher=specs[-1].launcher)
