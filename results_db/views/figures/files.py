"""Figures as files: PNG, SVG or PDF by the ending of the name."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results_db.contract import StoreError
from results_db.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 300
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Leaves the time out, so that equal figures give equal files."""

_ENDINGS = (".png", ".svg", ".pdf")


def check(path: Path, *, force: bool, endings: Sequence[str] = _ENDINGS) -> Path:
    """Check the path of a file before any work is done, and return it.

    Raises:
        StoreError: it has another ending, its folder does not exist, it is a folder itself, or it exists and `force`
            is not set.
    """
    if path.suffix.lower() not in endings:
        raise StoreError(f"-o: '{path}' does not end in {' or '.join(endings)}; give a name that does")
    if not path.parent.is_dir():
        raise StoreError(f"-o: the folder {path.parent} does not exist; create it, or name another file")
    if path.is_dir():
        raise StoreError(f"-o: {path} is a folder; name a file")
    if path.exists() and not force:
        raise StoreError(f"{path} exists; overwrite it with --force, or name another file with -o")
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
            figure.savefig(data, format=kind, dpi=_DPI, metadata=_UNDATED.get(kind))
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; name another file with -o") from None
