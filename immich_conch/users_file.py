"""The file of users who log in with SSH keys: read at the start, and again when it changes.

TOML, of mode 0600 and ours, as the files with API keys that it may name.  Whatever is wrong is one
line that names the place and repeats nothing that may be secret.  A new version that is wrong
changes nothing: those who could log in still can, and a line in the log says so.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from immich_conch.authorized import KeyUser, Users
from immich_conch.errors import SettingsError
from immich_conch.ssh.authorized_keys import AuthorizedKey

#: Seconds between looks whether the files have changed.
LOOK_SECONDS = 1.0
#: A key has about 750 bytes at most; this is room for a thousand users.
MAX_BYTES = 2**20
MAX_API_KEY_BYTES = 4096

_TOP = frozenset(("users", "authorities", "revoked"))
_USER = frozenset(("api_key", "api_key_file", "names", "keys"))

#: What a file was when it was read; None if it could not be looked at.
_Stamp = tuple[int, ...] | None


@define(eq=False)
class UsersFile:
    """The users of a file, as it is now or was when it was last right."""

    path: Path
    clock: IReactorTime
    _users: Users = field(factory=Users, repr=False)
    _stamps: dict[Path, _Stamp] = field(factory=dict, repr=False)
    _looked: float = 0.0

    _log = Logger()

    @classmethod
    def open(cls, path: str, clock: IReactorTime) -> UsersFile:
        """Read the file; raises SettingsError."""
        found = cls(Path(path), clock)
        found._look()
        return found

    def users(self) -> Users:
        """The users; read anew if a file has changed, of which a broken one is logged once."""
        if self.clock.seconds() - self._looked >= LOOK_SECONDS and self._changed():
            try:
                self._look()
            except SettingsError as error:
                self._log.error("{error}; what was in it before still counts", error=error)
            else:
                self._log.info(
                    "{path} has been read anew: {count} users with SSH keys",
                    path=str(self.path),
                    count=len({user.email for user in self._users.by_name.values()}),
                )
        return self._users

    def _changed(self) -> bool:
        self._looked = self.clock.seconds()
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())

    def _look(self) -> None:
        self._looked = self.clock.seconds()
        reader = _Reader(self.path)
        try:
            self._users = reader.users()
        finally:
            # Of what a broken version no longer names the old one is still of interest.
            self._stamps.update(reader.stamps)
        self._stamps = reader.stamps


def _stamp(path: Path) -> _Stamp:
    try:
        return _numbers(path.stat())
    except OSError:
        return None


def _numbers(found: os.stat_result) -> tuple[int, ...]:
    """Enough to tell that a file is another one, or was written to, or may be read by others."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@define
class _Reader:
    """One reading of the file, and of those that it names."""

    path: Path
    stamps: dict[Path, _Stamp] = field(factory=dict)

    def users(self) -> Users:
        """What is in it; raises SettingsError."""
        try:
            data = tomllib.loads(self._secret(self.path, MAX_BYTES))
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{self.path}: is no TOML: {error}") from None
        self._known(data, _TOP, "")
        tables = data.get("users", {})
        if not isinstance(tables, dict):
            raise self._wrong("users", 'must be tables such as [users."ann@example.com"]')
        by_name: dict[str, KeyUser] = {}
        for email, table in tables.items():
            user = self._user(email, table)
            for name in sorted(user.names):
                if name in by_name:
                    raise self._wrong(
                        f"users.{_quoted(email)}",
                        f"{name!r} is the name of {by_name[name].email}, too",
                    )
                by_name[name] = user
        serials, keys = self._revoked(data.get("revoked", []))
        return Users(by_name, self._authorities(data.get("authorities", [])), serials, keys)

    def _user(self, email: str, table: Any) -> KeyUser:
        place = f"users.{_quoted(email)}"
        if "@" not in email or email != email.strip() or not email.isprintable():
            raise self._wrong(place, "is no e-mail address; it must be that of the user at Immich")
        if not isinstance(table, dict):
            raise self._wrong(place, "must be a table")
        self._known(table, _USER, place + ".")
        names = self._texts(table.get("names", []), f"{place}.names")
        if any(not name.strip() for name in names):
            raise self._wrong(f"{place}.names", "holds an empty name")
        return KeyUser(
            email,
            self._api_key(table, place),
            frozenset(name.strip().lower() for name in (email, *names)),
            self._lines(table.get("keys", []), f"{place}.keys"),
        )

    def _api_key(self, table: dict[str, Any], place: str) -> str:
        given = [name for name in ("api_key", "api_key_file") if name in table]
        if len(given) != 1:
            raise self._wrong(place, "must have one of api_key and api_key_file")
        [name] = given
        place = f"{place}.{name}"
        text = table[name]
        if not isinstance(text, str):
            raise self._wrong(place, "must be a text")
        if name == "api_key_file":
            # Relative names start where this file lies.
            text = self._secret(self.path.parent / text, MAX_API_KEY_BYTES, place)
        text = text.strip()
        if not (text.isascii() and text.isprintable() and text) or " " in text:
            raise self._wrong(place, "is no API key of Immich")
        return text

    def _lines(self, given: Any, place: str, authority: bool = False) -> tuple[AuthorizedKey, ...]:
        found = []
        for number, line in enumerate(self._texts(given, place)):
            try:
                found.append(AuthorizedKey.parse(line, authority=authority))
            except ValueError as error:
                raise self._wrong(f"{place}[{number}]", str(error)) from None
        return tuple(found)

    def _authorities(self, given: Any) -> tuple[AuthorizedKey, ...]:
        found = self._lines(given, "authorities", authority=True)
        for number, entry in enumerate(found):
            if entry.principals is not None:
                # Whoever has one of them would be everybody.
                raise self._wrong(
                    f"authorities[{number}]", "has principals; these belong into a user's keys"
                )
        return found

    def _revoked(self, given: Any) -> tuple[frozenset[int], frozenset[str]]:
        if not isinstance(given, list):
            raise self._wrong("revoked", "must be a list")
        serials, keys = set(), set()
        for number, one in enumerate(given):
            if isinstance(one, str) and one.startswith("SHA256:") and len(one) == 50:
                keys.add(one)
            elif isinstance(one, int) and not isinstance(one, bool) and 0 < one < 2**64:
                serials.add(one)
            else:
                raise self._wrong(
                    f"revoked[{number}]",
                    "must be a fingerprint (SHA256:…) or the serial number of a certificate; 0 is "
                    "none",
                )
        return frozenset(serials), frozenset(keys)

    # -- parts

    def _wrong(self, place: str, reason: str) -> SettingsError:
        return SettingsError(f"{self.path}: {place}: {reason}")

    def _known(self, table: dict[str, Any], names: frozenset[str], place: str) -> None:
        for name in table:
            if name not in names:
                raise self._wrong(
                    place + (name if name.isidentifier() else _quoted(name)),
                    f"there is no such thing; there are {', '.join(sorted(names))}",
                )

    def _texts(self, given: Any, place: str) -> list[str]:
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise self._wrong(place, "must be a list of texts")
        return given

    def _secret(self, path: Path, limit: int, place: str = "") -> str:
        """The text of a file that only we may read; raises SettingsError."""
        where = f"{self.path}: {place}: {path}" if place else str(path)
        self.stamps[path] = None
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                status = os.fstat(file.fileno())
                self.stamps[path] = _numbers(status)
                _check_private(status, where)
                data = file.read(limit + 1)
        except OSError as error:
            raise SettingsError(f"{where}: cannot be read: {error.strerror}") from None
        if len(data) > limit:
            raise SettingsError(f"{where}: has more than {limit} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise SettingsError(f"{where}: is not UTF-8") from None


def _quoted(name: str) -> str:
    """A key of TOML in one line, as it has to be quoted there."""
    return json.dumps(name[:80], ensure_ascii=not name.isprintable())


def _without_waiting(path: str, flags: int) -> int:
    """Opens what may turn out to be a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_private(status: os.stat_result, where: str) -> None:
    """Raises SettingsError for a file that others could read, or write."""
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"{where}: is no file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SettingsError(f"{where}: is open to others (mode {mode:04o}); make it 0600")
    # As root, before twistd takes on another user, any owner will do: later only that one can
    # read it, and what is read again is checked again.
    if os.geteuid() != 0 and status.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{where}: belongs to another user (uid {status.st_uid})")
