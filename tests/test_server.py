"""Requests as a client sends them, and what they answer (BEHAVIOUR, sections 2, 5 and 10)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import EDIT, NEW, TAKEN, VERSIONS, WRITE, Rig, Session, jpeg, raises, rig, unpacked, until
from twisted.conch.ssh.filetransfer import (
    FX_BAD_MESSAGE,
    FX_FAILURE,
    FX_NO_SUCH_FILE,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
)

from immich_conch.errors import (
    AlreadyExists,
    ConchError,
    MissingPermission,
    NotFound,
    SessionRevoked,
    Unsupported,
)
from immich_conch.library.lookup import OVERWRITE_PERMISSIONS
from immich_conch.sftp import extensions
from immich_conch.sftp.server import UPLOAD_PERMISSIONS
from immich_conch.sftp.status import to_status


def string(text: bytes) -> bytes:
    """A string as SFTP packs it."""
    return struct.pack("!L", len(text)) + text


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_upload_and_its_download_over_real_connections(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        album = r.album("Rome")
        session = await r.session()
        data = jpeg("large", 3_000_000)
        handle = await session.open("/Rome/a.jpg", NEW)
        for at in range(0, len(data), 32_768):
            handle.writeChunk(at, data[at : at + 32_768])
        handle.setAttrs({"mtime": TAKEN})
        await handle.close()
        assert r.names_in(album) == ["a.jpg"]
        assert await session.get("/Rome/a.jpg") == data
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_writer_out_of_order_is_understood(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        data = jpeg("node", 1000)
        handle = await session.open("/Rome/a.jpg", WRITE, mtime=TAKEN)
        for at in (500, 0, 750, 250):
            handle.writeChunk(at, data[at : at + 250])
        await handle.close()
        (asset,) = r.demo.assets_of(album)
        assert r.demo.content(asset) == data


@pytest_twisted.ensureDeferred
async def test_longnames_tell_type_and_size(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg", jpeg("a", 1234)))
        session = await r.session()
        (root,) = map(unpacked, await (await session.sftp.openDirectory(b"/")).next_batch())
        assert root[1].startswith(b"drwxr-xr-x")
        folder = await session.sftp.openDirectory(b"/Rome")
        (file,) = map(unpacked, await folder.next_batch())
        assert file[1].startswith(b"-rw-r--r--")
        assert b" 1234 " in file[1]
        assert file[1].endswith(b" a.jpg")
        assert list(await folder.next_batch()) == []
        assert list(await folder.next_batch()) == []


@pytest_twisted.ensureDeferred
async def test_exclusive_creation_refuses_what_is_there_in_any_form(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await session.put("/Rome/sealed.jpg", jpeg("s"))
        handle = await session.open("/Rome/open.jpg", NEW)
        for name in ("a", "sealed", "open"):
            await raises(AlreadyExists, session.open(f"/Rome/{name}.jpg", NEW))
        await raises(NotFound, session.open("/Rome/new.jpg", EDIT))
        handle.abort()
        await session.rm("/Rome/sealed.jpg")
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_chmod_and_chown_have_no_effect_on_what_is_there(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await session.put("/Rome/sealed.jpg", jpeg("s"))
        before = await session.ls("/Rome")
        for path in ("/", "/Rome", "/Rome/a.jpg", "/Rome/sealed.jpg"):
            await session.setstat(path, permissions=0o600)
            await session.setstat(path, uid=5, gid=5)
            await session.setstat(path)
        await raises(NotFound, session.setstat("/Rome/none.jpg", permissions=0o600))
        assert await session.ls("/Rome") == before
        await session.rm("/Rome/sealed.jpg")


@pytest_twisted.ensureDeferred
async def test_the_time_of_a_committed_file_is_kept_and_a_folders_is_not(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await session.utime("/Rome/a.jpg", 5)
        before = await session.stat("/Rome")
        await session.utime("/Rome", 5)
        assert await session.stat("/Rome") == before
        assert (await session.stat("/Rome/a.jpg"))["mtime"] == 5


@pytest_twisted.ensureDeferred
async def test_statvfs_tells_the_quota_else_the_disk(tmp_path: Path) -> None:
    async with rig(tmp_path, quota=2**30) as r:
        r.album("Rome", r.asset("a.jpg", jpeg("a", 2**20)))
        session = await r.session()
        # KIO asks for a file that is not there yet.
        answer = await session.sftp.extendedRequest(extensions.STATVFS, string(b"/Rome/new.jpg"))
        assert answer is not None
        size, _, blocks, free, *_ = struct.unpack("!11Q", answer)
        assert size * blocks == 2**30
        assert size * free == 2**30 - 2**20
    async with rig(tmp_path / "disk") as r:
        answer = await (await r.session()).sftp.extendedRequest(extensions.STATVFS, string(b"/"))
        assert answer is not None
        assert struct.unpack("!11Q", answer)[2] > 0


@pytest_twisted.ensureDeferred
async def test_limits_and_fsync(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        limits = await session.sftp.extendedRequest(extensions.LIMITS, b"")
        assert limits is not None
        assert struct.unpack("!QQQQ", limits) == (262_144, 261_120, 261_120, 256)
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("a"))
        handles: Callable[[bytes], Any] = {b"1": handle}.__getitem__
        assert await session.sftp.extendedRequest(extensions.FSYNC, string(b"1"), handles) is None
        handle.abort()


async def _ask(session: Session, what: str) -> Any:
    sftp = session.sftp
    requests: dict[str, Callable[[], Any]] = {
        "no such file": lambda: session.stat("/Rome/none.jpg"),
        "no such album": lambda: session.ls("/None"),
        "file into the root": lambda: session.open("/a.jpg"),
        "type not taken": lambda: session.open("/Rome/a.txt"),
        "hidden album": lambda: session.ls("/Secret"),
        "exists already": lambda: sftp.makeDirectory(b"/Rome", {}),
        "name not UTF-8": lambda: session.sftp.getAttrs(b"/Rome/\xff", True),
        "control character": lambda: session.open("/Rome/a\n.jpg"),
        "rename not kept": lambda: session.mv("/Rome/theirs.jpg", "/Rome/b.jpg"),
        "into itself": lambda: session.mv("/Rome", "/Rome/sub"),
        "folder below a hidden album": lambda: sftp.makeDirectory(b"/Secret/sub", {}),
        "write over a folder": lambda: session.open("/Rome/Day.jpg"),
        "not empty": lambda: sftp.removeDirectory(b"/Rome"),
        "malformed": lambda: sftp.extendedRequest(extensions.POSIX_RENAME, b"\0\0\0\x09x"),
        "open for nothing": lambda: sftp.openFile(b"/Rome/a.jpg", 0, {}),
        "unknown extension": lambda: sftp.extendedRequest(b"nonsense@example.com", b""),
    }
    return await requests[what]()


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no such file", FX_NO_SUCH_FILE),
        ("no such album", FX_NO_SUCH_FILE),
        ("file into the root", FX_PERMISSION_DENIED),
        ("type not taken", FX_PERMISSION_DENIED),
        ("hidden album", FX_PERMISSION_DENIED),
        ("exists already", FX_FAILURE),
        ("name not UTF-8", FX_FAILURE),
        ("control character", FX_FAILURE),
        ("rename not kept", FX_OP_UNSUPPORTED),
        ("into itself", FX_FAILURE),
        ("folder below a hidden album", FX_PERMISSION_DENIED),
        ("write over a folder", FX_FAILURE),
        ("not empty", FX_FAILURE),
        ("malformed", FX_BAD_MESSAGE),
        ("open for nothing", FX_BAD_MESSAGE),
        ("unknown extension", FX_OP_UNSUPPORTED),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_goes_wrong_has_its_status_and_a_text(
    tmp_path: Path, what: str, code: int
) -> None:
    async with rig(tmp_path) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN)
        r.album("Rome", r.asset("a.jpg"), theirs)
        r.album("Rome/Day.jpg")
        r.album("Secret", description="#nosync")
        with pytest.raises(ConchError) as caught:
            await _ask(await r.session(), what)
        status, text = to_status(caught.value)
        assert status == code
        assert text


@pytest_twisted.ensureDeferred
async def test_links_are_unsupported(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sftp = (await r.session()).sftp
        with pytest.raises(Unsupported):
            sftp.readLink(b"/a")
        with pytest.raises(Unsupported):
            sftp.makeLink(b"/a", b"/b")
        assert sftp.realPath(b"x/../Rome/./a.jpg") == b"/Rome/a.jpg"
        assert sftp.realPath(b".") == b"/"


@pytest_twisted.ensureDeferred
async def test_a_revoked_session_says_so(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        r.demo.revoke(session.lease.immich.credential.secret)  # type: ignore[attr-defined]
        error = await raises(SessionRevoked, session.ls("/"))
        assert to_status(error)[0] == FX_PERMISSION_DENIED


@pytest_twisted.ensureDeferred
async def test_an_upload_without_the_permission_is_refused_at_open(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        permissions = ["user.read", "album.read", "asset.read", "asset.download", "apiKey.read"]
        session = await r.session(key=r.demo.add_key(r.alice, permissions))
        error = await raises(MissingPermission, session.open("/Rome/a.jpg"))
        assert "asset.upload" in error.text
        assert r.in_spool() == []


@pytest.mark.parametrize("missing", OVERWRITE_PERMISSIONS)
@pytest_twisted.ensureDeferred
async def test_an_overwrite_that_a_key_could_not_finish_is_refused_at_open(
    tmp_path: Path, missing: str
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album = r.album("Rome", old)
        permissions = {
            "user.read",
            "album.read",
            "asset.read",
            "apiKey.read",
            *UPLOAD_PERMISSIONS,
            *OVERWRITE_PERMISSIONS,
        }
        key = r.demo.add_key(r.alice, sorted(permissions - {missing}))
        session = await r.session(key=key)
        error = await raises(MissingPermission, session.open("/Rome/a.jpg"))
        assert missing in error.text
        await session.put("/Rome/a.jpg.part", jpeg("new"), TAKEN)
        await raises(MissingPermission, session.posix_mv("/Rome/a.jpg.part", "/Rome/a.jpg"))
        assert r.demo.assets_of(album) == [old]
        await session.put("/Rome/new.jpg", jpeg("other"), TAKEN)
        assert r.names_in(album) == ["a.jpg", "new.jpg"]
        allowed = await r.session(key=r.demo.add_key(r.alice, sorted(permissions)))
        await allowed.put("/Rome/a.jpg", jpeg("newer"), TAKEN)
        assert old.deleted is not None


async def _open_sessions_after(r: Rig, session: Session) -> None:
    session.hang_up()
    await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_the_immich_session_is_logged_out_only_after_the_last_commit(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        for number in range(3):
            await session.put(f"/Rome/{number}.jpg", jpeg(str(number)))
        session.hang_up()
        assert r.demo.open_sessions == 1
        await r.settled()
        await until(lambda: r.demo.open_sessions == 0)
        assert len(r.names_in(album)) == 3


@pytest_twisted.ensureDeferred
async def test_a_reader_keeps_its_file_while_that_is_overwritten(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("first"))
        reader = await session.sftp.openFile(b"/Rome/a.jpg", 1, {})
        await session.put("/Rome/a.jpg", jpeg("second"), TAKEN)
        assert reader.readChunk(0, 100) == jpeg("first")
        reader.close()
        reader.close()
        assert await session.get("/Rome/a.jpg") == jpeg("second")
        await _open_sessions_after(r, session)
