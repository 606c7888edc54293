"""Finds, reads and expands a spec."""

import re
from collections.abc import Sequence
from pathlib import Path

from imagination import registry
from imagination.schema import nearest, plain
from sweeps.spec import sections
from sweeps.spec.document import Node, SpecError, read
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.model import Part, Spec
from sweeps.spec.overrides import apply_overrides

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # the store keeps 200 characters
_NAME_RULE = "is not 1 to 200 letters, digits, '.', '_' and '-', a letter or digit first"


FOLDER = Path(__file__).parents[1]
"""Where the specs lie that come with the package."""


def expand_spec(name: str | Path, overrides: Sequence[str] = ()) -> tuple[Spec, Expansion]:
    """Loads a spec, applies the overrides and expands it.

    Raises:
        SpecError: see `load`, `apply_overrides` and `expand`.
    """
    spec = apply_overrides(load(name), overrides)
    return spec, expand(spec)


def shipped() -> dict[str, Path]:
    """The specs that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def about(path: Path) -> str:
    """A spec's purpose: its first line, if that is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find(name: str, *, beside: Path | None = None) -> Path:
    """The file of a spec, by its path (relative to `beside`, if given) or by the name of a shipped spec.

    Raises:
        SpecError: there is no such spec, or the path is a folder.
    """
    path = (beside or Path()) / name
    if path.is_file():
        return path
    specs = shipped()
    if (found := specs.get(name.removesuffix(".yaml"))) is not None:
        return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    ships = "a spec that ships (imagine-sweep list)"
    if path.is_dir():
        raise SpecError(f"{path} is a folder; name a YAML file in it, or {ships}")
    file = path.with_name(f"{path.name}.yaml")
    hint = f" (did you mean the file {file}?)" if file.is_file() else nearest(path.stem, specs)
    raise SpecError(f"no spec {path}{hint}; give a YAML file or {ships}")


def load(named: str | Path, *, above: tuple[Path, ...] = (), known: set[Path] | None = None) -> Spec:
    """Reads a spec and its includes, and checks values.

    Args:
        named: a file, or a spec that ships.
        above: the files that include it.
        known: files that are included already; they are not read again, because equal cells are united.

    Raises:
        SpecError: see `find`; or anything but a cell is wrong. `expand` reports wrong cells.
    """
    path = find(str(named))
    root = read(path)
    if root.value is None:
        root.fail("the spec is empty; it needs at least `experiment:` or `include:`")
    entries = root.mapping("the spec")
    _check_top(entries)
    known = set() if known is None else known
    included = _included(path, entries["include"], above, known=known) if "include" in entries else []
    name = _name(path, entries.get("name"))
    launcher = {key: value for spec in included for key, value in spec.launcher.items()}
    if "launcher" in entries:
        launcher |= sections.launcher(entries["launcher"])
    return Spec(
        name=name,
        parts=[part for spec in included for part in spec.parts] + _own_parts(root, entries, name),
        launcher=launcher,
    )


def _check_top(entries: dict[str, Node]) -> None:
    for key, node in entries.items():
        if key not in sections.TOP_KEYS:
            config_keys = registry.config_keys()
            hint = "" if key in config_keys else nearest(key, [*sections.TOP_KEYS, *config_keys])
            node.fail(
                f"unknown key '{key}'{hint}; valid: {', '.join(sections.TOP_KEYS)}; "
                "give config keys under `base:`, `cells:` or `grid:`"
            )


def _name(path: Path, node: Node | None) -> str:
    name = path.stem if node is None else node.word("name")
    if not _NAME.fullmatch(name):
        if node is None:
            raise SpecError(f"{path}: name: {plain(name)} {_NAME_RULE}; give the spec a `name:`")
        node.fail(f"name: {plain(name)} {_NAME_RULE}")
    return name


def _included(path: Path, node: Node, above: tuple[Path, ...], *, known: set[Path]) -> list[Spec]:
    chain = (*above, path.resolve())
    specs = []
    for item in node.items("include"):
        name = item.word("include")
        try:
            file = find(name, beside=path.parent)
        except SpecError as error:
            item.fail(f"include: {error}")
        if file.resolve() in chain:
            cycle = " -> ".join(link.name for link in (*chain[chain.index(file.resolve()) :], file))
            item.fail(f"include: {cycle} is a cycle")
        if file.resolve() not in known:
            known.add(file.resolve())
            specs.append(load(file, above=chain, known=known))
    return specs


def _own_parts(root: Node, entries: dict[str, Node], name: str) -> list[Part]:
    """The file's own cells. A file that only includes others has none, and may have no section about cells."""
    if "include" not in entries or entries.keys() & {"cells", "grid", "zip"}:
        return [sections.part(root, entries, spec=name)]
    for key in sections.PART_KEYS:
        if key in entries:
            entries[key].fail(
                f"{key}: has no effect, because included files keep their own; remove it, or add `cells:`"
            )
    return []
