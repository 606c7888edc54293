"""Copies the files that runs build on into the store's folder, where their jobs find them by digest."""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from imagination import registry
from imagination.schema import ConfigError, RunConfig, build
from results_db.files import Files, digest
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.spec.needs import AssetNeed, Need


def find(spec: Spec, files: Files) -> dict[str, Path]:
    """Where the files are that the spec's runs need, by digest: in the store's folder, or yet beside the spec.

    Raises:
        ConfigError: a file is missing, or is not the one that the spec means.
    """
    found: dict[str, Path] = {}
    for folder, need in _assets(spec):
        given = folder / need.asset
        for path in (files.asset(need.sha256), given):
            if need.sha256 not in found and digest(path) == need.sha256:
                found[need.sha256] = path
        if need.sha256 not in found:
            source = f"; get it from {need.source}" if need.source else ""
            other = digest(given)
            why = "is missing" if other is None else f"has the digest {other}, not {need.sha256}"
            raise ConfigError(f"needs: the file {given} {why}{source}")
    return found


def provide(found: Mapping[str, Path], files: Files) -> None:
    """Copy the files that the store's folder lacks.

    Raises:
        ConfigError: a file cannot be copied.
    """
    for sha256, path in found.items():
        kept = files.asset(sha256)
        if path != kept:
            _copy(path, kept)


def check(expansion: Expansion, found: Mapping[str, Path]) -> None:
    """Check that the files that `find` found fit the runs that need them.

    Raises:
        ConfigError: see `RunConfig.check_needs`.
    """
    for cell in expansion.cells:
        assets = {key: need for key, need in cell.needs.items() if isinstance(need, AssetNeed)}
        if assets:
            kind: type[RunConfig] = registry.config_type(str(cell.template["experiment"]))
            paths = {key: found[need.sha256] for key, need in assets.items()}
            try:
                build(kind, cell.template).check_needs(paths)
            except ConfigError as error:
                named = ", ".join(need.asset for need in assets.values())
                raise ConfigError(f"needs: {named}: {error}") from None


def _copy(given: Path, kept: Path) -> None:
    """Copy a file so that a crash leaves it whole or not at all; another launch may copy it at the same moment."""
    copy = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, copy)
        if digest(copy) != kept.name:
            raise ConfigError(f"needs: the file {given} changed while it was copied; launch again")
        copy.replace(kept)
    except OSError as error:
        raise ConfigError(f"needs: cannot copy {given} to {kept}: {error.strerror}") from None
    finally:
        copy.unlink(missing_ok=True)


def _assets(spec: Spec) -> Iterator[tuple[Path, AssetNeed]]:
    for part in spec.parts:
        yield from ((Path(part.file).parent, need) for need in _files(part.needs))


def _files(needs: Mapping[str, Need]) -> Iterator[AssetNeed]:
    for need in needs.values():
        if isinstance(need, AssetNeed):
            yield need
        else:
            yield from _files(need.needs)
