"""The spool directory: uploads on their way, durable and journaled once they are sealed.

For each upload there are `<id>.json`, its journal entry, and `<id>.data`, its bytes; a held-back
removal has an entry only.  Names are random, modes 0600; nothing a client sent becomes a file name,
and no token, password or key is ever written.

An entry is written by rename.  What says that an upload is safe is written only after the data was
fsynced, and entry and directory are fsynced before anybody is told; so such an entry, if it can be
read, names data that is whole.  Entries of files still being written are not synced.  What cannot
be read, or names nothing, is moved to `set-aside` for the administrator, never deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger

from immich_conch.errors import ConchError, NoSpace, SettingsError
from immich_conch.transfer.clearing import GONE, Clearing, bury, unlink
from immich_conch.transfer.journal import FORMAT, read_entry
from immich_conch.transfer.running_hash import Threads
from immich_conch.transfer.spool_file import SpoolFile, own_error

#: Bytes that may be written between two looks at the free disk.
LOOK_EVERY = 64 * 2**20
#: Part of the limit from which on the log warns.
WARN_AT = 0.9
#: Where what cannot be used goes.
SET_ASIDE = "set-aside"
_LOCK = ".lock"

Entry = Mapping[str, Any]


@frozen
class Limits:
    """Bounds in bytes; 0 is none.  `free` is what the disk keeps for others."""

    total: int = 0
    user: int = 0
    free: int = 0


@frozen(eq=False)
class Found:
    """What a start finds of an earlier run; `file` is None for an entry without data."""

    entry: Entry
    file: SpoolFile | None


def _no_victims(user: str | None, needed: int) -> None:
    """Nothing can be dropped to make room."""


@define(eq=False)
class Spool:
    """The spool directory.  `make` it once at start; `sync=False` skips every fsync.

    `evict(user, bytes)` drops what is least missed, of one user or (None) of all, to make room.
    """

    directory: str
    sync: bool = True
    limits: Limits = field(factory=Limits)
    random_id: Callable[[], str] = field(default=lambda: secrets.token_hex(16))
    evict: Callable[[str | None, int], None] = _no_victims
    #: Where large files are hashed while they are written, and what is not needed any more is
    #: removed; None: on the reactor's thread.
    threads: Threads | None = field(default=None, repr=False)
    files: dict[str, SpoolFile] = field(factory=dict)
    #: Bytes by user, and what may be written before the disk is looked at again.
    used: Counter[str] = field(factory=Counter)
    _credit: int = 0
    _owners: dict[str, str] = field(factory=dict)
    _clearing: Clearing = field(init=False, repr=False)
    _lock: int = -1
    _warned: bool = False

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._clearing = Clearing(self.directory)

    @classmethod
    def make(cls, directory: str, sync: bool = True, limits: Limits | None = None) -> Spool:
        """Create the directory where needed; raises SettingsError if it cannot be used."""
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            lock = os.open(
                os.path.join(directory, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise SettingsError(
                f"--spool-dir: {directory} cannot be written: {error.strerror}"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise SettingsError(
                f"--spool-dir: {directory} is in use by another immich-conch"
            ) from None
        return cls(directory, sync, limits or Limits(), lock=lock)

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- files --------------------------------------------------------------------------------

    def create(self, user: str, entry: Entry) -> SpoolFile:
        """A new, empty file of a user, with its entry; raises NoSpace or Refused."""
        file_id = self.random_id()
        path = self._path(file_id, "data")
        try:
            # The entry first: data that no entry names could not be resumed after a crash.
            self._put(file_id, entry, sync=False)
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            unlink(self._path(file_id, "json"))
            raise own_error(error) from error
        return self._adopt(user, SpoolFile(file_id, path, fd))

    def _adopt(self, user: str, file: SpoolFile) -> SpoolFile:
        file.room = partial(self._room, user)
        file.hash.threads = self.threads
        self.files[file.id] = file
        self._owners[file.id] = user
        self.used[user] += file.size
        return file

    def _room(self, user: str, more: int) -> None:
        """Count `more` bytes (or fewer than before); raises NoSpace where a bound is met."""
        if more > 0:
            limits = self.limits
            if limits.user and self.used[user] + more > limits.user:
                self.evict(user, self.used[user] + more - limits.user)
                if self.used[user] + more > limits.user:
                    raise NoSpace("No space left in your part of the upload spool.")
            if limits.total and self.used.total() + more > limits.total:
                self.evict(None, self.used.total() + more - limits.total)
                if self.used.total() + more > limits.total:
                    raise NoSpace
            if more > self._credit:
                self._look_at_disk(more)
            self._credit -= more
            if limits.total:
                self._warn(self.used.total() + more)
        self.used[user] += more

    def _warn(self, used: int) -> None:
        """Say once when the spool is nearly full, and again after it was not."""
        if used > WARN_AT * self.limits.total and not self._warned:
            self._log.warn(
                "the spool is nearly full: {used} of {total} bytes; see `immich-conch spool list`",
                used=used,
                total=self.limits.total,
            )
        self._warned = used > WARN_AT * self.limits.total

    def _look_at_disk(self, more: int) -> None:
        try:
            state = os.statvfs(self.directory)
        except OSError as error:
            raise own_error(error) from error
        free = state.f_bavail * state.f_frsize - self.limits.free
        if free < more:
            raise NoSpace("No space left on the disk of the upload spool.")
        self._credit = min(free, max(LOOK_EVERY, more))

    def discard(self, file: SpoolFile) -> None:
        """Remove entry and data.  A crash between leaves what the next start clears away."""
        if self.files.pop(file.id, None) is None:
            return
        user = self._owners.pop(file.id)
        self.used[user] -= file.size
        if self.used[user] <= 0:
            del self.used[user]
        file.room = lambda more: None
        try:
            # Closed while it has a name: the last one to let go of a file waits for the disk.
            file.close()
        finally:
            self._clearing.bury(file.id, self.threads)

    def withdraw(self, file: SpoolFile) -> None:
        """Remove entry and data from the disk, for somebody who hears of it; raises Refused.

        The file itself is as it was; `discard` it then.
        """
        try:
            bury(self.directory, file.id)
        except OSError as error:
            raise own_error(error) from error

    # -- the journal --------------------------------------------------------------------------

    def seal_all(self, work: Sequence[tuple[SpoolFile, Entry]]) -> list[ConchError | None]:
        """Make files and their entries durable (blocking: call it in a thread).

        The answer for each is None, or NoSpace or Refused: then nothing may be said to be safe.
        """
        results: list[ConchError | None] = []
        for file, entry in work:
            try:
                if self.sync:
                    file.flush()
                self._put(file.id, entry, sync=self.sync)
                if file.id not in self.files:
                    # Discarded meanwhile, on the reactor's thread.
                    unlink(self._path(file.id, "json"))
                results.append(None)
            except ConchError as error:
                results.append(error)
            except OSError as error:
                results.append(own_error(error))
        if self.sync and None in results:
            try:
                self._sync_directory()
            except OSError as error:
                return [result or own_error(error) for result in results]
        return results

    def note(self, note_id: str, entry: Entry) -> None:
        """Write an entry without data, durably; raises NoSpace or Refused."""
        try:
            self._put(note_id, entry, sync=self.sync)
            if self.sync:
                self._sync_directory()
        except OSError as error:
            raise own_error(error) from error

    def forget(self, note_id: str) -> None:
        """Remove an entry without data."""
        unlink(self._path(note_id, "json"))

    def journal(self, file: SpoolFile, entry: Entry) -> None:
        """Replace an entry without syncing: what was true before does no harm (blocking)."""
        try:
            self._put(file.id, entry, sync=False)
        except OSError as error:
            raise own_error(error) from error
        if file.id not in self.files:
            unlink(self._path(file.id, "json"))

    def _path(self, file_id: str, kind: str) -> str:
        return os.path.join(self.directory, f"{file_id}.{kind}")

    def _put(self, file_id: str, entry: Entry, sync: bool) -> None:
        path = self._path(file_id, "json")
        fresh = f"{path}.new"
        data = json.dumps({"format": FORMAT, "id": file_id, **entry}).encode()
        try:
            fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                while data:
                    data = data[os.write(fd, data) :]
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(fresh, path)
        except OSError:
            unlink(fresh)
            raise

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- after a restart ------------------------------------------------------------------------

    def scan(self) -> list[Found]:
        """What an earlier run left; what cannot be used is set aside and logged."""
        found: list[Found] = []
        for name in os.listdir(self.directory):
            if name.endswith(f".{GONE}"):
                bury(self.directory, name.partition(".")[0])
        names = sorted(os.listdir(self.directory))
        for name in names:
            file_id, _, kind = name.partition(".")
            if kind == "json":
                one = self._recover(file_id)
                if one is not None:
                    found.append(one)
            elif kind == "json.new":
                # Never renamed, so nobody was told of it.
                unlink(os.path.join(self.directory, name))
            elif kind == "data" and f"{file_id}.json" not in names:
                self._orphan(file_id)
        return found

    def _recover(self, file_id: str) -> Found | None:
        path = self._path(file_id, "data")
        try:
            entry = read_entry(self._path(file_id, "json"))
        except ValueError as error:
            self._set_aside(file_id, f"its entry cannot be used ({error})")
            return None
        if entry["kind"] != "upload":
            return Found(entry, None)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if entry["state"] in ("open", "edited"):
                self.forget(file_id)  # the crash came before the data was made
            else:
                self._set_aside(file_id, "its data is missing")
            return None
        except OSError as error:
            self._set_aside(file_id, f"its data cannot be read ({error.strerror})")
            return None
        size = os.fstat(fd).st_size
        if entry["sha1"] and size != entry["size"]:
            os.close(fd)
            self._set_aside(file_id, f"it has {size} bytes instead of {entry['size']}")
            return None
        file = SpoolFile(file_id, path, fd)
        file.found(size)
        return Found(entry, self._adopt(str(entry["user"]), file))

    def _orphan(self, file_id: str) -> None:
        path = self._path(file_id, "data")
        if os.path.getsize(path) == 0:
            unlink(path)
        else:
            self._set_aside(file_id, "no entry says what it is")

    def set_aside(self, found: Found, reason: str) -> None:
        """Move what `scan` found and nobody can use out of the way."""
        if found.file is not None:
            self.files.pop(found.file.id)
            self.used[self._owners.pop(found.file.id)] -= found.file.size
            found.file.close()
        self._set_aside(str(found.entry["id"]), reason)

    def _set_aside(self, file_id: str, reason: str) -> None:
        place = os.path.join(self.directory, SET_ASIDE)
        os.makedirs(place, mode=0o700, exist_ok=True)
        for kind in ("json", "data"):
            with suppress(FileNotFoundError):
                os.replace(self._path(file_id, kind), os.path.join(place, f"{file_id}.{kind}"))
        self._log.error(
            "spool file {id} is set aside in {place}: {reason}",
            id=file_id,
            place=place,
            reason=reason,
        )
