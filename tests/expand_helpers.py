"""A spec's text expanded in a folder."""

from pathlib import Path

from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import load

HEAD = "experiment: life_state\n"


def expanded(folder: Path, text: str, **others: str) -> Expansion:
    """What the spec `s.yaml` with this text gives; `others` are the texts of files beside it, by name."""
    for name, other in others.items():
        (folder / f"{name}.yaml").write_text(other)
    (folder / "s.yaml").write_text(text)
    return expand(load(folder / "s.yaml"))


def columns(expansion: Expansion) -> list[dict[str, object]]:
    """What tells the cells apart."""
    return [dict(cell.columns) for cell in expansion.cells]
