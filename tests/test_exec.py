"""The words of a command, and `sha1sum` over a session (BEHAVIOUR, section 8)."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from rig import TAKEN, VERSIONS, Rig, Session, jpeg, quiet, rig, until
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from immich_conch.sftp.commands import MOST_BYTES, MOST_FILES, PARALLEL, Commands, line, words
from immich_conch.sftp.hashes import MOST_SECONDS, Hashes

DOWNLOAD = "GET /assets/{id}/original"
EMPTY = b"da39a3ee5e6b4b0d3255bfef95601890afd80709  -\n"


def sha(data: bytes) -> bytes:
    return hashlib.sha1(data).hexdigest().encode()


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (b"", []),
        (b"  a\tb  ", [b"a", b"b"]),
        (b"a 'b c' \"d e\"", [b"a", b"b c", b"d e"]),
        (b"a'b'\"c\"d", [b"abcd"]),
        (b"''", [b""]),
        (rb"a\ b\'c", [b"a b'c"]),
        (rb'"a\"b\\c\$d\`e\f"', [rb'a"b\c$d`e\f']),
        (rb"'a\b'", [rb"a\b"]),
        (b"a\\\nb", [b"ab"]),
        (b"'a\nb'", [b"a\nb"]),
        (b"a*b?[c]~#", [b"a*b?[c]~#"]),
        ("grö'ß e'".encode(), ["größ e".encode()]),
        (b"\xff", [b"\xff"]),
        *((command, None) for command in (b"'a", b'"a', b"a\\", b'"a\\', b'"$a"', b'"`a`"')),
        *((b"a" + bytes([char]) + b"b", None) for char in b"\n;&|<>()$`"),
    ],
)
def test_words_are_split_as_a_shell_does(command: bytes, found: list[bytes] | None) -> None:
    assert words(command) == found


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))))
def test_what_is_quoted_comes_back(parts: list[str]) -> None:
    assert words(shlex.join(parts).encode()) == [part.encode() for part in parts]


@given(st.binary(max_size=60))
def test_no_command_is_too_broken_to_be_looked_at(command: bytes) -> None:
    found = words(command)
    assert found is None or b"".join(found).replace(b" ", b"") is not None


def test_names_that_need_escapes_are_marked_as_coreutils_does() -> None:
    assert line(b"\x01\xff", b"a b.jpg") == b"01ff  a b.jpg\n"
    assert line(b"\x01\xff", b"a\\b\nc\r") == b"\\01ff  a\\\\b\\nc\\r\n"


# -- the command -----------------------------------------------------------------------------------


@define(eq=False)
class Shell:
    """A connection's commands."""

    r: Rig
    session: Session
    commands: Commands
    running: list[Deferred[Any]] = field(factory=list)

    def start(self, command: bytes) -> Deferred[tuple[int | None, bytes, bytes]]:
        out: list[bytes] = []
        err: list[bytes] = []

        async def run() -> tuple[int | None, bytes, bytes]:
            status = await self.commands.run(command, out.append, err.append)
            return status, b"".join(out), b"".join(err)

        return Deferred.fromCoroutine(run())


@asynccontextmanager
async def shell(tmp_path: Path, version: str = "3.1.0", **more: Any) -> AsyncIterator[Shell]:
    async with rig(tmp_path, version, **more) as r:
        session = await r.session()
        sftp = session.sftp
        hashes = Hashes(session.lease, sftp.tree, sftp.uploads, r.clock)
        yield Shell(r, session, Commands(hashes, DeferredSemaphore(PARALLEL)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_checksums_come_from_immich_and_from_the_spool(tmp_path: Path, version: str) -> None:
    async with shell(tmp_path, version) as s:
        s.r.album("Rome", s.r.asset("a.jpg", jpeg("a")))
        await s.session.put("/Rome/sealed.jpg", jpeg("sealed"))
        await s.session.put("/Rome/parked.jpg.part", jpeg("parked"))
        handle = await s.session.open("/Rome/open.jpg")
        handle.writeChunk(0, jpeg("so far"))
        names = (b"/Rome/a.jpg", b"Rome/sealed.jpg", b"/Rome/parked.jpg.part", b"/Rome//open.jpg")
        status, out, err = await s.start(b"sha1sum " + b" ".join(names))
        data = ("a", "sealed", "parked", "so far")
        assert (status, err) == (0, b"")
        assert out == b"".join(
            sha(jpeg(text)) + b"  " + name + b"\n" for text, name in zip(data, names, strict=True)
        )
        assert s.r.demo.requests[DOWNLOAD] == 0
        handle.abort()
        await s.r.settled()


@pytest_twisted.ensureDeferred
async def test_motion_parts_and_files_in_views_have_checksums(tmp_path: Path) -> None:
    async with shell(tmp_path, views=("favorites",)) as s:
        part = s.r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        asset = s.r.asset("IMG_7.heic", jpeg("still"), live_video=part.id, favorite=True)
        s.r.album("Trips/Rome", asset)
        names = (b"/Trips/Rome/IMG_7.mov", b"/@Favorites/IMG_7.heic")
        status, out, err = await s.start(b"sha1sum " + b" ".join(names))
        assert (status, err) == (0, b"")
        assert out == b"".join(
            sha(jpeg(text)) + b"  " + name + b"\n"
            for text, name in zip(("part", "still"), names, strict=True)
        )
        assert s.r.demo.requests[DOWNLOAD] == 0


@pytest_twisted.ensureDeferred
async def test_the_others_are_printed_beside_what_is_missing(tmp_path: Path) -> None:
    async with shell(tmp_path) as s:
        s.r.album("Rome", s.r.asset("a.jpg", jpeg("a")))
        s.r.album("Secret", s.r.asset("s.jpg"), description="#nosync")
        status, out, err = await s.start(
            b"sha1sum -- /Rome/none.jpg /Rome/a.jpg /Rome /Secret/s.jpg '\xff' -"
        )
        assert status == 1
        assert out == sha(jpeg("a")) + b"  /Rome/a.jpg\n" + EMPTY
        assert err.splitlines() == [
            b"sha1sum: /Rome/none.jpg: No such file",
            b"sha1sum: /Rome: This is a folder, not a file.",
            b"sha1sum: /Secret/s.jpg: The album is hidden from SFTP by its description (Secret).",
            b"sha1sum: \xff: This path is not UTF-8.",
        ]


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"sha1sumx",
        b"sha1 -r",
        b"md5sum",
        b"sha1sum a | cat",
        b"sha1sum 'a",
        b"echo ${ShellId}",
        b"sha1sum " + b"a" * MOST_BYTES,
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_command_is_refused_without_waiting(
    tmp_path: Path, command: bytes
) -> None:
    async with shell(tmp_path) as s:
        running = s.start(command)
        assert running.called
        assert await running == (None, b"", b"")


@pytest_twisted.ensureDeferred
async def test_probes_are_answered_without_waiting(tmp_path: Path) -> None:
    async with shell(tmp_path) as s:
        for command, said in (
            (b"sha1sum", (0, EMPTY, b"")),
            (b"echo ${ShellId}%ComSpec%", (0, b"%ComSpec%\n", b"")),
            (b"sha1sum -c x", (1, b"", b"sha1sum: options are not known here\n")),
            (b"sha1sum" + b" a" * (MOST_FILES + 1), (1, b"", b"sha1sum: too many files\n")),
        ):
            running = s.start(command)
            assert running.called
            assert await running == said


def external(s: Shell, name: str = "a.jpg", data: bytes = b"external bytes") -> None:
    """An album with an asset whose checksum is one of its path."""
    asset = s.r.demo.add_asset(s.r.alice, name, data, TAKEN, library_id="library")
    s.r.album(f"Album of {name}", asset)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_external_librarys_file_is_read(tmp_path: Path, version: str) -> None:
    async with shell(tmp_path, version) as s:
        external(s)
        status, out, err = await s.start(b"sha1sum '/Album of a.jpg/a.jpg'")
        assert (status, out, err) == (
            0,
            sha(b"external bytes") + b"  /Album of a.jpg/a.jpg\n",
            b"",
        )
        assert s.r.demo.requests[DOWNLOAD] == 1


@pytest_twisted.ensureDeferred
async def test_files_are_read_one_at_a_time_and_not_once_nobody_waits(tmp_path: Path) -> None:
    async with shell(tmp_path) as s:
        external(s)
        external(s, "b.jpg", b"others")
        s.r.demo.faults.add("hang", method="GET", route="/assets/{id}/original")
        one = s.start(b"sha1sum '/Album of a.jpg/a.jpg' '/Album of b.jpg/b.jpg'")
        await until(lambda: s.r.demo.requests[DOWNLOAD] == 1)
        two = s.start(b"sha1sum '/Album of b.jpg/b.jpg'")
        await quiet()
        assert s.r.demo.requests[DOWNLOAD] == 1
        one.cancel()
        status, out, _ = await two
        assert (status, out[:40]) == (0, sha(b"others"))
        with pytest.raises(CancelledError):
            await one
        assert s.r.demo.requests[DOWNLOAD] == 2
        assert s.session.lease.holders == 1


@pytest_twisted.ensureDeferred
async def test_a_user_runs_so_many_commands_at_once_and_probes_wait_for_none(
    tmp_path: Path,
) -> None:
    async with shell(tmp_path) as s:
        external(s)
        s.r.demo.faults.add("hang", method="GET", route="/assets/{id}/original", count=None)
        running = [s.start(b"sha1sum '/Album of a.jpg/a.jpg'") for _ in range(PARALLEL + 3)]
        await until(lambda: s.r.demo.requests[DOWNLOAD] == 1)
        assert (s.commands.slots.tokens, len(s.commands.slots.waiting)) == (0, 3)
        assert await s.start(b"sha1sum") == (0, EMPTY, b"")
        for one in running:
            one.cancel()
            with pytest.raises(CancelledError):
                await one
        assert (s.commands.slots.tokens, s.session.lease.holders) == (PARALLEL, 1)


@pytest_twisted.ensureDeferred
async def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with shell(tmp_path) as s:
        external(s)
        s.r.demo.faults.add("hang", method="GET", route="/assets/{id}/original")
        running = s.start(b"sha1sum '/Album of a.jpg/a.jpg'")
        await until(lambda: s.r.demo.requests[DOWNLOAD] == 1)
        s.r.clock.advance(MOST_SECONDS)
        assert await running == (
            1,
            b"",
            b"sha1sum: /Album of a.jpg/a.jpg: This took too long.\n",
        )


@pytest_twisted.ensureDeferred
async def test_an_immich_that_is_away_is_said_on_stderr(tmp_path: Path) -> None:
    async with shell(tmp_path) as s:
        s.r.album("Rome", s.r.asset("a.jpg", jpeg("a")))
        s.r.demo.faults.add("status", method="GET", route="/albums", count=None)
        status, out, err = await s.start(b"sha1sum /Rome/a.jpg")
        assert (status, out) == (1, b"")
        assert err == b"sha1sum: /Rome/a.jpg: Immich is not reachable.\n"
