"""Whether a path lies on a network file system, as Linux's mount table says."""

import os
import re
from pathlib import Path

NETWORK_TYPES = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "wekafs",
        "fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.quobyte",
        "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs",
    )
)  # fmt: skip
"""File systems shared by several machines, on which SQLite's locks and its write-ahead log cannot be trusted."""

_OCTAL = re.compile(r"\\([0-7]{3})")
"""An octal escape, by which the mount table writes blanks, tabs, newlines and backslashes."""


def on_network(path: Path) -> bool:
    """Whether this path, which need not exist yet, lies on a file system that several machines share.

    IMAGINE_MOUNTS names the mount table; default: /proc/self/mountinfo. False if the table cannot be read.
    """
    table = Path(os.environ.get("IMAGINE_MOUNTS") or "/proc/self/mountinfo")
    try:
        lines = os.fsdecode(table.read_bytes()).split("\n")  # a folder's name may contain any other line end
    except OSError:
        return False
    place = path.resolve()
    # If several file systems are mounted on one folder, the last hides the others.
    longest, kind = -1, ""
    for point, fs_type in filter(None, map(_mount, lines)):
        if place.is_relative_to(point) and len(point.parts) >= longest:
            longest, kind = len(point.parts), fs_type
    return kind in NETWORK_TYPES


def _mount(line: str) -> tuple[Path, str] | None:
    """Mount point and type, from `36 35 98:0 /root /point options [optional ...] - type source options`."""
    head, _, tail = line.partition(" - ")
    fields, fs_type = head.split(" "), tail.partition(" ")[0]
    if len(fields) < 6 or not fs_type:
        return None
    return Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])), fs_type
