"""The two doors to Immich: a server one can log in to, and a logged-in session.

Everything above this package sees Immich through these Interfaces.  All members that talk to
Immich are async; they raise the classes of `immich_conch.errors` and nothing else: Unreachable
(also time-outs and 5xx after the retries), SessionRevoked (401), MissingPermission (403), NotFound,
Refused, QuotaExceeded, BadAnswer.  Times are POSIX seconds, sizes bytes, checksums raw SHA-1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from zope.interface import Attribute, Interface

from immich_conch.immich.model import (
    Album,
    Asset,
    Known,
    MediaTypes,
    NewAsset,
    Storage,
    Uploaded,
    User,
    Version,
)


class IImmichServer(Interface):
    """An Immich server, before anybody has logged in."""

    url = Attribute("The base URL, without `/api`.")

    async def version() -> Version:
        """The version Immich reports now; raises TooOld below 2.0."""

    async def media_types() -> MediaTypes:
        """The extensions Immich takes; kept for ten minutes."""

    async def trash_enabled() -> bool:
        """Whether a plain delete goes to the trash (`GET /server/features`); kept for a minute."""

    async def log_in(email: str, password: str) -> IImmich:
        """Open a session with Immich's own log-in; raises BadCredentials."""

    async def use_key(key: str) -> IImmich:
        """A session that sends an API key; raises BadCredentials if Immich does not know it.

        The key needs `user.read` for its owner to be known; MissingPermission otherwise.
        """


class IDownload(Interface):
    """One streamed answer of `GET /assets/{id}/original`."""

    total = Attribute("Size of the whole file in bytes, or None if Immich did not say.")
    offset = Attribute("Where in the file the first byte of this answer lies.")
    etag = Attribute("The ETag as text, or None.")

    def deliver(
        data: Callable[[bytes], None], done: Callable[[BaseException | None], None]
    ) -> None:
        """Start the flow: `data` for each piece, then `done` once: None at the clean end.

        A body shorter than announced ends with an error, never with None.
        """

    def pause() -> None:
        """Stop the flow until resume; nothing is called meanwhile (the socket's buffer fills)."""

    def resume() -> None:
        """Let it flow again."""

    def abort() -> None:
        """Close the connection; neither callback is called any more."""


class IImmich(Interface):
    """A session of one user."""

    user = Attribute("The `User` as it was at log-in.")
    server = Attribute("The IImmichServer.")
    is_key = Attribute("Whether this session sends an API key (no sync stream, no log-out).")

    def allowed(permission: str) -> bool:
        """Whether the credential has a permission (`album.read` …).

        True for password sessions, for keys with `all`, and where the key's list is not known.
        """

    async def me() -> User:
        """The user with fresh quota figures."""

    async def storage() -> Storage:
        """The server's disk."""

    async def albums() -> list[Album]:
        """All albums, own and shared with the user, each once."""

    async def album(album_id: str) -> Album:
        """One album without its assets; raises NotFound."""

    async def albums_of(asset_id: str) -> list[Album]:
        """Every album the user sees that holds the asset, trashed or not, `#nosync` or not."""

    async def assets(album: Album) -> list[Asset]:
        """The whole content of an album, deduplicated by id, unlisted visibilities included.

        All of it or an error, never a part (rule 2).
        """

    async def asset(asset_id: str) -> Asset:
        """One asset; raises NotFound."""

    async def stills_of(part: Asset) -> list[Asset]:
        """Own live photos of the part's name that it is the motion part of, trashed ones too."""

    async def create_album(name: str) -> Album:
        """Make an album."""

    async def rename_album(album_id: str, name: str) -> Album:
        """Give an album another name; raises Denied where the role does not allow it."""

    async def delete_album(album_id: str) -> None:
        """Delete an album, not its assets; raises NotFound."""

    async def leave_album(album_id: str) -> None:
        """Leave an album shared with the user."""

    async def add_to_album(album_id: str, asset_ids: Sequence[str]) -> Mapping[str, str | None]:
        """Add assets; for each id None (it is in the album now) or Immich's error word.

        `duplicate` counts as being in it.
        """

    async def remove_from_album(
        album_id: str, asset_ids: Sequence[str]
    ) -> Mapping[str, str | None]:
        """Take assets out; for each id None (it is out now) or Immich's error word.

        `not_found` counts as being out.
        """

    async def check(checksums: Sequence[bytes]) -> list[Known | None]:
        """What Immich knows of these bytes (`bulk-upload-check`), in the order given."""

    async def upload(
        body: IUploadBody,
        new: NewAsset | Callable[[], Awaitable[NewAsset]],
        extension: str = "",
    ) -> Uploaded:
        """Upload a file as one streamed multipart request; never retried by itself.

        With a NewAsset its fields come before the file.  With a callable the file comes first
        and the callable is awaited once the body has ended: name, dates and checksum last; then
        `extension` (`.jpg`) must say the type, for Immich judges it by the part's own name.
        """

    async def trash(asset_ids: Sequence[str], final: bool = False) -> None:
        """Move assets to Immich's trash, or with `final` delete them for good."""

    async def restore(asset_ids: Sequence[str]) -> None:
        """Take assets out of the trash."""

    async def copy_relations(source_id: str, target_id: str) -> None:
        """Carry favourite, shared links and stack over (`assets/copy`, not albums or sidecar)."""

    async def update_asset(asset_id: str, **fields: Any) -> None:
        """`PUT /assets/{id}` with Immich's own field names."""

    async def tag(tag_id: str, asset_id: str) -> None:
        """Give an asset a tag; one that it has is no error."""

    async def size(asset_id: str) -> int | None:
        """Content-Length of the original by HEAD, or None if there is none to be had."""

    async def download(asset_id: str, offset: int = 0, etag: str | None = None) -> IDownload:
        """Open the original from `offset` on.

        With `etag`, raises Refused if the file is another one now.  Raises NotFound if the asset
        or its file is gone.  `offset` must lie inside the file (Immich answers 404 or 500 else).
        """

    async def get_metadata(asset_id: str) -> Mapping[str, Any]:
        """The asset's own metadata, value by key."""

    async def set_metadata(asset_id: str, key: str, value: Mapping[str, Any]) -> None:
        """Replace one key's value."""

    async def delete_metadata(asset_id: str, key: str) -> None:
        """Remove one key; a key that is not there is no error."""

    async def sync_stream(
        take: Callable[[Sequence[dict[str, Any]]], None],
        reset: bool = False,
        only: Collection[str] = (),
    ) -> None:
        """Pass what changed since this session's checkpoints to `take`, some lines at a time.

        A line is `{type, data, ack}`.  With `reset`, checkpoints are forgotten first and all comes.
        `only` are the types to ask for (`AssetMetadataV1`), if not all that this project uses.
        Returns after the line that ends the stream (`SyncCompleteV1` or `SyncResetV1`); raises
        Unreachable without one, NoMirror where there is no stream (API keys, other servers),
        and what `take` raised.
        """

    async def sync_ack(acks: Sequence[str]) -> None:
        """Move the checkpoints: what is acknowledged does not come again."""

    async def log_out() -> None:
        """End the session at Immich (nothing to do for a key); never raises."""


class IUploadBody(Interface):
    """The bytes of an upload, read piece by piece; may still be growing while it is read."""

    size = Attribute("All of its bytes if known when the upload starts, else None (chunked).")

    def read(size: int) -> bytes | Awaitable[bytes]:
        """At most `size` bytes from where the last read ended; empty at the end."""
