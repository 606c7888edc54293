"""Whether a path lies on a network file system, as Linux's mount table says."""

import os
import re
from pathlib import Path

LOCAL_TYPES = frozenset(
    (
        "aufs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs", "nilfs2", "ntfs",
        "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
    )
)  # fmt: skip
"""File systems of one machine, on which SQLite's locks and its write-ahead log work. Any other may be shared: new
network file systems appear, and most programs that mount one through FUSE do not say so."""

_OCTAL = re.compile(r"\\([0-7]{3})")
"""An octal escape, by which the mount table writes blanks, tabs, newlines and backslashes."""


def on_network(path: Path) -> bool:
    """Whether this path, which need not exist yet, lies on a file system that several machines share.

    IMAGINE_MOUNTS names the mount table; default: /proc/self/mountinfo. False if there is no such table. True if the
    file system is not known to be local.
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
    return kind not in LOCAL_TYPES


def _mount(line: str) -> tuple[Path, str] | None:
    """Mount point and type, from `36 35 98:0 /root /point options [optional ...] - type source options`."""
    head, _, tail = line.partition(" - ")
    fields, fs_type = head.split(" "), tail.partition(" ")[0]
    if len(fields) < 6 or not fs_type:
        return None
    return Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])), fs_type
