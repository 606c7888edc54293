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
        _copy(given, kept)


def check(expansion: Expansion, files: Files) -> None:
    """Check that the files fit the runs that need them; `provide` has copied them.

    Raises:
        ConfigError: see `RunConfig.check_needs`.
    """
    for cell in expansion.cells:
        assets = {key: need for key, need in cell.needs.items() if isinstance(need, AssetNeed)}
        if assets:
            kind: type[RunConfig] = registry.config_type(str(cell.template["experiment"]))
            paths = {key: files.asset(need.sha256) for key, need in assets.items()}
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
