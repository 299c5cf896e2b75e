"""The demo as one object: what tests and `twistd immich-sftp --demo` hold."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from immich_conch.demo.albums import Albums
from immich_conch.demo.answers import Answers
from immich_conch.demo.assets import Assets
from immich_conch.demo.control import Control
from immich_conch.demo.entities import Album, Asset, User
from immich_conch.demo.faults import Faults
from immich_conch.demo.media import asset_type, extension
from immich_conch.demo.routing import Core
from immich_conch.demo.state import Clock, State
from immich_conch.demo.storage import CHUNK, synthetic_sha1
from immich_conch.demo.web import DemoResource, DemoSite, Web

KEEP_ALIVE = 5.0
"""Seconds an idle connection is kept (FACTS.md: 5 to 6)."""

VERSIONS = ("2.5.6", "3.1.0")
"""The versions whose answers were recorded."""


class DemoImmich:
    """An Immich server's state and its HTTP face.

    `clock` is the reactor, or a `task.Clock` that a test moves on by hand: EXIF data is read 0.5 s
    after an upload, final deletions are done after 0.2 s.  With `directory` everything is kept
    there and found again; without it everything goes with `close`.  `version` is one of VERSIONS.
    """

    def __init__(
        self,
        version: str = "3.1.0",
        clock: Clock | None = None,
        directory: str | os.PathLike[str] | None = None,
        control: bool = False,
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"no such version: {version}; there are {', '.join(VERSIONS)}")
        if clock is None:
            from twisted.internet import reactor

            clock = reactor  # type: ignore[assignment]
        assert clock is not None
        major, minor, patch = (int(part) for part in version.split("."))
        self.state = State(clock, major >= 3, None if directory is None else Path(directory))
        albums = Albums(self.state)
        assets = Assets(self.state, albums)
        self.core = Core(self.state, albums, assets, Answers(self.state), (major, minor, patch))
        self.faults = Faults()
        self._web = Web(self.core, self.faults, Control(self) if control else None)
        self._assets, self._albums = assets, albums
        assets.finish_deletions()
        for asset in list(self.state.assets.values()):
            if not asset.extracted:
                assets.extract(asset)
        self.state.flush()

    # Serving

    def resource(self) -> DemoResource:
        """The root resource, for `treq.testing.RequestTraversalAgent`."""
        return DemoResource(self._web)

    def site(self, keep_alive: float | None = KEEP_ALIVE) -> DemoSite:
        """The factory to listen with; uploads are streamed only through it."""
        return DemoSite(self._web, keep_alive, self.state.clock)

    def close(self) -> None:
        """Write what is left; remove what was temporary.  Stop listening before."""
        self.state.close()

    # What tests look at

    @property
    def requests(self) -> Counter[str]:
        """How often each route was asked: `requests["GET /albums/{id}"]`."""
        return self._web.requests

    @property
    def open_sessions(self) -> int:
        """Log-ins that nobody logged out."""
        return len(self.state.sessions)

    @property
    def trash_enabled(self) -> bool:
        """Whether a plain delete goes to the trash; an administrator may switch it off."""
        return self.state.trash_enabled

    @trash_enabled.setter
    def trash_enabled(self, value: bool) -> None:
        self.state.trash_enabled = value
        self.state.flush()

    @property
    def links_live_photos(self) -> bool:
        """Whether two halves of a live photo are linked as soon as both have been read."""
        return self._assets.links_halves

    @links_live_photos.setter
    def links_live_photos(self, value: bool) -> None:
        self._assets.links_halves = value

    def link_live_photos(self) -> int:
        """Link the halves of live photos that have been read; how many stills have a part now."""
        for asset in list(self.state.assets.values()):
            if asset.type == "IMAGE" and asset.live_video is None:
                self._assets.link_half(asset)
        self.state.flush()
        return sum(asset.live_video is not None for asset in self.state.assets.values())

    def link_partly(self, still: Asset, video: Asset, *steps: str) -> None:
        """Some of the updates of a link, `refer`, `hide`, `leave`: side by side in Immich."""
        for step in steps:
            if step == "refer":
                self._assets.refer(still, video)
            elif step == "hide":
                self._assets.hide(video)
            elif step == "leave":
                self._assets.leave_albums(video)
            else:
                raise ValueError(step)
        self.state.flush()

    def user(self, email: str) -> User:
        """A user by address; raises KeyError."""
        found = self.state.user_by_email(email)
        if found is None:
            raise KeyError(email)
        return found

    def album(self, name: str) -> Album:
        """The first album of a name; raises KeyError."""
        for album in self.state.albums.values():
            if album.name == name:
                return album
        raise KeyError(name)

    def assets_of(self, album: Album) -> list[Asset]:
        """What is linked to an album, trashed and hidden ones included, in the order added."""
        return [self.state.assets[asset_id] for asset_id in album.assets]

    def content(self, asset: Asset) -> bytes:
        """An asset's bytes, all at once."""
        size = self.state.storage.size(asset)
        return b"".join(self.state.storage.read(asset, 0, size))

    # What tests set up

    def add_user(
        self, email: str, password: str, name: str, quota: int | None = None, admin: bool = False
    ) -> User:
        """Make a user; `quota` in bytes.  Raises ValueError if the address is taken."""
        user = self.state.add_user(email, password, name, quota, admin)
        self.state.flush()
        return user

    def add_key(self, user: User, permissions: Sequence[str] = ("all",)) -> str:
        """A new API key of a user."""
        _key, secret = self.state.add_key(user, "key", list(permissions))
        self.state.flush()
        return secret

    def revoke(self, token: str) -> None:
        """End a session or delete a key, by what the client sends; raises KeyError."""
        session, key = self.state.session_of(token), self.state.key_of(token)
        if session is not None:
            self.state.end_session(session)
        elif key is not None:
            self.state.end_key(key)
        else:
            raise KeyError("no such token or key")
        self.state.flush()

    def reset_sync(self, user: User) -> None:
        """Make every session's next sync stream of a user say SyncResetV1."""
        for session in self.state.sessions.values():
            if session.user_id == user.id:
                session.reset = True
                self.state.save_session(session)
        self.state.flush()

    def add_asset(
        self,
        user: User,
        name: str,
        content: bytes | os.PathLike[str] | None,
        modified: float,
        *,
        size: int | None = None,
        created: float | None = None,
        **fields: Any,
    ) -> Asset:
        """Put an asset in as if it had been uploaded a while ago, without HTTP.

        `modified` and `created` (`fileCreatedAt`, else the EXIF date, else `modified`) are POSIX
        seconds.  `content` None makes up `size` bytes, which cost no disk.  `fields` are those of
        `entities.Asset`: `visibility="archive"`, `live_video=…`, `favorite=True`, `library_id=…`
        with `size=None` and `offline=True` for an external one, and so on.  Raises ValueError if
        the user has these bytes already.
        """
        asset = self._put_asset(user, name, content, modified, size, created, fields)
        self.state.flush()
        return asset

    def add_assets(
        self, user: User, names: Sequence[str], modified: float, size: int = 1000
    ) -> list[Asset]:
        """Many made-up assets at once, `modified` one second apart: 10,000 take about a second."""
        assets = [
            self._put_asset(user, name, None, modified + number, size, None, {})
            for number, name in enumerate(names)
        ]
        self.state.flush()
        return assets

    def _put_asset(
        self,
        user: User,
        name: str,
        content: bytes | os.PathLike[str] | None,
        modified: float,
        size: int | None,
        created: float | None,
        fields: Mapping[str, Any],
    ) -> Asset:
        state = self.state
        kind = asset_type(name, state.modern)
        if kind is None:
            raise ValueError(f"Immich takes no {name!r}")
        asset_id, now, file_id = state.new_id(), state.now(), state.new_id()
        path = f"/data/upload/{user.id}/{file_id[:2]}/{file_id[2:4]}/{file_id}{extension(name)}"
        source: Path | None = None
        if isinstance(content, bytes):
            digest, size = hashlib.sha1(content).digest(), len(content)
        elif content is not None:
            source = Path(content)
            digest, size = _digest(source), source.stat().st_size
        elif size is None:
            digest = hashlib.sha1(path.encode()).digest()
        else:
            digest = synthetic_sha1(asset_id, size)
        modified_ms = round(modified * 1000)
        taken = modified_ms if created is None else round(created * 1000)
        asset = Asset(
            id=asset_id,
            owner_id=user.id,
            name=name,
            type=kind,
            checksum=base64.b64encode(digest).decode(),
            size=size,
            modified=modified_ms,
            taken=taken,
            created=now,
            updated=now,
            seq=state.next_seq(),
            exif_seq=state.next_seq(),
            path=path,
            synthetic=asset_id if content is None and size is not None else None,
        )
        if fields:
            asset = evolve(asset, **fields)
        if asset.library_id is None and self._assets.known(user, asset.checksum) is not None:
            raise ValueError(f"{user.email} has the bytes of {name!r} already")
        if isinstance(content, bytes):
            state.storage.write(asset_id, content)
        elif source is not None:
            state.storage.copy(asset_id, source)
        self._assets.create(user, asset)
        if created is not None:
            asset.original_date = taken
        if content is None:
            asset.original_date, asset.modify_date, asset.extracted = taken, modified_ms, True
        else:
            self._assets.extract(asset)
        return asset

    def add_album(
        self,
        user: User,
        name: str,
        assets: Sequence[Asset] = (),
        description: str = "",
        shared: Mapping[str, str] | None = None,
    ) -> Album:
        """Make an album with assets, shared with users by address as `editor` or `viewer`."""
        members = [(self.user(email), role) for email, role in (shared or {}).items()]
        album = self._albums.create(user, name, description, assets, members)
        self.state.flush()
        return album


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        digest = hashlib.sha1()
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.digest()
