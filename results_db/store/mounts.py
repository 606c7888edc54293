"""Whether a path lies on a network file system, as Linux's mount table says."""

import os
import re
from pathlib import Path

NETWORK_TYPES = frozenset(
    {
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "gfs",
            "gfs2",
            "glusterfs",
            "gpfs",
            "lustre",
        ),
        *(
            "ncpfs",
            "nfs",
            "nfs4",
            "ocfs2",
            "orangefs",
            "panfs",
            "pvfs2",
            "smb",
            "smb2",
            "smb3",
            "smbfs",
            "wekafs",
        ),
        *("fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.quobyte"),
        *("fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
    }
)
"""File systems that several machines share, so that SQLite's locks and its write-ahead log cannot be trusted."""


def on_network(path: Path, mounts: Path | None = None) -> bool:
    """Whether this path, which need not exist yet, lies on a file system that several machines share.

    Args:
        path: a file or folder.
        mounts: a mount table, as /proc/self/mountinfo is written; default: the one that IMAGINE_MOUNTS names, else
            that file. Where it cannot be read, nothing is known to be on a network.
    """
    table = mounts or Path(os.environ.get("IMAGINE_MOUNTS") or "/proc/self/mountinfo")
    try:
        lines = os.fsdecode(table.read_bytes()).split("\n")  # a folder's name may hold any other line end
    except OSError:
        return False
    place = path.resolve()
    # Of mounts on the same folder the last one hides those before it.
    longest, kind = -1, ""
    for point, fs_type in filter(None, map(_mount, lines)):
        if place.is_relative_to(point) and len(point.parts) >= longest:
            longest, kind = len(point.parts), fs_type
    return kind in NETWORK_TYPES


def _mount(line: str) -> tuple[Path, str] | None:
    """Mount point and type of a line: `36 35 98:0 /root /point options [optional ...] - type source options`."""
    head, dash, tail = line.partition(" - ")
    fields, rest = head.split(" "), tail.split(" ")
    if not dash or len(fields) < 6 or not rest[0]:
        return None
    return Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])), rest[0]


_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the table writes a blank, a tab, a newline and a backslash."""
