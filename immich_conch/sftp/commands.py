"""`ssh … sha1sum FILE`: the one command there is, for rclone's `check` and `--checksum`.

rclone tries a shell, by `echo ${ShellId}%ComSpec%`, then hash programs without an argument, which
would hash an empty stdin, and remembers what answered; the answers here let it find a Unix shell
and `sha1sum` (CLIENTS.md, section 3).  Whatever else is asked for gets the avatar's one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import define
from twisted.internet.defer import DeferredSemaphore

from immich_conch.errors import ConchError, NotFound, SessionRevoked
from immich_conch.library.paths import parse
from immich_conch.sftp.hashes import Hashes

#: Bytes of a command that are looked at, and files it may name: OpenSSH passes on no more words.
MOST_BYTES = 32 * 1024
MOST_FILES = 1000
#: Commands of one user that run at once; rclone checks four to eight files side by side.
PARALLEL = 8

_SHELL_PROBE = b"echo ${ShellId}%ComSpec%"
_SHELL_ANSWER = b"%ComSpec%\n"
#: Nobody's stdin is read: it is taken for empty.
_OF_STDIN = b"da39a3ee5e6b4b0d3255bfef95601890afd80709  -\n"
#: What means something to a shell that is none: such a command is not one of ours.
_SPECIAL = b"\n;&|<>()$`"
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}

Print = Callable[[bytes], None]


def words(command: bytes) -> list[bytes] | None:
    """The words of a simple command, quoted as for a POSIX shell; None for anything more."""
    found: list[bytes] = []
    word: bytearray | None = None
    at, end = 0, len(command)
    while at < end:
        char = command[at : at + 1]
        at += 1
        if char in (b" ", b"\t"):
            if word is not None:
                found.append(bytes(word))
                word = None
            continue
        if char in _SPECIAL:
            return None
        word = bytearray() if word is None else word
        if char == b"'":
            close = command.find(b"'", at)
            if close < 0:
                return None
            word += command[at:close]
            at = close + 1
        elif char == b'"':
            piece, at = _double_quoted(command, at)
            if piece is None:
                return None
            word += piece
        elif char == b"\\":
            if at == end:
                return None
            if command[at : at + 1] != b"\n":  # a line goes on
                word += command[at : at + 1]
            at += 1
        else:
            word += char
    if word is not None:
        found.append(bytes(word))
    return found


def _double_quoted(command: bytes, at: int) -> tuple[bytes | None, int]:
    """What stands up to the closing quote, and where that ends; None if it is more than text."""
    piece = bytearray()
    while at < len(command):
        char, after = command[at : at + 1], command[at + 1 : at + 2]
        at += 1
        if char == b'"':
            return bytes(piece), at
        if char in (b"$", b"`"):
            return None, at
        if char == b"\\" and after in (b"$", b"`", b'"', b"\\", b"\n"):
            at += 1
            if after != b"\n":
                piece += after
        else:
            piece += char
    return None, at


def line(digest: bytes, name: bytes) -> bytes:
    """A line as coreutils' sha1sum writes it: a name that needs escapes is marked by one."""
    escaped = re.sub(rb"[\\\n\r]", lambda found: _ESCAPES[found[0]], name)
    mark = b"\\" if escaped != name else b""
    return mark + digest.hex().encode() + b"  " + escaped + b"\n"


@define(eq=False, repr=False)
class Commands:
    """What one connection of a user may run; `slots` are shared by all of that user."""

    hashes: Hashes
    slots: DeferredSemaphore

    async def run(self, command: bytes, out: Print, err: Print) -> int | None:
        """Run a command; its exit status, or None for one that does not exist."""
        if command.strip() == _SHELL_PROBE:
            out(_SHELL_ANSWER)
            return 0
        found = words(command) if len(command) <= MOST_BYTES else None
        if not found or found[0] != b"sha1sum":
            return None
        files = found[1:]
        if b"--" in files:
            files.remove(b"--")
        elif any(name.startswith(b"-") and name != b"-" for name in files):
            err(b"sha1sum: options are not known here\n")
            return 1
        if len(files) > MOST_FILES:
            err(b"sha1sum: too many files\n")
            return 1
        if not files:
            # Whether or not stdin is closed: rclone leaves it open and waits without a limit.
            out(_OF_STDIN)
            return 0
        return await self._sha1sum(files, out, err)

    async def _sha1sum(self, files: list[bytes], out: Print, err: Print) -> int:
        status = 0
        lease = self.hashes.lease.hold()
        try:
            await self.slots.acquire()
            try:
                for name in files:
                    if name == b"-":
                        out(_OF_STDIN)
                        continue
                    try:
                        out(line(await self.hashes.sha1(parse(name)), name))
                    except ConchError as error:
                        if isinstance(error, SessionRevoked):
                            lease.revoked = True
                        err(b"sha1sum: " + name + b": " + _reason(error) + b"\n")
                        status = 1
            finally:
                self.slots.release()
        finally:
            lease.release()
        return status


def _reason(error: ConchError) -> bytes:
    return b"No such file" if type(error) is NotFound else error.text.encode()
