"""Broken SFTP sessions against a whole library: the real tree, uploads and views on the demo.

`fuzz` has files in memory and hundreds of inputs a second; here are dozens, and everything that
names, attributes and extensions reach behind the packets.  Sessions follow each other on one
library, so that they find what those before them left.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from fuzz import corpus
from fuzz.mutate import TOKENS, Messages, mutate, mutate_bytes, string
from fuzz.targets import _answers, _requests
from rig import Rig, rig, until
from sftp_peer import Channel
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from immich_conch.sftp.packets import FileTransferServer
from immich_conch.sftp.requests import BUILDERS

INPUTS = int(os.environ.get("IMMICH_CONCH_TEST_FUZZ_INPUTS", "150"))

PATHS = (
    *(
        b"/",
        b".",
        b"",
        b"..",
        b"/album",
        b"/album/photo.jpg",
        b"/album/photo.jpg.part",
        b"/album/../album",
    ),
    *(
        b"/album/",
        b"/other/photo.jpg",
        b"/album/photo.jpg/x",
        b"/@Favorites",
        b"/@Favorites/photo.jpg",
    ),
    *(b"/album/\xff\xfe", b"/album/a\0b", b"/" + b"x" * 300, b"/album/" + b"\xc3\xa4" * 128, b"~"),
    *(
        b"/ALBUM/photo.jpg",
        b"/album/a\xcc\x88",
        b"/album/.photo.swp",
        b"/a/b/c/d",
        b"//album//photo.jpg",
    ),
    *(
        b"/album/photo ~1a2b3c4d.jpg",
        b"/@Trash/photo.jpg",
        b"/@Timeline/2017/07/photo.jpg",
        b"/" * 4000,
    ),
)
HANDLES = [string(number.to_bytes(8, "big")) for number in (0, 1, 1, 1, 2, 3)]
EXTENSIONS = [token for token in TOKENS if b"@openssh.com" in token or b"-" in token]


def request(r: Random) -> bytes:
    """A request that makes some sense."""

    def attrs() -> bytes:
        flags = r.choice((0, 0, 4, 8, 12, 1, 15, 2**31))
        return struct.pack("!L", flags) + r.choice((bytes(40), r.randbytes(40), b""))

    def path() -> bytes:
        return string(r.choice(PATHS))

    kind = r.choice(list(BUILDERS))
    number = struct.pack("!L", r.randrange(9))
    handle = r.choice(HANDLES)
    offset = struct.pack("!Q", r.choice((0, 0, 0, 1, 500, 2**20, 2**63, 2**64 - 1)))
    body = {
        3: lambda: path() + struct.pack("!L", r.choice((1, 2, 10, 26, 30, 58, 63, 0))) + attrs(),
        4: lambda: handle,
        5: lambda: handle + offset + struct.pack("!L", r.choice((0, 1, 32768, 2**32 - 1))),
        6: lambda: handle + offset + string(bytes(r.choice((0, 1, 500)))),
        8: lambda: handle,
        10: lambda: handle + attrs(),
        12: lambda: handle,
        18: lambda: path() + path(),
        20: lambda: path() + path(),
        200: lambda: string(r.choice(EXTENSIONS)) + r.choice((path() * 2, handle * 2, path(), b"")),
    }.get(kind, lambda: path() + attrs())()
    message = bytes((kind,)) + number + body
    return mutate_bytes(r, message) if r.random() < 0.2 else message


def recorded() -> list[Messages]:
    """The recorded sessions, in the album."""
    found = []
    for messages in corpus.sftp():
        for name in (b"/photo", b"photo"):
            messages = [m.replace(string(name), string(b"/album/photo.jpg")) for m in messages]
        found.append(messages)
    return found


async def one(made: Rig, case: bytes) -> None:
    """Run one session to its end; every request must have its answer."""
    session = await made.session()
    channel = Channel()
    server = FileTransferServer(b"", None, session.sftp)
    server.makeConnection(channel)  # type: ignore[no-untyped-call]
    server.dataReceived(case)
    turns = 0

    def done() -> bool:
        nonlocal turns
        turns += 1
        if turns % 20 == 0:
            made.clock.advance(1)
        return bool(server._order.idle)

    await until(done)
    server._advance()
    await until(done)
    asked, closes, _ = _requests(case)
    answered = _answers(bytes(channel.written))
    if not closes:
        assert answered == asked, (asked - answered, answered - asked)
    assert not answered - asked
    server.connectionLost(Failure(ConnectionLost()))
    session.hang_up()
    assert not server._handles
    await made.pass_time(made.settings.settle)
    await until(lambda: not any(made.busy()))


@pytest.mark.slow
@pytest.mark.timeout(60 + INPUTS)
@pytest.mark.parametrize("mirror", [0, 500_000], ids=["listings", "mirror"])
@pytest_twisted.ensureDeferred
async def test_broken_sessions_in_a_library_are_answered_whatever_they_ask(
    tmp_path: Path, mirror: int
) -> None:
    pool = recorded()
    async with rig(
        tmp_path,
        loopback=True,
        mirror_max_assets=mirror,
        views=("favorites", "timeline", "trash"),
    ) as made:
        made.album("album", made.asset("photo.jpg"), made.asset("other.jpg"))
        made.album("other")
        for number in range(INPUTS // 2):
            r = Random(f"library/{mirror}/{number}")
            if r.random() < 0.5:
                messages = mutate(r, pool, keep=1)[:150]
            else:
                messages = [request(r) for _ in range(r.randrange(1, 30))]
                messages.insert(0, b"\x01" + struct.pack("!L", 3))
            try:
                await one(made, b"".join(map(string, messages)))
            except AssertionError as error:
                raise AssertionError(f"input {number}") from error
