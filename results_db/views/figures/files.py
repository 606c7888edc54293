"""Figures as files: PNG or SVG by the ending of the name."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from results_db.contract import StoreError
from results_db.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.25
"""Width of a paper's column, in inches."""

_DPI = 300
_ENDINGS = (".png", ".svg")


def check(path: Path) -> Path:
    """Check the path of a figure before any work is done, and return it.

    Raises:
        StoreError: it does not end in .png or .svg, its folder does not exist, or it is a folder itself.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise StoreError(f"-o: '{path}' ends in neither .png nor .svg; give a name with one of these endings")
    if not path.parent.is_dir():
        raise StoreError(f"-o: the folder {path.parent} does not exist; create it, or name another file")
    if path.is_dir():
        raise StoreError(f"-o: {path} is a folder; name a file")
    return path


def save(figure: "Figure", path: Path) -> None:
    """Write the figure. A failed write leaves an old file unchanged, and equal figures give equal files.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    data = io.BytesIO()
    try:
        with rc_context({"svg.hashsalt": "imagine-results"}):
            figure.savefig(data, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; name another file with -o") from None
