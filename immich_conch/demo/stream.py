"""The sync stream: what changed since a session's checkpoints, line by line.

The order of the types, the checkpoints and the backfill of newly shared albums follow the
recordings `sync.json` and `sync_shared.json`.  A line's `ack` carries the row's place in the log
of changes, in the shape of a UUID.  A checkpoint of a backfill names an album's `create_seq`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from immich_conch.demo.answers import duration, exif_info, thumbhash
from immich_conch.demo.dates import js, optional_js, parse
from immich_conch.demo.entities import Album, Asset, Gone, Session, User
from immich_conch.demo.state import State

REQUEST_TYPES = (
    "AuthUsersV1",
    "UsersV1",
    "PartnersV1",
    "AssetsV1",
    "AssetsV2",
    "StacksV1",
    "PartnerAssetsV1",
    "PartnerAssetsV2",
    "PartnerStacksV1",
    "AlbumAssetsV1",
    "AlbumAssetsV2",
    "AlbumsV1",
    "AlbumsV2",
    "AlbumUsersV1",
    "AlbumToAssetsV1",
    "AssetExifsV1",
    "AlbumAssetExifsV1",
    "PartnerAssetExifsV1",
    "MemoriesV1",
    "MemoryToAssetsV1",
    "PeopleV1",
    "AssetFacesV1",
    "UserMetadataV1",
    "AssetMetadataV1",
)
"""What a client may ask for, in the order of the stream.  What is not kept here sends nothing."""

MODERN_ONLY = frozenset(t for t in REQUEST_TYPES if t.endswith("V2"))

MAX_AGE = 30 * 86400 * 1000
"""Milliseconds after which Immich lets a client start over."""

_PREFIX = "01900000-0000-7000-8000-"
_COMPLETE = "complete"


def place(seq: int) -> str:
    """A place in the log of changes as an ack names it."""
    return f"{_PREFIX}{seq:012x}"


def seq_of(text: str) -> int:
    """The place an ack names; raises ValueError."""
    if not text.startswith(_PREFIX):
        raise ValueError(text)
    return int(text.removeprefix(_PREFIX), 16)


def _line(kind: str, data: dict[str, Any], *ids: str, of: str = "") -> bytes:
    ack = "|".join((of or kind, *ids))
    text = json.dumps(
        {"type": kind, "data": data, "ack": ack}, ensure_ascii=False, separators=(",", ":")
    )
    return text.encode() + b"\n"


class Stream:
    """One answer to `POST /sync/stream`."""

    def __init__(self, state: State, user: User, session: Session) -> None:
        self._state = state
        self._user = user
        self._session = session
        self._now = state.next_seq()
        self._seen = state.albums_of_user[user.id]
        self._owned = state.by_owner[user.id]

    def lines(self, types: Iterable[str]) -> Iterator[bytes]:
        """The lines, in order.  What changes after the call has begun comes with the next one."""
        done = self._session.completed
        if self._session.reset or (done is not None and self._state.now() - done > MAX_AGE):
            yield _line("SyncResetV1", {}, "reset")
            return
        wanted = set(types)
        handlers: dict[str, Callable[[str], Iterator[bytes]]] = {
            "AuthUsers": self._auth_users,
            "Users": self._users,
            "Assets": self._assets,
            "AlbumAssets": self._album_assets,
            "Albums": self._albums,
            "AlbumUsers": self._album_users,
            "AlbumToAssets": self._album_to_assets,
            "AssetExifs": self._asset_exifs,
            "AlbumAssetExifs": self._album_asset_exifs,
            "AssetMetadata": self._asset_metadata,
        }
        for kind in REQUEST_TYPES:
            if kind in wanted:
                handler = handlers.get(kind[:-2])
                if handler is not None:
                    yield from handler(kind[-2:])
        yield _line("SyncCompleteV1", {}, place(self._now))

    # Checkpoints

    def _acked(self, kind: str) -> int | None:
        ack = self._session.checkpoints.get(kind)
        return None if ack is None else seq_of(ack.split("|")[1])

    def _new(self, kind: str, rows: Iterable[Any], seq: Callable[[Any], int]) -> list[Any]:
        after = self._acked(kind) or 0
        return sorted((row for row in rows if after < seq(row) < self._now), key=seq)

    def _gone(
        self,
        what: str,
        kind: str,
        visible: Callable[[Gone], bool],
        data: Callable[[Gone], dict[str, Any]],
    ) -> Iterator[bytes]:
        lines = (line for line in self._state.gone if line.kind == what and visible(line))
        for line in self._new(kind, lines, lambda line: line.seq):
            yield _line(kind, data(line), place(line.seq))

    # Users

    def _user_data(self, user: User) -> dict[str, Any]:
        return {
            "id": user.id,
            "name": user.name,
            "email": user.email,
            "avatarColor": None,
            "deletedAt": None,
            "profileChangedAt": js(user.created),
            "hasProfileImage": False,
        }

    def _users(self, version: str) -> Iterator[bytes]:
        for user in self._new("UserV1", self._state.users.values(), lambda user: user.seq):
            yield _line("UserV1", self._user_data(user), place(user.seq))

    def _auth_users(self, version: str) -> Iterator[bytes]:
        for user in self._new("AuthUserV1", [self._user], lambda user: user.seq):
            data = {
                **self._user_data(user),
                "isAdmin": user.admin,
                "pinCode": None,
                "oauthId": "",
                "storageLabel": None,
                "quotaSizeInBytes": user.quota,
                "quotaUsageInBytes": user.usage,
            }
            yield _line("AuthUserV1", data, place(user.seq))

    # Assets

    def _asset_data(self, asset: Asset, version: str) -> dict[str, Any]:
        body = {
            "id": asset.id,
            "ownerId": asset.owner_id,
            "originalFileName": asset.name,
            "fileCreatedAt": js(asset.taken),
            "fileModifiedAt": js(asset.modified),
            "localDateTime": js(asset.taken),
            "type": asset.type,
            "deletedAt": optional_js(asset.deleted),
            "isFavorite": asset.favorite,
            "visibility": asset.visibility,
            "duration": duration(asset, self._state.modern, in_stream=True),
            "livePhotoVideoId": asset.live_video,
            "stackId": None,
            "libraryId": asset.library_id,
            "width": asset.width,
            "height": asset.height,
            "isEdited": False,
            "checksum": asset.checksum,
            "thumbhash": thumbhash(asset),
        }
        if version == "V2":
            body["createdAt"] = js(asset.created)
        return body

    def _exif_data(self, asset: Asset) -> dict[str, Any]:
        body = exif_info(asset)
        for key in ("dateTimeOriginal", "modifyDate"):
            body[key] = None if body[key] is None else js(parse(body[key]))
        video = asset.type == "VIDEO" and asset.width is not None
        return {
            **body,
            "assetId": asset.id,
            "profileDescription": None,
            "fps": 25 if video else None,
        }

    def _assets(self, version: str) -> Iterator[bytes]:
        yield from self._gone(
            "asset",
            "AssetDeleteV1",
            lambda line: line.user_id == self._user.id,
            lambda line: {"assetId": line.asset_id},
        )
        kind = "Asset" + version
        for asset in self._new(kind, self._owned.values(), lambda asset: asset.seq):
            yield _line(kind, self._asset_data(asset, version), place(asset.seq))

    def _asset_exifs(self, version: str) -> Iterator[bytes]:
        for asset in self._new("AssetExifV1", self._owned.values(), lambda a: a.exif_seq):
            yield _line("AssetExifV1", self._exif_data(asset), place(asset.exif_seq))

    def _asset_metadata(self, version: str) -> Iterator[bytes]:
        yield from self._gone(
            "metadata",
            "AssetMetadataDeleteV1",
            lambda line: line.user_id == self._user.id,
            lambda line: {"assetId": line.asset_id, "key": line.key},
        )
        notes = (
            (note.seq, asset.id, key, note.value)
            for asset in self._owned.values()
            for key, note in asset.notes.items()
        )
        for seq, asset_id, key, value in self._new("AssetMetadataV1", notes, lambda n: n[0]):
            data = {"assetId": asset_id, "key": key, "value": value}
            yield _line("AssetMetadataV1", data, place(seq))

    # Albums

    def _albums_lines(self, version: str) -> Iterator[bytes]:
        kind = "Album" + version
        for album in self._new(kind, self._seen.values(), lambda album: album.seq):
            data = {
                "id": album.id,
                "name": album.name,
                "description": album.description,
                "createdAt": js(album.created),
                "updatedAt": js(album.updated),
                "thumbnailAssetId": album.thumbnail,
                "isActivityEnabled": True,
                "order": album.order,
            }
            if version == "V1":
                data["ownerId"] = album.owner_id
            yield _line(kind, data, place(album.seq))

    def _albums(self, version: str) -> Iterator[bytes]:
        yield from self._gone(
            "album",
            "AlbumDeleteV1",
            lambda line: line.user_id == self._user.id,
            lambda line: {"albumId": line.album_id},
        )
        yield from self._albums_lines(version)

    def _joined(self, after: int) -> list[tuple[int, Album]]:
        """The albums by when the user came to see them; in 2.x the owner never `came`."""
        joined = (
            (album.members[self._user.id].create_seq, album)
            for album in self._seen.values()
            if self._state.modern or album.owner_id != self._user.id
        )
        return sorted(
            ((seq, album) for seq, album in joined if after <= seq < self._now),
            key=lambda pair: pair[0],
        )

    def _backfill(
        self,
        kind: str,
        until: int | None,
        rows: Callable[[Album], Iterable[tuple[int, dict[str, Any]]]],
    ) -> Iterator[bytes]:
        """What was in an album before the user came to see it, up to the checkpoint `until`."""
        ack = self._session.checkpoints.get(kind, "").split("|")
        start = seq_of(ack[1]) if len(ack) > 1 else 0
        albums = self._joined(start)
        if until is None:
            if albums:
                self._session.checkpoints[kind] = f"{kind}|{place(albums[-1][0])}|{_COMPLETE}"
                self._state.save_session(self._session)
            return
        for create_seq, album in albums:
            after = 0
            if create_seq == start and len(ack) > 2:
                if ack[2] == _COMPLETE:
                    continue
                after = seq_of(ack[2])
            for seq, data in sorted(rows(album), key=lambda row: row[0]):
                if after <= seq <= until:
                    yield _line(kind, data, place(create_seq), place(seq))
            yield _line("SyncAckV1", {}, place(create_seq), _COMPLETE, of=kind)

    def _album_users(self, version: str) -> Iterator[bytes]:
        yield from self._gone(
            "albumUser",
            "AlbumUserDeleteV1",
            lambda line: line.album_id in self._seen,
            lambda line: {"userId": line.user_id, "albumId": line.album_id},
        )

        def rows(album: Album) -> Iterator[tuple[int, dict[str, Any]]]:
            for user_id, member in album.members.items():
                if self._state.modern or member.role != "owner":
                    data = {"albumId": album.id, "userId": user_id, "role": member.role}
                    yield member.seq, data

        yield from self._backfill("AlbumUserBackfillV1", self._acked("AlbumUserV1"), rows)
        every = (row for album in self._seen.values() for row in rows(album))
        for seq, data in self._new("AlbumUserV1", every, lambda row: row[0]):
            yield _line("AlbumUserV1", data, place(seq))

    def _links(self) -> Iterator[tuple[int, str, str]]:
        for album in self._seen.values():
            for asset_id, seq in album.assets.items():
                yield seq, album.id, asset_id

    def _album_to_assets(self, version: str) -> Iterator[bytes]:
        yield from self._gone(
            "albumToAsset",
            "AlbumToAssetDeleteV1",
            lambda line: line.album_id in self._seen,
            lambda line: {"assetId": line.asset_id, "albumId": line.album_id},
        )

        def rows(album: Album) -> Iterator[tuple[int, dict[str, Any]]]:
            for asset_id, seq in album.assets.items():
                yield seq, {"assetId": asset_id, "albumId": album.id}

        yield from self._backfill("AlbumToAssetBackfillV1", self._acked("AlbumToAssetV1"), rows)
        for seq, album_id, asset_id in self._new(
            "AlbumToAssetV1", self._links(), lambda link: link[0]
        ):
            data = {"assetId": asset_id, "albumId": album_id}
            yield _line("AlbumToAssetV1", data, place(seq))

    def _album_contents(
        self,
        stem: str,
        version: str,
        data: Callable[[Asset], dict[str, Any]],
        seq: Callable[[Asset], int],
    ) -> Iterator[bytes]:
        """Assets (or exif) of albums: backfill, updates of what is known, then what was added."""
        created = self._acked(f"{stem}Create{version}")

        def rows(album: Album) -> Iterator[tuple[int, dict[str, Any]]]:
            for asset_id, link in album.assets.items():
                yield link, data(self._state.assets[asset_id])

        yield from self._backfill(f"{stem}Backfill{version}", created, rows)
        update, create = f"{stem}Update{version}", f"{stem}Create{version}"
        assets = self._state.assets
        if created is not None:
            known = (assets[asset_id] for link, _, asset_id in self._links() if link <= created)
            for asset in self._new(update, known, seq):
                yield _line(update, data(asset), place(seq(asset)))
        added = self._new(create, self._links(), lambda link: link[0])
        if added:
            yield _line("SyncAckV1", {}, place(self._now), of=update)
        for link, _, asset_id in added:
            # A delay between two lines may have seen the asset leave for good.
            if asset_id in assets:
                yield _line(create, data(assets[asset_id]), place(link))

    def _album_assets(self, version: str) -> Iterator[bytes]:
        def data(asset: Asset) -> dict[str, Any]:
            body = self._asset_data(asset, version)
            if version == "V2" and asset.owner_id != self._user.id:
                body["isFavorite"] = False
            return body

        yield from self._album_contents("AlbumAsset", version, data, lambda asset: asset.seq)

    def _album_asset_exifs(self, version: str) -> Iterator[bytes]:
        yield from self._album_contents(
            "AlbumAssetExif", version, self._exif_data, lambda asset: asset.exif_seq
        )
