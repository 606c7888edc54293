"""Which code this process runs, and a copy of it for jobs that start later. Torch-free."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from imagination.registry import places

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("imagination", "jobs", "results_db", "slurm", "sweeps")
_EXECUTED = ("imagination", "jobs", "results_db", "slurm")
_ABOUT = "code.json"


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        commit: the commit of its source tree; None outside its own git checkout.
        dirty: whether the tree has changes since then; None outside its own git checkout.
        digest: of the files that jobs execute, with those of installed packages that add experiments. It tells two
            states apart also without git.
    """

    commit: str | None
    dirty: bool | None
    digest: str

    def describe(self) -> str:
        """`commit 1a2b3c4d5e`, perhaps `with changes`; without git, the beginning of the digest."""
        if self.commit is None:
            return f"code {self.digest[:10]}"
        return f"commit {self.commit[:10]}" + (" with changes" if self.dirty else "")


@cache
def this_code() -> Code:
    """The code that this process has found. A copy has the commit of its original."""
    try:
        kept = json.loads((_ROOT / _ABOUT).read_text())
        commit, dirty = kept["commit"], kept["dirty"]
    except (OSError, ValueError, TypeError, KeyError):
        commit, dirty = _git()
    return Code(commit, dirty, _digest())


def copy_code(folder: Path) -> None:
    """Copy this project, and the packages that add experiments, into a new folder, from which a process can take them.

    Raises:
        OSError: it exists, or cannot be written.
    """
    folder.mkdir()
    for place in (*(_ROOT / package for package in _PACKAGES), *chain(*places().values())):
        copy = folder / place.name
        if place.is_dir():  # the folders of a namespace have one name
            shutil.copytree(place, copy, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(place, copy)
    (folder / _ABOUT).write_text(json.dumps(asdict(this_code())))


def _digest() -> str:
    digest = hashlib.sha256()
    for place in (*(_ROOT / package for package in _EXECUTED), *chain(*places().values())):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            content = path.read_bytes()
            digest.update(f"{path.relative_to(place.parent)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _git() -> tuple[str | None, bool | None]:
    """The source tree's commit and whether it is dirty; (None, None) outside its own git checkout."""
    here = Path(__file__)
    # A package installed inside another project's checkout is not part of that checkout.
    if _output("git", "ls-files", "--error-unmatch", here.name, folder=here.parent) is None:
        return None, None
    commit = _output("git", "rev-parse", "HEAD", folder=here.parent)
    # An untracked module makes the tree dirty; untracked files outside the code do not.
    changes = _output("git", "status", "--porcelain", "--", *_PACKAGES, "pyproject.toml", folder=_ROOT)
    return commit, None if changes is None else bool(changes)


def _output(*command: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
