"""A spec by its path or name: what should exist. `load`, `apply_overrides`, and the plain data they give."""

import re
from collections.abc import Sequence
from pathlib import Path

from imagination import registry
from imagination.schema import keys, nearest, plain
from sweeps.spec import sections
from sweeps.spec.document import Node, SpecError, read
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.model import Part, Spec
from sweeps.spec.overrides import apply_overrides

__all__ = ["Spec", "SpecError", "about", "apply_overrides", "find", "load", "shipped"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # the store keeps 200 characters


def shipped() -> dict[str, Path]:
    """The specs that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parents[1].glob("*.yaml"))}


def about(path: Path) -> str:
    """What a spec is for: its first line, if that is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find(name: str, *, beside: Path | None = None) -> Path:
    """The file of a spec that is named by its path, or by its name if it ships with the package.

    Args:
        name: the path or name.
        beside: the folder that a relative path starts from; default: the working directory.

    Raises:
        SpecError: there is none, or it is a folder.
    """
    path = (beside or Path()) / name
    if path.is_file():
        return path
    specs = shipped()
    if name.removesuffix(".yaml") in specs:
        return _shown(specs[name.removesuffix(".yaml")])
    listed = f"shipped specs: {', '.join(specs)}"
    if path.is_dir():
        raise SpecError(f"{path} is a folder; name a YAML file in it, or one of the {listed}")
    raise SpecError(f"no spec {path}{nearest(path.stem, specs)}; give a YAML file or one of the {listed}")


def _shown(path: Path) -> Path:
    """The path from the working directory if it lies below it, as a person would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def load(name: str | Path) -> Spec:
    """The spec, parsed; each value checked, includes read. `expand` refuses wrong cells and combinations.

    Args:
        name: a path, or the name of a spec that ships with the package.

    Raises:
        SpecError: anything wrong with the file but for its cells, in one line that names file and line.
    """
    return _load(find(str(name)), ())


def expand_spec(name: str | Path, overrides: Sequence[str] = ()) -> tuple[Spec, Expansion]:
    """A spec, changed by overrides, and its cells and runs.

    Args:
        name: see `load`.
        overrides: KEY=VALUE, as `apply_overrides` takes them.

    Raises:
        SpecError: see `load`, `apply_overrides` and `expand`.
    """
    spec = apply_overrides(load(name), overrides)
    return spec, expand(spec)


def _load(path: Path, above: tuple[Path, ...]) -> Spec:
    root = read(path)
    if root.value is None:
        root.fail("the spec is empty; it needs at least `experiment:` or `include:`")
    entries = root.mapping("the spec")
    _check_top(entries)
    included = _included(path, entries["include"], above) if "include" in entries else []
    launcher = {key: value for spec in included for key, value in spec.launcher.items()}
    if "launcher" in entries:
        launcher |= sections.launcher(entries["launcher"])
    return Spec(
        name=_name(path, entries.get("name")),
        parts=[part for spec in included for part in spec.parts] + _own_parts(root, entries),
        launcher=launcher,
    )


def _check_top(entries: dict[str, Node]) -> None:
    config_keys = [key for name in registry.EXPERIMENTS for key in keys(registry.config_type(name))]
    for key, node in entries.items():
        if key not in sections.TOP_KEYS:
            hint = "" if key in config_keys else nearest(key, [*sections.TOP_KEYS, *config_keys])
            node.fail(
                f"unknown key '{key}'{hint}; valid: {', '.join(sections.TOP_KEYS)}; "
                "config keys stand under `base:`, `cells:` or `grid:`"
            )


def _name(path: Path, node: Node | None) -> str:
    name = path.stem if node is None else node.word("name")
    if not _NAME.fullmatch(name):
        problem = (
            f"name: {plain(name)} is not 1 to 200 letters, digits, '.', '_' and '-', a letter or digit first"
        )
        if node is None:
            raise SpecError(f"{path}: {problem}; give the spec a `name:`")
        node.fail(problem)
    return name


def _included(path: Path, node: Node, above: tuple[Path, ...]) -> list[Spec]:
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
            item.fail(f"include: {cycle} is a circle")
        specs.append(_load(file, chain))
    return specs


def _own_parts(root: Node, entries: dict[str, Node]) -> list[Part]:
    """The file's own cells: none if it only includes others, and then nothing may speak of cells."""
    if "include" not in entries or entries.keys() & {"cells", "grid", "zip"}:
        return [sections.part(root, entries)]
    for key in sections.PART_KEYS:
        if key in entries:
            entries[key].fail(
                f"{key}: has no effect here; included files keep their own, and no `cells:` follow"
            )
    return []
