"""What each SFTP v3 request says, does and answers.

A request's fields are read completely before anything is done; one that cannot be read raises
Malformed, one for a handle that is not there the status for that.  READ and WRITE, of which there
are thousands a second, are taken apart in `packets`; here are all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.conch.ssh.filetransfer import (
    FX_FAILURE,
    FX_OK,
    FXP_CLOSE,
    FXP_EXTENDED,
    FXP_FSETSTAT,
    FXP_FSTAT,
    FXP_LSTAT,
    FXP_MKDIR,
    FXP_OPEN,
    FXP_OPENDIR,
    FXP_READ,
    FXP_READDIR,
    FXP_READLINK,
    FXP_REALPATH,
    FXP_REMOVE,
    FXP_RENAME,
    FXP_RMDIR,
    FXP_SETSTAT,
    FXP_STAT,
    FXP_SYMLINK,
    FXP_WRITE,
    SFTPError,
)

from immich_conch.sftp import wire
from immich_conch.sftp.extensions import Named
from immich_conch.sftp.ordering import Entry, Handle, Request, Touch
from immich_conch.sftp.wire import Reader

READDIR_BYTES = 2**16
"""The size of a listing's answer: sshfs takes 128 KiB at most, libssh2 and OpenSSH 256 KiB."""

_ANSWER_BYTES = 64  # no entry is smaller than its head, so a listing of one entry always goes


class Session(Protocol):
    """What the requests need of the session they came in: `packets.FileTransferServer`."""

    client: Any

    def handle(self, handle_id: bytes) -> Handle:
        """The open file or directory of this id; raises the status for an unknown one."""

    def opened(self, request_id: int, target: Any, path: bytes, is_directory: bool) -> bytes:
        """Take an opened file or directory in and answer with its handle."""

    def closed(self, handle: Handle) -> None:
        """The handle's CLOSE is passed on: nothing else may come for it."""

    def let_go(self, target: Any, is_directory: bool) -> None:
        """Abort a file or close a folder that the client will never close."""

    def renamed(self, old: bytes, new: bytes) -> None:
        """Files opened below `old` now go by `new`."""


def no_such_handle() -> SFTPError:
    """The status for a handle that was never given out or is closed."""
    return SFTPError(FX_FAILURE, "no such handle")


def ok(request_id: int) -> bytes:
    """STATUS OK."""
    return wire.status(request_id, FX_OK, b"")


def _file(session: Session, fields: Reader) -> Handle:
    return file_of(session.handle(fields.string()))


def file_of(handle: Handle) -> Handle:
    """The handle, which must be a file's."""
    if handle.is_directory:
        raise SFTPError(FX_FAILURE, "the handle is a folder's")
    return handle


def _open(session: Session, number: int, fields: Reader) -> Request:
    path, flags, attrs = fields.string(), fields.uint32(), fields.attrs()
    return Request(
        number,
        lambda: session.client.openFile(path, flags, attrs),
        lambda file: session.opened(number, file, path, False),
        names=(path,),
        touch=Touch.CHANGE,
        late=lambda file: session.let_go(file, False),
    )


def _close(session: Session, number: int, fields: Reader) -> Request:
    handle = session.handle(fields.string())
    handle.closing = True

    def close() -> Any:
        session.closed(handle)
        return handle.target.close()

    return Request(
        number,
        close,
        lambda _: ok(number),
        handles=(handle,),
        names=() if handle.is_directory else (handle.path,),
        touch=Touch.CLOSE,
    )


def _fstat(session: Session, number: int, fields: Reader) -> Request:
    handle = _file(session, fields)
    return Request(
        number,
        lambda: handle.target.getAttrs(),
        lambda attrs: wire.attributes(number, attrs),
        handles=(handle,),
        shares=True,
    )


def _fsetstat(session: Session, number: int, fields: Reader) -> Request:
    handle, attrs = _file(session, fields), fields.attrs()
    return Request(
        number,
        lambda: handle.target.setAttrs(attrs),
        lambda _: ok(number),
        handles=(handle,),
        names=(handle.path,),
        touch=Touch.CHANGE,
    )


def _opendir(session: Session, number: int, fields: Reader) -> Request:
    path = fields.string()
    return Request(
        number,
        lambda: session.client.openDirectory(path),
        lambda folder: session.opened(number, folder, path, True),
        names=(path,),
        late=lambda folder: session.let_go(folder, True),
    )


def _readdir(session: Session, number: int, fields: Reader) -> Request:
    handle = session.handle(fields.string())
    if not handle.is_directory:
        raise SFTPError(FX_FAILURE, "the handle is a file's")
    return Request(
        number,
        lambda: _pack_left(handle) if handle.left else _next_batch(handle),
        lambda entries: wire.names(number, entries),
        handles=(handle,),
    )


async def _next_batch(handle: Handle) -> list[bytes]:
    if not handle.ended:
        batch: list[Entry] = await handle.target.next_batch()
        handle.left.extend(batch)
        handle.ended = not batch
    if handle.ended:
        # Clients ask on, some dozens of times: each gets its EOF.
        raise EOFError
    return _pack_left(handle)


def _pack_left(handle: Handle) -> list[bytes]:
    """As many entries as one answer takes, at least one; the rest stays for the next READDIR."""
    entries: list[bytes] = []
    size = _ANSWER_BYTES
    while handle.left:
        entry = handle.left[0]
        if not isinstance(entry, bytes):
            entry = wire.pack_entry(*entry)
        size += len(entry)
        if entries and size > READDIR_BYTES:
            break
        entries.append(entry)
        handle.left.popleft()
    return entries


def _status_of_path(member: str, with_attrs: bool) -> Builder:
    """A request on one path, with or without attributes, that is answered by a status."""

    def build(session: Session, number: int, fields: Reader) -> Request:
        path = fields.string()
        arguments = (path, fields.attrs()) if with_attrs else (path,)
        return Request(
            number,
            lambda: getattr(session.client, member)(*arguments),
            lambda _: ok(number),
            names=(path,),
            touch=Touch.CHANGE,
        )

    return build


def _stat(follow: bool) -> Builder:
    def build(session: Session, number: int, fields: Reader) -> Request:
        path = fields.string()
        return Request(
            number,
            lambda: session.client.getAttrs(path, follow),
            lambda attrs: wire.attributes(number, attrs),
            names=(path,),
        )

    return build


def _path_of_path(member: str) -> Builder:
    """REALPATH and READLINK: a path in, a path out, as a NAME of one entry without attributes."""

    def build(session: Session, number: int, fields: Reader) -> Request:
        path = fields.string()
        return Request(
            number,
            lambda: getattr(session.client, member)(path),
            lambda found: wire.names(number, [wire.pack_entry(found, found, {})]),
            names=(path,),
        )

    return build


def _rename(session: Session, number: int, fields: Reader) -> Request:
    old, new = fields.string(), fields.string()

    def reply(_: Any) -> bytes:
        session.renamed(old, new)
        return ok(number)

    return Request(
        number,
        lambda: session.client.renameFile(old, new),
        reply,
        names=(old, new),
        touch=Touch.CHANGE,
    )


def _symlink(session: Session, number: int, fields: Reader) -> Request:
    link, target = fields.string(), fields.string()
    return Request(
        number,
        lambda: session.client.makeLink(link, target),
        lambda _: ok(number),
        names=(link, target),
        touch=Touch.CHANGE,
    )


# What the extensions touch: which of their fields are handles and which are paths.  They come
# first in all of these; `c` is the last handle of copy-data, behind two numbers.
_EXTENSIONS: Mapping[bytes, tuple[str, Touch]] = {
    b"posix-rename@openssh.com": ("pp", Touch.CHANGE),
    b"hardlink@openssh.com": ("pp", Touch.CHANGE),
    b"lsetstat@openssh.com": ("p", Touch.CHANGE),
    b"statvfs@openssh.com": ("p", Touch.LOOK),
    b"expand-path@openssh.com": ("p", Touch.LOOK),
    b"check-file-name": ("p", Touch.LOOK),
    b"check-file-handle": ("h", Touch.LOOK),
    b"check-file": ("h", Touch.LOOK),
    b"fsync@openssh.com": ("h", Touch.LOOK),
    b"fstatvfs@openssh.com": ("h", Touch.LOOK),
    b"copy-data": ("hc", Touch.CHANGE),
}


def _extended(session: Session, number: int, fields: Reader) -> Request:
    name, data = fields.string(), fields.rest()
    layout, touch = _EXTENSIONS.get(name, ("", Touch.LOOK))
    body = Reader(data)
    handles: list[Handle] = []
    names: list[bytes] = []
    for kind in layout:
        if kind == "p":
            names.append(body.string())
        elif kind == "h":
            handles.append(session.handle(body.string()))
        else:
            body.uint64()
            body.uint64()
            handles.append(session.handle(body.string()))

    def handle_of(handle_id: bytes) -> Any:
        # A CLOSE that came meanwhile waits for this request, so what was found stays good.
        for handle in handles:
            if handle.id == handle_id:
                return handle.target
        return session.handle(handle_id).target

    def reply(answer: bytes | Named | None) -> bytes:
        if isinstance(answer, Named):
            return wire.names(number, [wire.pack_entry(answer.path, answer.path, {})])
        if name == b"posix-rename@openssh.com":
            session.renamed(*names)
        return ok(number) if answer is None else wire.extended_reply(number, answer)

    return Request(
        number,
        lambda: session.client.extendedRequest(name, data, handle_of),
        reply,
        handles=tuple(dict.fromkeys(handles)),
        names=tuple(names),
        touch=touch,
    )


def _read(session: Session, number: int, fields: Reader) -> Request:
    """A READ that `packets` could not take: malformed, or its handle is none of ours."""
    fields.string(), fields.uint64(), fields.uint32()
    raise no_such_handle()


def _write(session: Session, number: int, fields: Reader) -> Request:
    """A WRITE that `packets` could not take: malformed, or its handle is none of ours."""
    fields.string(), fields.uint64(), fields.string()
    raise no_such_handle()


Builder = Callable[[Session, int, Reader], Request]

BUILDERS: Mapping[int, Builder] = {
    FXP_OPEN: _open,
    FXP_CLOSE: _close,
    FXP_READ: _read,
    FXP_WRITE: _write,
    FXP_LSTAT: _stat(False),
    FXP_FSTAT: _fstat,
    FXP_SETSTAT: _status_of_path("setAttrs", True),
    FXP_FSETSTAT: _fsetstat,
    FXP_OPENDIR: _opendir,
    FXP_READDIR: _readdir,
    FXP_REMOVE: _status_of_path("removeFile", False),
    FXP_MKDIR: _status_of_path("makeDirectory", True),
    FXP_RMDIR: _status_of_path("removeDirectory", False),
    FXP_REALPATH: _path_of_path("realPath"),
    FXP_STAT: _stat(True),
    FXP_RENAME: _rename,
    FXP_READLINK: _path_of_path("readLink"),
    FXP_SYMLINK: _symlink,
    FXP_EXTENDED: _extended,
}
"""How each kind of request becomes a Request."""
