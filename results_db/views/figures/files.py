"""Pictures as files: PNG or SVG by the name's ending, written whole or not at all."""

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from results_db.contract import StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.25
"""Width of a paper's column, in inches."""

_DPI = 300
_ENDINGS = (".png", ".svg")


def check(path: Path) -> Path:
    """The path of a picture that is going to be written, before any work is done for it.

    Raises:
        StoreError: another kind of file, or a folder that is not there.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise StoreError(f"-o: '{path}' ends in neither .png nor .svg, the two kinds of pictures")
    if not path.parent.is_dir():
        raise StoreError(f"-o: the folder {path.parent} does not exist; create it, or name another file")
    if path.is_dir():
        raise StoreError(f"-o: {path} is a folder; name a file in it, or another")
    return path


def save(figure: "Figure", path: Path) -> None:
    """Writes the picture beside its place and then moves it there; equal figures give equal files.

    Raises:
        StoreError: it cannot be written.
    """
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with rc_context({"svg.hashsalt": "imagine-results"}):
            figure.savefig(partial, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; name another file with -o") from None
    finally:
        partial.unlink(missing_ok=True)
