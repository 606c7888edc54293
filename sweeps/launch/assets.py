"""Copies the files that runs build on into the store's folder, where their jobs find them by digest."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from imagination.schema import ConfigError
from results_db.files import Files, digest
from sweeps.spec.model import Spec
from sweeps.spec.needs import AssetNeed, Need


def provide(spec: Spec, files: Files) -> None:
    """Copy the files that the spec's runs need, unless the folder has them.

    Raises:
        ConfigError: a file is missing, or is not the one that the spec means.
    """
    for folder, need in _assets(spec):
        kept = files.asset(need.sha256)
        if digest(kept) == need.sha256:
            continue
        given = folder / need.asset
        found = digest(given)
        source = f"; get it from {need.source}" if need.source else ""
        if found is None:
            raise ConfigError(f"needs: the file {given} is missing{source}")
        if found != need.sha256:
            raise ConfigError(f"needs: the file {given} has the digest {found}, not {need.sha256}{source}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        copy = kept.with_name(f"{kept.name}.tmp")
        shutil.copyfile(given, copy)
        copy.replace(kept)


def _assets(spec: Spec) -> Iterator[tuple[Path, AssetNeed]]:
    for part in spec.parts:
        yield from ((Path(part.file).parent, need) for need in _files(part.needs))


def _files(needs: Mapping[str, Need]) -> Iterator[AssetNeed]:
    for need in needs.values():
        if isinstance(need, AssetNeed):
            yield need
        else:
            yield from _files(need.needs)
