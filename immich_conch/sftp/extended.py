"""EXTENDED requests: what each extension does.

One answer each: a payload for EXTENDED_REPLY, a `Named` for NAME, or None for OK.  The fields are
in `extensions`, which of them are paths and handles for the order of requests in `requests`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from attrs import define

from immich_conch.errors import Malformed, MissingPermission, Refused, Unsupported
from immich_conch.immich.model import Storage
from immich_conch.library.paths import Path, parse
from immich_conch.sftp import extensions
from immich_conch.sftp.extensions import Named, strings
from immich_conch.sftp.handles import AssetHandle, Attrs, SpoolHandle, UploadHandle
from immich_conch.sftp.hashes import ALGORITHMS, Hashes
from immich_conch.sftp.wire import Reader, string
from immich_conch.transfer.copies import Source, source_of

HandleOf: TypeAlias = Callable[[bytes], Any]
ExtendedAnswer: TypeAlias = bytes | Named | None

HOME = b"/"
#: User names besides the user's own that stand for the user: none, the key's, the listings' owner.
_SELF = ("", "apikey", "immich")


@define(eq=False, repr=False)
class Extended:
    """The extensions of one session."""

    hashes: Hashes
    set_attrs: Callable[[Path, Attrs], Awaitable[None]]
    max_handles: int

    async def answer(self, name: bytes, data: bytes, handle_of: HandleOf) -> ExtendedAnswer:
        """Do what is asked; raises Unsupported for an extension that is not known."""
        serve = _SERVED.get(name)
        if serve is None:
            raise Unsupported
        return await serve(self, data, handle_of)

    async def _limits(self, data: bytes, handle_of: HandleOf) -> bytes:
        strings(data, 0)
        return extensions.pack_limits(self.max_handles)

    # -- changing the tree

    async def _posix_rename(self, data: bytes, handle_of: HandleOf) -> None:
        old, new = strings(data, 2)
        await self.hashes.tree.rename(parse(old), parse(new), replace=True)

    async def _hardlink(self, data: bytes, handle_of: HandleOf) -> None:
        old, new = strings(data, 2)
        await self.hashes.tree.link(parse(old), parse(new))

    async def _lsetstat(self, data: bytes, handle_of: HandleOf) -> None:
        fields = Reader(data)
        path, attrs = fields.string(), fields.attrs()
        await self.set_attrs(parse(path), attrs)

    async def _fsync(self, data: bytes, handle_of: HandleOf) -> None:
        handle = handle_of(*strings(data, 1))
        _must_be_file(handle)
        if isinstance(handle, UploadHandle):
            await self.hashes.uploads.in_file(handle.upload, handle.upload.file.flush)

    async def _copy_data(self, data: bytes, handle_of: HandleOf) -> None:
        fields = Reader(data)
        source_id, start, length = fields.string(), fields.uint64(), fields.uint64()
        target_id, at = fields.string(), fields.uint64()
        if fields.rest():
            raise Malformed
        source, target = handle_of(source_id), handle_of(target_id)
        if not isinstance(target, UploadHandle):
            raise Refused("The file to copy to was not opened for writing.")
        if getattr(source, "upload", None) is target.upload:
            # As OpenSSH's server: what is read would change under the copy.
            raise Refused("A file cannot be copied onto itself.")
        opened = self._source(source)
        at = target.upload.size if target.append else at
        work = self.hashes.uploads.copy_into(target.upload, at, opened, start, length)
        await self.hashes.limited(work)

    # -- looking

    async def _statvfs(self, data: bytes, handle_of: HandleOf) -> bytes:
        # The path need not exist: KIO asks for the file it is going to write.
        parse(*strings(data, 1))
        return await self._pack_statvfs()

    async def _fstatvfs(self, data: bytes, handle_of: HandleOf) -> bytes:
        handle_of(*strings(data, 1))
        return await self._pack_statvfs()

    async def _pack_statvfs(self) -> bytes:
        tree = self.hashes.tree
        return extensions.pack_statvfs(await self._storage(), not tree.may_change)

    async def _storage(self) -> Storage:
        """The user's quota, or the server's disk."""
        immich = self.hashes.lease.immich
        user = await immich.me()
        if user.quota_size is not None:
            used = user.quota_used or 0
            return Storage(user.quota_size, used, max(0, user.quota_size - used))
        try:
            return await immich.storage()
        except MissingPermission as error:
            # Clients take it as they take a server without the extension; a made-up figure
            # would be shown, or keep them from uploading.
            raise Unsupported(f"The free space is not told: {error.text}") from error

    async def _expand_path(self, data: bytes, handle_of: HandleOf) -> Named:
        (path,) = strings(data, 1)
        if path.startswith(b"~"):
            user, _, rest = path[1:].partition(b"/")
            self._check_user(user)
            path = rest
        return Named(parse(path).to_bytes())

    async def _home_directory(self, data: bytes, handle_of: HandleOf) -> Named:
        self._check_user(*strings(data, 1))
        return Named(HOME)

    def _check_user(self, name: bytes) -> None:
        """Raise Refused for anybody but the user, whose files alone are here."""
        text = name.decode("utf-8", "replace").lower()
        if text not in (*_SELF, self.hashes.lease.immich.user.email.lower()):
            raise Refused("There is no such user here.")

    async def _users_groups(self, data: bytes, handle_of: HandleOf) -> bytes:
        return extensions.pack_names(data)

    # -- hashes

    async def _check_file_handle(self, data: bytes, handle_of: HandleOf) -> bytes:
        fields = Reader(data)
        handle = handle_of(fields.string())
        wanted = _wanted(fields)
        return await self._check(self._source(handle), *wanted)

    async def _check_file_name(self, data: bytes, handle_of: HandleOf) -> bytes:
        fields = Reader(data)
        path = fields.string()
        wanted = _wanted(fields)
        return await self._check(await self.hashes.source_at(parse(path)), *wanted)

    async def _check(
        self, source: Source, algorithm: str, start: int, length: int, block: int
    ) -> bytes:
        found = await self.hashes.of(source, algorithm, start, length, block)
        name = string(extensions.CHECK_FILE) + string(algorithm.encode())
        return name + b"".join(found)

    def _source(self, handle: Any) -> Source:
        _must_be_file(handle)
        if isinstance(handle, AssetHandle):
            return self.hashes.source_of_asset(handle.asset)
        return source_of(handle.upload)


def _must_be_file(handle: Any) -> None:
    if not isinstance(handle, (AssetHandle, SpoolHandle, UploadHandle)):
        raise Refused("The handle is a folder's.")


def _wanted(fields: Reader) -> tuple[str, int, int, int]:
    """Algorithm, offset, length and block size; of the algorithms the first one that is known."""
    names = fields.string().decode("ascii", "replace").split(",")
    start, length, block = fields.uint64(), fields.uint64(), fields.uint32()
    if fields.rest():
        raise Malformed
    for name in names:
        if name.strip().lower() in ALGORITHMS:
            return name.strip().lower(), start, length, block
    raise Unsupported(f"None of these hashes is known here, only {', '.join(ALGORITHMS)}.")


_SERVED: dict[bytes, Callable[[Extended, bytes, HandleOf], Awaitable[ExtendedAnswer]]] = {
    extensions.LIMITS: Extended._limits,
    extensions.POSIX_RENAME: Extended._posix_rename,
    extensions.HARDLINK: Extended._hardlink,
    extensions.LSETSTAT: Extended._lsetstat,
    extensions.FSYNC: Extended._fsync,
    extensions.COPY_DATA: Extended._copy_data,
    extensions.STATVFS: Extended._statvfs,
    extensions.FSTATVFS: Extended._fstatvfs,
    extensions.EXPAND_PATH: Extended._expand_path,
    extensions.HOME_DIRECTORY: Extended._home_directory,
    extensions.USERS_GROUPS: Extended._users_groups,
    extensions.CHECK_FILE: Extended._check_file_handle,
    extensions.CHECK_FILE_HANDLE: Extended._check_file_handle,
    extensions.CHECK_FILE_NAME: Extended._check_file_name,
}
