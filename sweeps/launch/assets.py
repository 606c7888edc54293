"""Copies the files that runs build on into the store's folder, where their jobs find them by digest."""

import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from imagination import registry
from imagination.schema import ASSET, ConfigError, RunConfig, build
from jobs import identity
from results_db.contract import PlannedRun, Store
from results_db.files import Files, digest
from results_db.text import brief, short_path
from sweeps.spec.expand import Expansion
from sweeps.spec.model import Spec
from sweeps.spec.needs import AssetNeed, Need
from sweeps.spec.stored import recompose


def find(spec: Spec, files: Files) -> dict[str, Path]:
    """Where the files are that the spec's runs need, by digest: in the store's folder, or yet beside the spec.

    Raises:
        ConfigError: a file is missing, or is not the one that the spec means.
    """
    found: dict[str, Path] = {}
    for folder, need in _assets(spec):
        given = folder / need.asset
        kept = files.asset(need.sha256)
        if files.holds(kept, need.sha256):
            found[need.sha256] = kept
        elif digest(given) == need.sha256:
            found.setdefault(need.sha256, given)
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


def check_kept(runs: Sequence[PlannedRun], store: Store, *, but: Collection[str]) -> None:
    """Check that the store's folder has the files that these runs name by their digests alone, undamaged.

    Those that `find` found (`but`) are checked already.

    Raises:
        ConfigError: one is missing or damaged.
    """
    values = {value.removeprefix(ASSET) for run in runs for value in identity.assets(run.config)}
    for sha256 in sorted(values.difference(but)):
        files = Files(store.folder)
        kept = files.asset(sha256)
        if not files.holds(kept, sha256):
            why = "is damaged" if kept.exists() else "is missing"
            source = next((need.source for need in _launched(store) if need.sha256 == sha256), "")
            get = f"get it from {source} and " if source else ""
            raise ConfigError(
                f"needs: the file {brief(ASSET + sha256)} {why} in {short_path(kept.parent)}; "
                f"{get}name its path (asset) under `needs:`"
            )


def _launched(store: Store) -> Iterator[AssetNeed]:
    """The files that the specs of earlier launches name, the last launch first."""
    for launch in reversed(store.launches()):
        with suppress(ValueError):  # another version stored it
            yield from (need for _, need in _assets(recompose(launch.spec)))


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
