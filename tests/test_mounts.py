"""Which file systems machines share, read from mount tables."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results_db.store.mounts import on_network

TABLE = r"""
21 26 0:20 / /proc rw,nosuid shared:5 - proc proc rw
26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 26 0:41 / /home rw,relatime shared:2 master:3 - nfs4 server:/home rw,vers=4.2
41 40 0:42 / /home/me/local rw - ext4 /dev/sdb1 rw
42 26 0:43 / /scratch rw - lustre 10.0.0.1@tcp:/fs rw
43 26 0:44 / /my\040disk rw - cifs //nas/share rw
44 26 0:45 / /mnt/ssh rw - fuse.sshfs me@host: rw
45 26 0:46 / /mnt/fuse rw - fuse.gocryptfs /x rw
46 26 0:47 / /twice rw - nfs server:/a rw
47 26 0:48 / /twice rw - tmpfs tmpfs rw
49 26 0:50 / /vm rw - virtiofs host rw
50 26 0:51 / /auto rw - autofs systemd-1 rw
a line that says nothing
48 26 0:49 / /broken rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mount table that IMAGINE_MOUNTS names."""
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    monkeypatch.setenv("IMAGINE_MOUNTS", str(path))
    return path


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/", False),
        ("/var/x.db", False),
        ("/home", True),
        ("/home/me/x.db", True),
        ("/homes/x.db", False),  # not below /home
        ("/home/me/local/x.db", False),  # a disk mounted below the shared one
        ("/home/me/../../var/x.db", False),
        ("/scratch/a/b/c.db", True),
        ("/my disk/x.db", True),  # \040 is a blank
        ("/mnt/ssh/x.db", True),
        ("/mnt/fuse/x.db", True),  # unknown: it may be shared
        ("/vm/x.db", True),
        ("/auto/x.db", True),
        ("/twice/x.db", False),  # what is mounted last hides what was there
        ("/broken/x.db", False),
    ],
)
@pytest.mark.usefixtures("table")
def test_the_innermost_mount_decides(path: str, shared: bool) -> None:
    assert on_network(Path(path)) is shared


@pytest.mark.usefixtures("table")
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/scratch")
    assert on_network(tmp_path / "link" / "x.db")


def test_without_a_table_nothing_is_shared(table: Path) -> None:
    table.unlink()
    assert not on_network(Path("/scratch"))


def test_a_path_without_a_mount_may_be_shared(table: Path) -> None:
    table.write_text("40 26 0:41 / /home rw - ext4 /dev/sda1 rw\n")
    assert on_network(Path("/scratch/x.db"))


def test_by_default_the_kernels_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGINE_MOUNTS")
    assert on_network(Path("/proc/x.db"))  # no file system for files


def shared_by(table: bytes, path: Path, folder: Path) -> bool:
    """Whether `path` is shared according to this table. A fixture would not be reset between hypothesis' examples."""
    (folder / "mountinfo").write_bytes(table)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IMAGINE_MOUNTS", str(folder / "mountinfo"))
        return on_network(path)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
        lambda s: s not in "..."
    )
)
def test_any_name_of_a_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """The kernel writes blank, tab, newline and backslash in octal."""
    written = name
    for character in "\\ \t\n":  # the backslash first
        written = written.replace(character, f"\\{ord(character):03o}")
    folder = tmp_path_factory.mktemp("m")
    table = f"26 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 26 0:41 / /{written} rw - nfs s:/x rw\n".encode()
    assert shared_by(table, Path("/") / name / "x.db", folder)
    assert not shared_by(table, Path("/other-than-that/x.db"), folder)


@given(st.binary())
def test_noise_is_no_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    assert shared_by(noise, Path("/x"), tmp_path_factory.mktemp("m")) in (True, False)
