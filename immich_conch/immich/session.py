"""A logged-in session: IImmich over the request layer.

Every method is one or a few calls of Immich's API as FACTS.md records them.  What differs
between versions is asked of the dialect; what the bytes of uploads and downloads look like is
in `upload` and `download`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, tzinfo
from functools import partial
from typing import Any, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import (
    BadAnswer,
    ConchError,
    Denied,
    MissingPermission,
    NotFound,
    Refused,
)
from immich_conch.immich import answers
from immich_conch.immich.dialects import Dialect
from immich_conch.immich.download import Download, check_etag
from immich_conch.immich.http import Answer, Http
from immich_conch.immich.interfaces import IImmich, IUploadBody
from immich_conch.immich.limits import MAX_ANSWER, MAX_ERROR, MAX_LISTING, PAGE
from immich_conch.immich.listing import list_pages
from immich_conch.immich.model import Album, Asset, Known, NewAsset, Storage, Uploaded, User
from immich_conch.immich.problems import problem
from immich_conch.immich.requests import Credential, chunks, part
from immich_conch.immich.stills import stills_of
from immich_conch.immich.sync import Syncing
from immich_conch.immich.upload import multipart
from immich_conch.immich.views import Viewing

T = TypeVar("T")


class Server(Protocol):
    """What a session needs of the server it is on."""

    http: Http

    async def in_dialect(self, work: Callable[[Dialect], Awaitable[T]]) -> T:
        """Run `work` in the server's dialect, once more in another if it turns out to be one."""

    async def dialect(self, fresh: bool = False) -> Dialect:
        """The dialect the server speaks."""


@implementer(IImmich)
@define(eq=False)
class Session(Syncing, Viewing):
    """IImmich.  `permissions` is None where the credential's list is not known or not limited."""

    server: Server = field(repr=False)
    user: User
    credential: Credential
    permissions: frozenset[str] | None = None
    zone: tzinfo = UTC
    _log = Logger()

    @property
    def is_key(self) -> bool:
        """Whether this session sends an API key."""
        return self.credential.is_key

    @property
    def http(self) -> Http:
        """The request layer, for the sync stream."""
        return self.server.http

    def allowed(self, permission: str) -> bool:
        """Whether the credential has a permission, as far as is known."""
        return self.permissions is None or permission in self.permissions

    async def me(self) -> User:
        """The user with fresh quota figures."""
        return await self._read("GET", "/users/me", User.from_json)

    async def storage(self) -> Storage:
        """The server's disk."""
        return await self._read("GET", "/server/storage", answers.storage)

    async def albums(self) -> list[Album]:
        """Own and shared albums, each once; no album is shown from a listing that failed."""

        async def work(dialect: Dialect) -> list[Album]:
            found = await self._albums(dialect, {})
            if dialect.shared_apart:
                found += await self._albums(dialect, {"shared": "true"})
            return list({album.id: album for album in found}.values())

        return await self.server.in_dialect(work)

    async def album(self, album_id: str) -> Album:
        """One album without its assets."""
        return await self.server.in_dialect(lambda dialect: self._album(album_id, dialect))

    async def albums_of(self, asset_id: str) -> list[Album]:
        """Every album that holds the asset."""
        return await self.server.in_dialect(
            lambda dialect: self._albums(dialect, {"assetId": asset_id})
        )

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album; see `listing`."""

        async def work(dialect: Dialect) -> list[Asset]:
            if dialect.content_in_album:
                path = f"/albums/{part(album.id)}"
                assets = await self._read("GET", path, answers.content, limit=MAX_LISTING)
                return list({asset.id: asset for asset in assets}.values())

            async def search(number: int, exif: bool, /) -> answers.Page:
                query = {"albumIds": [album.id], "withExif": exif, "size": PAGE, "page": number}
                return await self._read(
                    "POST",
                    "/search/metadata",
                    answers.Page.from_json,
                    data=query,
                    limit=MAX_LISTING,
                )

            return await list_pages(album, search, lambda: self._album(album.id, dialect))

        return await self.server.in_dialect(work)

    async def asset(self, asset_id: str) -> Asset:
        """One asset."""
        return await self._read("GET", f"/assets/{part(asset_id)}", Asset.from_json)

    async def stills_of(self, part: Asset) -> list[Asset]:
        """Live photos with this motion part; see `stills`."""

        def search(query: Mapping[str, Any]) -> Awaitable[answers.Page]:
            parse = answers.Page.from_json
            return self._read("POST", "/search/metadata", parse, data=query, limit=MAX_LISTING)

        return await self.server.in_dialect(lambda dialect: stills_of(part, dialect, search))

    async def create_album(self, name: str) -> Album:
        """Make an album; not tried again by itself, or a lost answer would make two."""
        return await self._read(
            "POST", "/albums", self._to_album, data={"albumName": name}, retry=False
        )

    async def rename_album(self, album_id: str, name: str) -> Album:
        """Give an album another name."""
        path = f"/albums/{part(album_id)}"
        async with self._denied_if(lambda: self.album(album_id)):
            return await self._read("PATCH", path, self._to_album, data={"albumName": name})

    async def delete_album(self, album_id: str) -> None:
        """Delete an album."""
        await self._gone(f"/albums/{part(album_id)}", lambda: self.album(album_id))

    async def leave_album(self, album_id: str) -> None:
        """Leave an album shared with the user."""
        await self._gone(f"/albums/{part(album_id)}/user/me", lambda: self.album(album_id))

    async def add_to_album(
        self, album_id: str, asset_ids: Sequence[str]
    ) -> Mapping[str, str | None]:
        """Add assets."""
        return await self._members("PUT", album_id, asset_ids, fine="duplicate")

    async def remove_from_album(
        self, album_id: str, asset_ids: Sequence[str]
    ) -> Mapping[str, str | None]:
        """Take assets out."""
        return await self._members("DELETE", album_id, asset_ids, fine="not_found")

    async def check(self, checksums: Sequence[bytes]) -> list[Known | None]:
        """What Immich knows of these bytes."""
        known: list[Known | None] = []
        for chunk in chunks(checksums):
            items = [
                {"id": str(place), "checksum": base64.b64encode(checksum).decode()}
                for place, checksum in enumerate(chunk)
            ]
            known += await self._read(
                "POST",
                "/assets/bulk-upload-check",
                partial(answers.checked, size=len(chunk)),
                data={"assets": items},
            )
        return known

    async def upload(
        self,
        body: IUploadBody,
        new: NewAsset | Callable[[], Awaitable[NewAsset]],
        extension: str = "",
    ) -> Uploaded:
        """Upload a file as one streamed request.

        Cancelling closes the connection, and Immich makes no asset of a body cut short (FACTS.md).
        """
        dialect = await self.server.dialect()
        producer, headers = multipart(body, new, extension, dialect, self.zone)
        headers |= self.credential.headers
        try:
            response = await self.http.send(
                "POST", "/assets", headers, producer=producer, watch=producer.watch
            )
            whole = producer.complete
        finally:
            producer.finish()
        got = Answer(response.code, response.headers, await self.http.collect(response, MAX_ANSWER))
        uploaded = await self.http.parsed(got, answers.uploaded)
        if not whole and not uploaded.duplicate:
            raise BadAnswer("Immich took an upload before it had all of it.")
        return uploaded

    async def trash(self, asset_ids: Sequence[str], final: bool = False) -> None:
        """Move assets to the trash, or delete them for good."""
        for chunk in chunks(asset_ids):
            await self._trash(chunk, final)

    async def restore(self, asset_ids: Sequence[str]) -> None:
        """Take assets out of the trash."""
        for chunk in chunks(asset_ids):
            async with self._denied_if(partial(self.asset, chunk[0])):
                await self._done("POST", "/trash/restore/assets", data={"ids": list(chunk)})

    async def copy_relations(self, source_id: str, target_id: str) -> None:
        """Carry favourite, shared links and stack over; each of the five defaults to true."""
        await self._done(
            "PUT",
            "/assets/copy",
            data={
                "sourceId": source_id,
                "targetId": target_id,
                "albums": False,
                "favorite": True,
                "sharedLinks": True,
                "sidecar": False,
                "stack": True,
            },
        )

    async def update_asset(self, asset_id: str, **fields: Any) -> None:
        """Set what Immich lets be set."""
        async with self._denied_if(lambda: self.asset(asset_id)):
            await self._done("PUT", f"/assets/{part(asset_id)}", data=fields)

    async def size(self, asset_id: str) -> int | None:
        """Size of the original, None where there is none to be had.

        A plain 500 is what Immich says of a file that is not on its disk.
        """
        got = await self._answer("HEAD", f"/assets/{part(asset_id)}/original")
        if got.code == 200:
            length = got.headers.getRawHeaders(b"content-length") or [b""]
            return int(length[0]) if length[0].isdigit() else None
        if got.code in (400, 404, 500):
            return None
        raise problem(got.code, got.body, got.pause, file=True)

    async def download(self, asset_id: str, offset: int = 0, etag: str | None = None) -> Download:
        """Open the original from `offset` on."""
        headers = {**self.credential.headers, "accept": "*/*"}
        if offset:
            headers["range"] = f"bytes={offset}-"
        response = await self.http.stream("GET", f"/assets/{part(asset_id)}/original", headers)
        if response.code not in (200, 206):
            body = await self.http.collect(response, MAX_ERROR)
            raise problem(response.code, body, file=True)
        try:
            download = Download(response, offset, self.http.clock)
        except BadAnswer:
            self.http.drop(response)
            raise
        try:
            check_etag(download.etag, etag)
        except Refused:
            download.abort()
            raise
        return download

    async def get_metadata(self, asset_id: str) -> Mapping[str, Any]:
        """The asset's own metadata."""
        return await self._read("GET", f"/assets/{part(asset_id)}/metadata", answers.metadata)

    async def set_metadata(self, asset_id: str, key: str, value: Mapping[str, Any]) -> None:
        """Replace one key's value."""
        items = {"items": [{"key": key, "value": dict(value)}]}
        async with self._denied_if(lambda: self.asset(asset_id)):
            await self._done("PUT", f"/assets/{part(asset_id)}/metadata", data=items)

    async def delete_metadata(self, asset_id: str, key: str) -> None:
        """Remove one key."""
        try:
            await self._done("DELETE", f"/assets/{part(asset_id)}/metadata/{part(key)}")
        except (NotFound, Refused) as error:
            if key in await self.get_metadata(asset_id):
                raise Denied from error

    async def log_out(self) -> None:
        """End the session at Immich."""
        if self.is_key:
            return
        try:
            await self._done("POST", "/auth/logout")
        except (ConchError, CancelledError) as error:
            self._log.debug(
                "log-out of {email} failed: {error}", email=self.user.email, error=error
            )

    async def _read(self, method: str, path: str, parse: Callable[[Any], T], **more: Any) -> T:
        return await self.http.read(method, path, self.credential.headers, parse, **more)

    async def _answer(self, method: str, path: str, **more: Any) -> Answer:
        return await self.http.answer(method, path, self.credential.headers, **more)

    async def _done(self, method: str, path: str, **more: Any) -> None:
        await self.http.done(method, path, self.credential.headers, **more)

    def _to_album(self, data: Any) -> Album:
        return Album.from_json(data, self.user.id)

    async def _albums(self, dialect: Dialect, params: Mapping[str, str]) -> list[Album]:
        def parse(data: Any) -> list[Album]:
            if not isinstance(data, list):
                raise BadAnswer("Immich's answer holds no list of albums.")
            return [self._to_album(dialect.check(item)) for item in data]

        return await self._read("GET", "/albums", parse, params=params, limit=MAX_LISTING)

    async def _album(self, album_id: str, dialect: Dialect) -> Album:
        params = {"withoutAssets": "true"} if dialect.content_in_album else {}
        return await self._read(
            "GET",
            f"/albums/{part(album_id)}",
            lambda data: self._to_album(dialect.check(data)),
            params=params,
        )

    @asynccontextmanager
    async def _denied_if(self, look: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Immich's "not found or no access" is Denied for a thing that can still be read."""
        try:
            yield
        except NotFound:
            try:
                await look()
            except MissingPermission:
                raise Denied from None
            raise Denied from None

    async def _gone(self, path: str, look: Callable[[], Awaitable[object]]) -> None:
        """DELETE; that a second try finds nothing is what the first one was for."""
        got = await self._answer("DELETE", path)
        if 200 <= got.code < 300:
            return
        error = problem(got.code, got.body, got.pause)
        if not isinstance(error, NotFound):
            raise error
        if await _there(look) is not None:
            raise Denied from None
        if got.tries == 1:
            raise error

    async def _members(
        self, method: str, album_id: str, asset_ids: Sequence[str], fine: str
    ) -> Mapping[str, str | None]:
        path = f"/albums/{part(album_id)}/assets"
        result: dict[str, str | None] = {}
        for chunk in chunks(asset_ids):
            async with self._denied_if(lambda: self.album(album_id)):
                told = await self._read(method, path, answers.per_id, data={"ids": list(chunk)})
            for asset_id in chunk:
                if asset_id not in told:
                    raise BadAnswer("Immich said nothing of an asset it was asked about.")
                word = told[asset_id]
                result[asset_id] = None if word == fine else word
        return result

    async def _trash(self, asset_ids: Sequence[str], final: bool) -> None:
        data = {"ids": list(asset_ids), "force": final}
        got = await self._answer("DELETE", "/assets", data=data)
        if 200 <= got.code < 300:
            return
        error = problem(got.code, got.body, got.pause)
        if not isinstance(error, NotFound):
            raise error
        # One id that is unknown or foreign makes Immich delete nothing, and it does not say which.
        left = [await _there(partial(self.asset, one)) for one in asset_ids]
        if got.tries > 1 and all(one is None or (one.trashed and not final) for one in left):
            return
        if None in left:
            raise error
        raise Denied("Not all of these files are yours to remove.")


async def _there(look: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await look()
    except NotFound:
        return None
