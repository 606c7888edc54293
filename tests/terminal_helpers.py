"""Commands in a real terminal, and what they write there."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(*command: str, columns: int = 80, **variables: str) -> str:
    """What the command writes in a terminal with so many columns and 24 lines, as it is before it wraps."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**kept, "TERM": "xterm", **variables}
    )
    os.close(slave)
    written = b""
    with suppress(OSError), os.fdopen(master, "rb", buffering=0) as terminal:
        while part := terminal.read(65536):
            written += part
    process.wait(timeout=60)
    return written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """The text without escape sequences."""
    return ESCAPES.sub("", text)


def widest(text: str) -> int:
    """The length of the longest line, without escape sequences."""
    return max(map(len, plain(text).splitlines()))
