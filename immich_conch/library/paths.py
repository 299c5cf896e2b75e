"""The grammar of the tree: bytes of a client to a path and back.

A path is a tuple of names below the root; what a name stands for is `tree`'s business.  SFTP gives
paths as bytes (draft-ietf-secsh-filexfer-02, section 6.2); here they are UTF-8 or refused.  `..`
is resolved by the text alone, for there are no symlinks.  Called for each STAT: keep it quick.
"""

from __future__ import annotations

import unicodedata

from attrs import frozen

from immich_conch.errors import BadName

MAX_PATH_BYTES = 4_096
"""The longest path taken from a client, as Linux' PATH_MAX; bounds the work on one request."""

MAX_COMPONENT_BYTES = 255
"""The longest single name, as `names.MAX_NAME_BYTES`; no entry of the tree has a longer one."""

_MAX_UTF8 = 4
"""The most bytes UTF-8 uses for one character."""


@frozen
class Path:
    """A place in the tree.  `Path(())` is the root; parts are never empty, `.` or `..`."""

    parts: tuple[str, ...]

    @property
    def is_root(self) -> bool:
        """Whether this is `/`."""
        return not self.parts

    @property
    def name(self) -> str:
        """The last part; empty for the root."""
        return self.parts[-1] if self.parts else ""

    @property
    def parent(self) -> Path:
        """The folder this lies in; the root's is the root."""
        return Path(self.parts[:-1])

    def child(self, name: str) -> Path:
        """What is called `name` in this folder."""
        return Path((*self.parts, name))

    def contains(self, other: Path) -> bool:
        """Whether `other` is this place or lies below it."""
        return other.parts[: len(self.parts)] == self.parts

    def __str__(self) -> str:
        return "/" + "/".join(self.parts)

    def to_bytes(self) -> bytes:
        """The absolute path as SFTP sends it."""
        return str(self).encode()


ROOT = Path(())


def parse(raw: bytes) -> Path:
    """The place a client names; raises BadName.

    Relative paths start at the root; empty parts and `.` are nothing, `..` at the root stays
    there, a slash at the end changes nothing.  Refused: what is not UTF-8, NUL, more than
    `MAX_PATH_BYTES` in all, or more than `MAX_COMPONENT_BYTES` in one name (counted composed if
    that is shorter, for macOS sends names decomposed).
    """
    if len(raw) > MAX_PATH_BYTES:
        raise BadName(f"This path is too long ({MAX_PATH_BYTES} bytes at most).")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        # Without its cause, which would carry the bytes into logs.
        raise BadName("This path is not UTF-8.") from None
    if "\0" in text:
        raise BadName("A path cannot hold a NUL character.")
    parts: list[str] = []
    for part in text.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            del parts[-1:]
            continue
        if len(part) * _MAX_UTF8 > MAX_COMPONENT_BYTES and _too_long(part):
            raise BadName(f"This name is too long ({MAX_COMPONENT_BYTES} bytes of UTF-8 at most).")
        parts.append(part)
    return Path(tuple(parts))


def _too_long(part: str) -> bool:
    if len(part.encode()) <= MAX_COMPONENT_BYTES:
        return False
    return len(unicodedata.normalize("NFC", part).encode()) > MAX_COMPONENT_BYTES
