"""ISFTPServer: bytes in, library calls, bytes out.

One of these serves one SFTP channel.  Every member raises the classes of `errors`; `status.py`
turns them into statuses.  What lasts is `library`'s and `transfer`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from attrs import Factory, define
from twisted.conch.interfaces import ISFTPServer
from twisted.conch.ssh.filetransfer import (
    FXF_APPEND,
    FXF_CREAT,
    FXF_EXCL,
    FXF_READ,
    FXF_TRUNC,
    FXF_WRITE,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import (
    AlreadyExists,
    Malformed,
    MissingPermission,
    NotFound,
    Refused,
    SessionRevoked,
    Unsupported,
)
from immich_conch.immich.model import Album
from immich_conch.library import names
from immich_conch.library.nodes import (
    FOLDER_NODES,
    Entries,
    FileNode,
    Info,
    More,
    PendingNode,
    RootNode,
)
from immich_conch.library.paths import Path, parse
from immich_conch.library.tree import Tree
from immich_conch.sftp import extensions
from immich_conch.sftp.extended import Extended, ExtendedAnswer
from immich_conch.sftp.handles import (
    AssetHandle,
    Attrs,
    FolderHandle,
    SpoolHandle,
    UploadHandle,
    attributes,
)
from immich_conch.sftp.hashes import Hashes
from immich_conch.sftp.longname import is_recent, longname
from immich_conch.sftp.wire import pack_listed
from immich_conch.transfer.lease import UPLOAD_PERMISSIONS, Lease
from immich_conch.transfer.upload import Base, State, Upload
from immich_conch.transfer.uploads import Uploads

#: Open handles a session may have, as `limits@openssh.com` says.
MAX_HANDLES = 256
#: Entries of listings kept as they were sent, of all users, at some 500 bytes each: a folder that
#: is listed again costs a third.
PACKED_ENTRIES = 32_768

P = ParamSpec("P")
T = TypeVar("T")


def _no_handles(handle_id: bytes) -> Any:
    raise Malformed


def _served(
    method: Callable[Concatenate[SFTPServer, P], Awaitable[T]],
) -> Callable[Concatenate[SFTPServer, P], Coroutine[Any, Any, T]]:
    """Keep the Immich session alive while an operation runs, and end ours with Immich's."""

    @wraps(method)
    async def run(self: SFTPServer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.lease.hold()
        try:
            return await method(self, *args, **kwargs)
        except SessionRevoked:
            # packets.py closes the connection once this is answered.
            self.lease.revoked = True
            self._log.info(
                "the Immich session of {user} has ended; closing the connection",
                user=self.lease.immich.user.email,
            )
            raise
        except MissingPermission as error:
            self._log.warn(
                "user {user}: {what} was refused: {reason}",
                user=self.lease.immich.user.email,
                what=method.__name__,
                reason=error.text,
            )
            raise
        finally:
            self.lease.release()

    return run


@implementer(ISFTPServer)
@define(eq=False, repr=False)
class SFTPServer:
    """One channel's view of one user's library.

    `now` is POSIX seconds, `clock` measures.
    """

    lease: Lease
    tree: Tree
    uploads: Uploads
    clock: IReactorTime
    now: Callable[[], float]
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    #: ISFTPServer asks for it; nothing here needs it.
    avatar: Any = None
    _hashes: Hashes = Factory(
        lambda self: Hashes(self.lease, self.tree, self.uploads, self.clock), takes_self=True
    )
    _extended: Extended = Factory(
        lambda self: Extended(self._hashes, self._set_attrs, MAX_HANDLES), takes_self=True
    )

    _log = Logger()

    # -- the session -------------------------------------------------------------------------------

    def gotVersion(self, otherVersion: int, extData: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """What VERSION announces."""
        return dict(extensions.ANNOUNCED)

    def ended(self) -> None:
        """The channel is gone."""
        self._hashes.stop()
        self.uploads.session_ended(self)

    # -- looking -----------------------------------------------------------------------------------

    @_served
    async def getAttrs(self, path: bytes, followLinks: bool) -> Attrs:
        """STAT and LSTAT; there are no links."""
        return attributes(await self.tree.stat(parse(path)))

    def glance(self, path: bytes) -> Info | None:
        """What `getAttrs` would tell, where that is known now; None says nothing."""
        return self.tree.glance(path)

    def realPath(self, path: bytes) -> bytes:
        """REALPATH: lexical, also for what does not exist."""
        return parse(path).to_bytes()

    @_served
    async def openDirectory(self, path: bytes) -> FolderHandle:
        """OPENDIR: the entries are complete before it is answered, but for large views."""
        entries, more = await self.tree.pages(parse(path))
        return FolderHandle(
            self._packed(entries), None if more is None else partial(self.nextEntries, more)
        )

    @_served
    async def nextEntries(self, more: More) -> list[bytes]:
        """What a folder's later READDIRs answer; empty at the end."""
        return self._packed(await more())

    def _packed(self, entries: Entries) -> list[bytes]:
        now = self.now()
        return [
            _entry(name, info.mode, info.size, info.modified, is_recent(info.modified, now))
            for name, info in entries
        ]

    def readLink(self, path: bytes) -> bytes:
        """READLINK."""
        raise Unsupported("There are no symbolic links here.")

    def makeLink(self, linkPath: bytes, targetPath: bytes) -> None:
        """SYMLINK."""
        raise Unsupported("There are no symbolic links here.")

    # -- changing the tree -------------------------------------------------------------------------

    @_served
    async def makeDirectory(self, path: bytes, attrs: Attrs) -> None:
        """MKDIR."""
        await self.tree.mkdir(parse(path))

    @_served
    async def removeDirectory(self, path: bytes) -> None:
        """RMDIR."""
        await self.tree.rmdir(parse(path))

    @_served
    async def removeFile(self, path: bytes) -> None:
        """REMOVE."""
        await self.tree.remove(parse(path))

    @_served
    async def renameFile(self, oldpath: bytes, newpath: bytes) -> None:
        """RENAME, which never replaces."""
        await self.tree.rename(parse(oldpath), parse(newpath))

    @_served
    async def setAttrs(self, path: bytes, attrs: Attrs) -> None:
        """SETSTAT."""
        await self._set_attrs(parse(path), attrs)

    async def _set_attrs(self, path: Path, attrs: Attrs) -> None:
        size = attrs.get("size")
        if size is not None:
            node = await self.tree.resolve(path)
            if not isinstance(node, (FileNode, PendingNode)):
                raise Refused("This is a folder, not a file.")
            upload = _upload_of(node)
            if upload is not None and upload.state is State.OPEN:
                # Somebody writes it: that file is meant, not one on top of it.
                upload.truncate(size)
            elif size != self.tree.info(node).size:
                handle = await self._open_for_writing(path, FXF_WRITE, {})
                try:
                    handle.setAttrs(attrs)
                except BaseException:
                    handle.abort()
                    raise
                await handle.close()
                return
        mtime = attrs.get("mtime")
        if mtime is not None:
            await self.tree.set_time(path, float(mtime))
        else:
            # chmod, chown and {} have no effect, on what exists.
            await self.tree.resolve(path)

    # -- opening files -----------------------------------------------------------------------------

    @_served
    async def openFile(self, filename: bytes, flags: int, attrs: Attrs) -> Any:
        """OPEN."""
        path = parse(filename)
        if flags & (FXF_WRITE | FXF_APPEND | FXF_CREAT | FXF_TRUNC):
            return await self._open_for_writing(path, flags, attrs)
        if not flags & FXF_READ:
            raise Malformed("OPEN for neither reading nor writing.")
        return await self._open_for_reading(path)

    async def _open_for_reading(self, path: Path) -> AssetHandle | SpoolHandle:
        node = await self.tree.find(path)
        if node is None:
            # A hidden album's name answers that it is hidden.
            await self.tree.list(path)
            raise NotFound
        if isinstance(node, (RootNode, *FOLDER_NODES)):
            raise Refused("This is a folder, not a file.")
        set_attrs = partial(self._set_attrs, path)
        if isinstance(node, PendingNode):
            upload = node.pending
            assert isinstance(upload, Upload)
            return SpoolHandle(upload, partial(self.tree.info, node), set_attrs)
        asset = node.file.asset
        if asset.size is None:
            raise Refused("Immich has no file for this asset now (its library is offline).")
        return AssetHandle(
            self._hashes.reader(asset, asset.size), asset, self.tree.info(node), set_attrs
        )

    async def _open_for_writing(self, path: Path, flags: int, attrs: Attrs) -> UploadHandle:
        await self.tree.may_write(path)
        name = names.check_new(path.name)
        for permission in UPLOAD_PERMISSIONS:
            if not self.lease.immich.allowed(permission):
                raise MissingPermission(permission)
        await self.uploads.check_type(self.lease, name)
        # Only now: a folder that is no album becomes one by this.
        album = await self.tree.album_for_writing(path, make=bool(flags & FXF_CREAT))
        node = await self.tree.find(path)
        if isinstance(node, FileNode) and not flags & FXF_EXCL:
            await self.tree.may_overwrite(node.file.asset)
            # That may have taken a while; what is in flight counts as it is now.
            node = await self.tree.find(path)
        while (upload := _upload_of(node)) is not None and await self.uploads.idle(upload):
            node = await self.tree.find(path)
        resumable = not flags & (FXF_TRUNC | FXF_EXCL) and not isinstance(node, PendingNode)
        cut_off = await self.tree.partial(path) if resumable else None
        # From here to the new upload nothing is waited for, so `node` stays what it is.
        if cut_off is not None:
            pass  # it is continued
        elif node is None:
            if not flags & FXF_CREAT:
                raise NotFound
        elif flags & FXF_CREAT and flags & FXF_EXCL:
            raise AlreadyExists
        upload = _upload_of(cut_off)
        if upload is None or upload.state is not State.PARTIAL:
            upload = self._upload_for(album, name, node, flags)
        else:
            replaces = node.file.asset.id if isinstance(node, FileNode) else None
            self.uploads.reopen(upload, self.lease, self, replaces)
        mtime = attrs.get("mtime")
        if mtime is not None:
            upload.time = float(mtime)
        return UploadHandle(
            self.uploads,
            upload,
            lambda: self.tree.info(PendingNode(album, upload)),
            append=bool(flags & FXF_APPEND),
        )

    def _upload_for(self, album: Album, name: str, node: Any, flags: int) -> Upload:
        truncate = bool(flags & FXF_TRUNC)
        base: Base | None = None
        replaces: str | None = None
        if isinstance(node, PendingNode):
            under = node.pending
            assert isinstance(under, Upload)
            replaces = under.replaces
            if not truncate and under.state is State.PARKED:
                self.uploads.reopen(under, self.lease, self, replaces)
                return under
            if not truncate:
                base = _spool_base(under)
        elif isinstance(node, FileNode):
            asset = node.file.asset
            replaces = asset.id
            if not truncate:
                if asset.size is None:
                    raise Refused("Immich has no file for this asset now (its library is offline).")
                reader = self._hashes.reader(asset, asset.size)
                base = Base(asset.size, reader.read, reader.close)
        return self.uploads.open(self.lease, album, name, base, self, replaces)

    # -- extensions --------------------------------------------------------------------------------

    @_served
    async def extendedRequest(
        self,
        extendedName: bytes,
        extendedData: bytes,
        handle_of: Callable[[bytes], Any] = _no_handles,
    ) -> ExtendedAnswer:
        """EXTENDED: a payload for EXTENDED_REPLY, a path for NAME, or None for OK."""
        return await self._extended.answer(extendedName, extendedData, handle_of)


@lru_cache(maxsize=PACKED_ENTRIES)
def _entry(name: str, mode: int, size: int | None, modified: int, recent: bool) -> bytes:
    """An entry as READDIR sends it; with `recent` its line has the time of day, else the year."""
    now = modified if recent else modified - 1
    line = longname(name, mode, size, modified, now, "immich", "immich")
    return pack_listed(name.encode(), line.encode(), size, mode, modified)


def _upload_of(node: object) -> Upload | None:
    """The upload that a node stands for, if it does."""
    if not isinstance(node, PendingNode):
        return None
    assert isinstance(node.pending, Upload)
    return node.pending


def _spool_base(under: Upload) -> Base:
    """What was written before, as the ground of an edit; the old file stays until that is whole."""
    file = under.file
    file.use()
    return Base(under.size, under.read, file.close)
