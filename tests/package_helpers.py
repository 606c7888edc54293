"""Small packages that declare experiments, written as `pip install` would leave them."""

from collections.abc import Mapping
from pathlib import Path

DECLARATION = """
from imagination.declaration import Command, Declaration
from imagination.schema import RunConfig

"""


def install(site: Path, name: str, *, experiments: Mapping[str, str], code: str = "") -> None:
    """Writes a package with a module `name.code`, and experiments: name to what its declaration says further."""
    package = site / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "code.py").write_text(code)
    declared = [
        f"{one} = Declaration(name='{one}', config=RunConfig, metrics={{'score': ''}}, "
        f"function='{name}.code:run', {said})\n"
        for one, said in experiments.items()
    ]
    (package / "declaration.py").write_text(DECLARATION + "".join(declared))
    about = site / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = [f"{one} = {name}.declaration:{one}\n" for one in experiments]
    (about / "entry_points.txt").write_text(f"[imagine_sweep.experiments]\n{''.join(points)}")
