"""Everything the demo knows: the tables, the one log of changes, users and their credentials.

What happens to albums is in `albums.py`, to assets in `assets.py`; both work on this State.
Nothing here knows about HTTP, nor which version of Immich is played, but for one flag.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from immich_conch.demo.entities import (
    Album,
    ApiKey,
    Asset,
    Gone,
    Link,
    Member,
    Note,
    Person,
    Session,
    Tag,
    User,
)
from immich_conch.demo.storage import Storage
from immich_conch.demo.store import Store

_ROUNDS = 1000
"""PBKDF2 rounds: a demo's log-in has to be quick, its passwords are no secrets."""


class Clock(Protocol):
    """What of a reactor is used for time."""

    def seconds(self) -> float:
        """The time in seconds."""
        ...

    def callLater(self, delay: float, call: Callable[..., object], *args: object) -> Any:
        """Call later."""
        ...


def hash_token(token: str) -> str:
    """What is kept of a token or a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def _hash_password(password: str, salt: str) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _ROUNDS)
    return f"{salt}:{digest.hex()}"


class State:
    """The tables.  `modern` is whether 3.x is played; None as `directory` keeps nothing."""

    def __init__(self, clock: Clock, modern: bool, directory: Path | None) -> None:
        self.clock = clock
        self.modern = modern
        self.storage = Storage(directory)
        self.store = None if directory is None else Store(directory)
        self.trash_enabled = True
        self.new_id: Callable[[], str] = lambda: str(uuid.uuid4())
        self.users: dict[str, User] = {}
        self.sessions: dict[str, Session] = {}
        self.keys: dict[str, ApiKey] = {}
        self.albums: dict[str, Album] = {}
        self.assets: dict[str, Asset] = {}
        self.tags: dict[str, Tag] = {}
        self.people: dict[str, Person] = {}
        self.gone: list[Gone] = []
        self.by_owner: dict[str, dict[str, Asset]] = {}
        self.by_checksum: dict[tuple[str, str], Asset] = {}
        self.albums_of_user: dict[str, dict[str, Album]] = {}
        self.stale_thumbnails: set[str] = set()
        self._seq = 0
        self._now = 0
        self._calls: set[Any] = set()
        if self.store is not None:
            self._load(self.store)

    # Time and the log of changes

    def now(self) -> int:
        """Milliseconds since 1970; never the same twice, so that every order is decided."""
        self._now = max(int(self.clock.seconds() * 1000), self._now + 1)
        return self._now

    def next_seq(self) -> int:
        """The next place in the log of changes."""
        self._seq += 1
        return self._seq

    def save(self, kind: str, key: str, entity: Any) -> None:
        """Note a changed row; None for a deleted one."""
        if self.store is not None:
            self.store.put(kind, key, entity)

    def flush(self) -> None:
        """Put what changed onto the disk, if there is one."""
        if self.store is not None:
            self.store.put(
                "meta",
                "meta",
                {"seq": self._seq, "now": self._now, "trash_enabled": self.trash_enabled},
            )
            self.store.flush()

    def close(self) -> None:
        """Write what is left; remove what was temporary.  What was due later is not done."""
        for waiting in self._calls:
            waiting.cancel()
        self._calls.clear()
        if self.store is not None:
            self.flush()
            self.store.close()
            self.store = None
        self.storage.close()

    def later(self, delay: float, call: Callable[..., object], *args: object) -> None:
        """Call after `delay` seconds, unless the demo is closed before."""

        def run() -> None:
            self._calls.discard(waiting)
            call(*args)

        waiting = self.clock.callLater(delay, run)
        self._calls.add(waiting)

    def record(self, kind: str, **ids: str) -> None:
        """Write a line of the log of deletions."""
        seq = self.next_seq()
        line = Gone(str(seq), seq, kind, **ids)
        self.gone.append(line)
        self.save("gone", line.id, line)

    # Users and credentials

    def add_user(
        self, email: str, password: str, name: str, quota: int | None = None, admin: bool = False
    ) -> User:
        """Make a user; raises ValueError if the address is taken."""
        if self.user_by_email(email) is not None:
            raise ValueError("User exists")
        now = self.now()
        user = User(
            id=self.new_id(),
            email=email.lower(),
            name=name,
            password=_hash_password(password, secrets.token_hex(8)),
            created=now,
            updated=now,
            seq=self.next_seq(),
            quota=quota,
            admin=admin,
        )
        self.users[user.id] = user
        self._index_user(user)
        self.save("user", user.id, user)
        return user

    def user_by_email(self, email: str) -> User | None:
        """The user with an address, in any case."""
        email = email.lower()
        return next((user for user in self.users.values() if user.email == email), None)

    def touch_user(self, user: User) -> None:
        """The user's row changed."""
        user.updated, user.seq = self.now(), self.next_seq()
        self.save("user", user.id, user)

    def log_in(self, email: str, password: str) -> tuple[User, str] | None:
        """A new session's token for right credentials."""
        user = self.user_by_email(email)
        if user is None:
            return None
        salt = user.password.partition(":")[0]
        if not hmac.compare_digest(user.password, _hash_password(password, salt)):
            return None
        token = secrets.token_urlsafe(32)
        session = Session(hash_token(token), user.id, self.now())
        self.sessions[session.id] = session
        self.save("session", session.id, session)
        return user, token

    def session_of(self, token: str) -> Session | None:
        """The session of a token."""
        return self.sessions.get(hash_token(token))

    def end_session(self, session: Session) -> None:
        """Log out."""
        self.sessions.pop(session.id, None)
        self.save("session", session.id, None)

    def add_key(self, user: User, name: str, permissions: list[str]) -> tuple[ApiKey, str]:
        """A new API key and its secret."""
        secret = secrets.token_urlsafe(32)
        key = ApiKey(
            self.new_id(), hash_token(secret), user.id, name, list(permissions), self.now()
        )
        self.keys[key.secret] = key
        self.save("key", key.secret, key)
        return key, secret

    def key_of(self, secret: str) -> ApiKey | None:
        """The API key a client sent."""
        return self.keys.get(hash_token(secret))

    def end_key(self, key: ApiKey) -> None:
        """Delete an API key."""
        self.keys.pop(key.secret, None)
        self.save("key", key.secret, None)

    # Indexes

    def _index_user(self, user: User) -> None:
        self.by_owner[user.id] = {}
        self.albums_of_user[user.id] = {}

    def index_asset(self, asset: Asset) -> None:
        """Put an asset into the tables."""
        self.assets[asset.id] = asset
        self.by_owner[asset.owner_id][asset.id] = asset
        if asset.library_id is None:
            self.by_checksum[asset.owner_id, asset.checksum] = asset

    def save_session(self, session: Session) -> None:
        """A session's checkpoints moved."""
        self.save("session", session.id, session)

    def _load(self, store: Store) -> None:
        for data in store.load("meta"):
            self._seq, self._now = data["seq"], data["now"]
            self.trash_enabled = data["trash_enabled"]
        for data in store.load("user"):
            user = User(**data)
            self.users[user.id] = user
            self._index_user(user)
        for data in store.load("session"):
            self.sessions[data["id"]] = Session(**data)
        for data in store.load("key"):
            self.keys[data["secret"]] = ApiKey(**data)
        for data in store.load("tag"):
            self.tags[data["id"]] = Tag(**data)
        for data in store.load("person"):
            self.people[data["id"]] = Person(**data)
        for data in store.load("album"):
            members = {key: Member(**member) for key, member in data.pop("members").items()}
            album = Album(members=members, **data)
            self.albums[album.id] = album
            self.stale_thumbnails.add(album.id)
            for user_id in members:
                self.albums_of_user[user_id][album.id] = album
        for data in store.load("asset"):
            notes = {key: Note(**note) for key, note in data.pop("notes").items()}
            self.index_asset(Asset(notes=notes, **data))
        for link in sorted((Link(**data) for data in store.load("link")), key=lambda x: x.seq):
            self.albums[link.album_id].assets[link.asset_id] = link.seq
            self.assets[link.asset_id].albums.add(link.album_id)
        self.gone = sorted((Gone(**data) for data in store.load("gone")), key=lambda x: x.seq)
