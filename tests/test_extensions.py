"""The extensions of section 8, as packets: what they answer, and that they answer once."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, VERSIONS, Rig, jpeg, rig, until
from sftp_peer import (
    ATTRS,
    CLOSE,
    EXTENDED,
    EXTENDED_REPLY,
    HANDLE,
    INIT,
    NAME,
    NO_ATTRS,
    OPEN,
    OPENDIR,
    STAT,
    STATUS,
    Answer,
    Peer,
    ns,
    packet,
)
from twisted.conch.ssh.filetransfer import (
    FX_BAD_MESSAGE,
    FX_FAILURE,
    FX_NO_SUCH_FILE,
    FX_OK,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
)

from immich_conch.sftp.hashes import Hashes

BYTES = jpeg("a", 2000)
DOWNLOAD = "GET /assets/{id}/original"
#: What OpenSSH 9 announces, with its versions, and `check-file` under its three names.
ANNOUNCED = {
    b"posix-rename@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"fstatvfs@openssh.com": b"2",
    b"hardlink@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"lsetstat@openssh.com": b"1",
    b"limits@openssh.com": b"1",
    b"expand-path@openssh.com": b"1",
    b"copy-data": b"1",
    b"home-directory": b"1",
    b"users-groups-by-id@openssh.com": b"1",
    b"check-file": b"1",
    b"check-file-handle": b"1",
    b"check-file-name": b"1",
}


class Client:
    """A raw client of one session that waits for its answers."""

    def __init__(self, r: Rig, peer: Peer) -> None:
        self.r, self.peer = r, peer

    async def ask(self, kind: int, *fields: bytes | int) -> Answer:
        number = self.peer.send(kind, *fields)
        found: list[Answer] = []
        await until(lambda: found.extend(self.peer.answers()) or found)
        (answer,) = found
        assert answer.id == number
        return answer

    async def extended(self, name: bytes, *fields: bytes | int) -> Answer:
        return await self.ask(EXTENDED, ns(name), *fields)

    async def open(self, path: bytes, flags: int = 1) -> bytes:
        answer = await self.ask(OPEN, ns(path), flags, NO_ATTRS)
        assert answer.kind == HANDLE
        return answer.string

    async def folder(self) -> bytes:
        return (await self.ask(OPENDIR, ns(b"/Rome"))).string


@asynccontextmanager
async def client(
    tmp_path: Path, version: str = "3.1.0", key: tuple[str, ...] = (), **more: object
) -> AsyncIterator[Client]:
    async with rig(tmp_path, version, **more) as r:  # type: ignore[arg-type]
        r.album("Rome", r.asset("a.jpg", BYTES))
        session = await r.session(key=r.demo.add_key(r.alice, key) if key else "")
        peer = Peer(session.sftp)  # type: ignore[arg-type]
        peer.raw(packet(INIT, struct.pack("!L", 3)))
        del peer.channel.written[:]
        yield Client(r, peer)
        peer.drop()


def path_of(answer: Answer) -> bytes:
    """The path in a NAME answer of one."""
    assert answer.kind == NAME
    count, size = struct.unpack("!LL", answer.body[:8])
    assert count == 1
    return answer.body[8 : 8 + size]


@pytest_twisted.ensureDeferred
async def test_exactly_what_is_served_is_announced(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        assert c.peer.server.client.gotVersion(3, {}) == ANNOUNCED
        for name in (*ANNOUNCED, b"nonsense@example.com"):
            answer = await c.extended(name, b"\0\0")
            unknown = answer.kind == STATUS and answer.code == FX_OP_UNSUPPORTED
            assert unknown == (name not in ANNOUNCED), name


@pytest.mark.parametrize("name", sorted(ANNOUNCED))
@pytest_twisted.ensureDeferred
async def test_broken_requests_get_one_answer_each(tmp_path: Path, name: bytes) -> None:
    async with client(tmp_path) as c:
        file, folder = await c.open(b"/Rome/a.jpg"), await c.folder()
        strings = (b"", b"/Rome/a.jpg", file, folder, b"\0" * 8, b"/Rome/none.jpg", b"\xff")
        numbers = struct.pack("!QQ", 0, 0)
        for one in strings:
            for rest in (b"", b"\0", ns(b"x"), ns(b"sha1") + b"\xff" * 20, numbers, numbers * 40):
                await c.extended(name, ns(one), rest)
        for cut in (b"", b"\xff\xff\xff\xff", b"\0\0\0\x08abc"):
            answer = await c.extended(name, cut)
            assert (answer.kind == STATUS and answer.code != FX_OK) or name == b"limits@openssh.com"
        assert (await c.ask(STAT, ns(b"/Rome"))).kind == ATTRS


# -- paths, names, sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b"~", b"/"),
        (b"~/", b"/"),
        (b"~/Rome/a.jpg", b"/Rome/a.jpg"),
        (b"~alice@example.com/Rome", b"/Rome"),
        (b"Rome/../Best", b"/Best"),
        (b"", b"/"),
        (b"/Rome/~", b"/Rome/~"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_tilde_is_the_users_own_root(tmp_path: Path, asked: bytes, told: bytes) -> None:
    async with client(tmp_path) as c:
        assert path_of(await c.extended(b"expand-path@openssh.com", ns(asked))) == told


@pytest_twisted.ensureDeferred
async def test_only_the_user_has_a_home_here(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        for name in (b"", b"Alice@example.com", b"immich"):
            assert path_of(await c.extended(b"home-directory", ns(name))) == b"/"
        for name, data in ((b"home-directory", b"bob"), (b"expand-path@openssh.com", b"~bob/x")):
            assert (await c.extended(name, ns(data))).code == FX_FAILURE


@pytest_twisted.ensureDeferred
async def test_ids_have_the_name_that_listings_show(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        ids = struct.pack("!LL", 0, 77)
        answer = await c.extended(b"users-groups-by-id@openssh.com", ns(ids), ns(ids[:4]))
        assert answer.kind == EXTENDED_REPLY
        assert answer.body == ns(ns(b"immich") + ns(b"")) + ns(ns(b"immich"))
        for broken in (b"123", b"\0" * 4 * 5000):
            answer = await c.extended(b"users-groups-by-id@openssh.com", ns(broken), ns(b""))
            assert answer.code in (FX_BAD_MESSAGE, FX_FAILURE)


@pytest_twisted.ensureDeferred
async def test_an_open_handle_tells_the_same_space_as_a_path(tmp_path: Path) -> None:
    async with client(tmp_path, quota=2**30) as c:
        by_path = await c.extended(b"statvfs@openssh.com", ns(b"/"))
        for handle in (await c.open(b"/Rome/a.jpg"), await c.folder()):
            answer = await c.extended(b"fstatvfs@openssh.com", ns(handle))
            assert answer.body == by_path.body and answer.kind == EXTENDED_REPLY
            assert (await c.ask(CLOSE, ns(handle))).code == FX_OK
            assert (await c.extended(b"fstatvfs@openssh.com", ns(handle))).code == FX_FAILURE


LOOK = ("user.read", "album.read", "asset.read", "asset.download", "server.about")


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_not_see_the_disk_tells_no_made_up_space(tmp_path: Path) -> None:
    async with client(tmp_path, key=LOOK) as c:
        answer = await c.extended(b"statvfs@openssh.com", ns(b"/"))
        assert answer.code == FX_OP_UNSUPPORTED and b"server.storage" in answer.text
    async with client(tmp_path / "quota", key=LOOK, quota=2**30) as c:
        answer = await c.extended(b"statvfs@openssh.com", ns(b"/"))
        assert struct.unpack("!11Q", answer.body)[2] * 4096 == 2**30


@pytest_twisted.ensureDeferred
async def test_lsetstat_is_setstat(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        times = struct.pack("!LLL", 8, 99, 99)
        assert (await c.extended(b"lsetstat@openssh.com", ns(b"/Rome/a.jpg"), times)).code == FX_OK
        answer = await c.ask(STAT, ns(b"/Rome/a.jpg"))
        assert answer.body[-4:] == struct.pack("!L", 99)
        gone = await c.extended(b"lsetstat@openssh.com", ns(b"/Rome/none.jpg"), times)
        assert gone.code == FX_NO_SUCH_FILE
        cut = await c.extended(b"lsetstat@openssh.com", ns(b"/Rome/a.jpg"), times[:-1])
        assert cut.code == FX_BAD_MESSAGE


@pytest_twisted.ensureDeferred
async def test_a_folder_cannot_be_synced_copied_or_hashed(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        folder, file = await c.folder(), await c.open(b"/Rome/a.jpg")
        numbers = struct.pack("!QQ", 0, 0)
        ends = ns(b"sha1") + numbers + b"\0\0\0\0"
        copies = (
            ns(folder) + numbers + ns(file) + numbers[:8],
            ns(file) + numbers + ns(folder) + numbers[:8],
            ns(file) + numbers + ns(file) + numbers[:8],
        )
        answers = [
            await c.extended(b"fsync@openssh.com", ns(folder)),
            await c.extended(b"check-file-handle", ns(folder), ends),
            await c.extended(b"check-file-name", ns(b"/Rome"), ends),
            *[await c.extended(b"copy-data", one) for one in copies],
        ]
        assert [answer.code for answer in answers] == [FX_FAILURE] * 6


# -- check-file ------------------------------------------------------------------------------------


def hashed(answer: Answer) -> tuple[bytes, bytes]:
    """The algorithm and the hashes of an answer of check-file."""
    assert answer.kind == EXTENDED_REPLY, answer
    head = ns(b"check-file")
    assert answer.body.startswith(head)
    (size,) = struct.unpack_from("!L", answer.body, len(head))
    at = len(head) + 4 + size
    return answer.body[at - size : at], answer.body[at:]


def region(algorithms: bytes, start: int = 0, length: int = 0, block: int = 0) -> bytes:
    return ns(algorithms) + struct.pack("!QQL", start, length, block)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_sha1_of_a_whole_file_is_known_without_reading_it(
    tmp_path: Path, version: str
) -> None:
    async with client(tmp_path, version) as c:
        whole = hashlib.sha1(BYTES).digest()
        handle = await c.open(b"/Rome/a.jpg")
        for wanted in (region(b"sha1"), region(b"nonsense,sha1,md5", 0, 2000, 4096)):
            by_name = await c.extended(b"check-file-name", ns(b"/Rome/a.jpg"), wanted)
            assert hashed(by_name) == (b"sha1", whole)
            for name in (b"check-file", b"check-file-handle"):
                assert hashed(await c.extended(name, ns(handle), wanted)) == (b"sha1", whole)
        assert c.r.demo.requests[DOWNLOAD] == 0


@pytest_twisted.ensureDeferred
async def test_other_hashes_and_blocks_are_read(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        ask = ns(b"/Rome/a.jpg")
        for name in ("md5", "sha224", "sha256", "sha384", "sha512"):
            answer = await c.extended(b"check-file-name", ask, region(name.encode()))
            assert hashed(answer) == (name.encode(), hashlib.new(name, BYTES).digest())
        answer = await c.extended(b"check-file-name", ask, region(b"crc32", 5, 10))
        assert hashed(answer)[1] == struct.pack("!L", zlib.crc32(BYTES[5:15]))
        answer = await c.extended(b"check-file-name", ask, region(b"sha1", 100, 0, 1000))
        blocks = [hashlib.sha1(BYTES[at : at + 1000]).digest() for at in (100, 1100)]
        assert hashed(answer)[1] == b"".join(blocks)
        answer = await c.extended(b"check-file-name", ask, region(b"md5", 5000))
        assert hashed(answer)[1] == hashlib.md5(b"").digest()


@pytest_twisted.ensureDeferred
async def test_hashes_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        big = c.r.demo.add_asset(c.r.alice, "big.mp4", None, TAKEN, size=2**31)
        c.r.album("Big", big)
        ask = ns(b"/Rome/a.jpg")
        codes = {
            await_: (await c.extended(b"check-file-name", path, wanted)).code
            for await_, path, wanted in (
                ("none known", ask, region(b"whirlpool")),
                ("tiny blocks", ask, region(b"md5", 0, 0, 255)),
                ("too many", ns(b"/Big/big.mp4"), region(b"md5", 0, 0, 256)),
                ("no file", ns(b"/Rome/none.jpg"), region(b"md5")),
            )
        }
        assert codes == {
            "none known": FX_OP_UNSUPPORTED,
            "tiny blocks": FX_BAD_MESSAGE,
            "too many": FX_FAILURE,
            "no file": FX_NO_SUCH_FILE,
        }
        assert c.r.demo.requests[DOWNLOAD] == 0


@pytest_twisted.ensureDeferred
async def test_a_file_being_written_has_the_hash_of_what_is_there(tmp_path: Path) -> None:
    async with client(tmp_path) as c:
        handle = await c.open(b"/Rome/b.jpg", 0x1A)
        for offset, data in ((3, b"def"), (0, b"abc")):
            c.peer.write(handle, offset, data)
        await until(lambda: len(c.peer.answers()) or True)
        answer = await c.extended(b"check-file", ns(handle), region(b"sha1"))
        assert hashed(answer)[1] == hashlib.sha1(b"abcdef").digest()
        c.peer.write(handle, 6, b"ghi")
        c.peer.answers()
        answer = await c.extended(b"check-file-name", ns(b"/Rome/b.jpg"), region(b"sha1"))
        assert hashed(answer)[1] == hashlib.sha1(b"abcdefghi").digest()


@pytest_twisted.ensureDeferred
async def test_hashing_ends_with_the_session_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(tmp_path) as c:
        c.r.demo.faults.add("hang", method="GET", route="/assets/{id}/original")
        running: list[Hashes] = []
        original = Hashes._read

        async def read(self: Hashes, *args: object) -> list[bytes]:
            running.append(self)
            try:
                return await original(self, *args)  # type: ignore[arg-type]
            finally:
                running.remove(self)

        monkeypatch.setattr(Hashes, "_read", read)
        c.peer.send(EXTENDED, ns(b"check-file-name"), ns(b"/Rome/a.jpg"), region(b"md5"))
        await until(lambda: running)
        assert (await c.ask(STAT, ns(b"/Rome"))).kind == ATTRS
        c.peer.server.client.ended()
        await until(lambda: not running)


@pytest_twisted.ensureDeferred
async def test_a_key_without_write_permissions_sees_a_read_only_tree(tmp_path: Path) -> None:
    async with client(tmp_path, key=LOOK) as c:
        session = c.r.sessions[0]
        assert {entry["permissions"] for entry in (await session.ls("/")).values()} == {0o40555}
        assert (await session.stat("/"))["permissions"] == 0o40555
        assert (await session.stat("/Rome/a.jpg"))["permissions"] == 0o100444
        refused = {
            b"mkdir": await c.ask(14, ns(b"/New"), NO_ATTRS),
            b"rmdir": await c.ask(15, ns(b"/Rome")),
            b"open": await c.ask(OPEN, ns(b"/Rome/b.jpg"), 0x1A, NO_ATTRS),
            b"remove": await c.ask(13, ns(b"/Rome/a.jpg")),
        }
        assert {name: answer.code for name, answer in refused.items()} == dict.fromkeys(
            refused, FX_PERMISSION_DENIED
        )
        assert b"album.create" in refused[b"mkdir"].text
        assert b"album.delete" in refused[b"rmdir"].text
        assert b"asset.upload" in refused[b"open"].text
        assert b"asset.delete" in refused[b"remove"].text
    async with client(tmp_path / "writes", key=(*LOOK, "asset.upload", "albumAsset.create")) as c:
        assert (await c.r.sessions[0].stat("/Rome"))["permissions"] == 0o40755
