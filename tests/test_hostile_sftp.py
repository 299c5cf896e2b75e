"""Hostile SFTP clients: what ten thousand opens and a listing without end may cost.

Windows that never open, requests that are none and answers nobody takes have their tests in
`test_sftp_packets.py`, `test_sftp_bounds.py` and `test_hostile_ssh.py`.
"""

from __future__ import annotations

import gc
import socket
import struct
import tracemalloc
from typing import Any

import pytest
import pytest_twisted
from sftp_peer import (
    CLOSE,
    HANDLE,
    NAME,
    NO_ATTRS,
    OPEN,
    OPENDIR,
    READDIR,
    STATUS,
    Memory,
    Peer,
    ns,
    packet,
)
from ssh_server import World, host_keys
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater

from immich_conch.sftp.engine import MAX_HANDLES, PARSE_MARK_BYTES

__all__ = ["host_keys"]

ENTRIES = 100_000


def test_of_ten_thousand_opens_each_is_answered_and_few_are_held() -> None:
    peer = Peer.greeted(photo=b"x")
    opening = b"".join(
        packet(OPEN, struct.pack("!L", number) + ns(b"/photo") + struct.pack("!L", 1) + NO_ATTRS)
        for number in range(10_000)
    )
    peer.raw(opening)
    answers = peer.answers()
    assert [answer.id for answer in answers] == list(range(10_000))
    handles = [answer.string for answer in answers if answer.kind == HANDLE]
    assert len(handles) == len(set(handles)) == MAX_HANDLES
    calls = peer.memory.called()
    assert calls.count("open") - calls.count("abort") == MAX_HANDLES
    peer.drop()
    assert peer.memory.called().count("abort") == 10_000


@pytest.mark.parametrize("fill", [b"\x00", b"\x01", b"\xff"])
def test_a_request_of_every_kind_and_length_has_one_answer(fill: bytes) -> None:
    peer = Peer.greeted(photo=b"x")
    peer.open()
    asked = 0
    for kind in range(2, 256):
        for length in (*range(45), 300):
            peer.raw(packet(kind, struct.pack("!L", asked) + fill * length))
            assert [answer.id for answer in peer.answers()] == [asked], (kind, length)
            asked += 1
    assert peer.channel.taken == peer.sent and not peer.channel.closed


def test_opens_and_closes_for_ever_leave_nothing() -> None:
    peer = Peer.greeted(photo=b"x")
    for number in range(1, 5001):
        handle = struct.pack("!Q", number)
        peer.send(OPEN, ns(b"/photo"), 1, NO_ATTRS)
        peer.send(CLOSE, ns(handle))
    kinds = [answer.kind for answer in peer.answers()]
    assert kinds == [HANDLE, STATUS] * 5000
    assert not peer.server._handles and peer.server._order.idle


def entries() -> list[Any]:
    return [(b"%06d.jpg" % number, b"-rw- %06d.jpg" % number, {}) for number in range(ENTRIES)]


@pytest.mark.parametrize("way", ["drop", "close", "never read"])
def test_a_listing_of_a_hundred_thousand_that_is_abandoned_is_let_go(way: str) -> None:
    memory = Memory()
    peer = Peer(memory)
    peer.raw(packet(1, struct.pack("!L", 3)))
    peer.answers()
    gc.collect()
    tracemalloc.start()
    try:
        memory.folders[b"/"] = [entries()]
        handle = peer.ask(OPENDIR, ns(b"/")).string
        del memory.folders[b"/"]
        if way == "never read":
            peer.channel.buffered = PARSE_MARK_BYTES + 1
            for _ in range(1000):
                peer.send(READDIR, ns(handle))
            assert peer.answers() == [] and "readdir" not in memory.called()
        else:
            assert peer.ask(READDIR, ns(handle)).kind == NAME
            assert tracemalloc.get_traced_memory()[0] > 10 * ENTRIES
        if way == "close":
            assert peer.ask(CLOSE, ns(handle)).code == 0
        else:
            peer.drop()
        assert memory.called()[-1] == "closedir"
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < ENTRIES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("say", [b"", b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n" + bytes(3)])
@pytest_twisted.ensureDeferred
async def test_who_closes_his_half_of_the_connection_loses_the_other(
    host_keys: Any, say: bytes
) -> None:
    world = World()
    port: Any = reactor.listenTCP(0, world.factory(host_keys), interface="127.0.0.1")  # type: ignore[attr-defined]
    clients = []
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        client.sendall(say)
        client.shutdown(socket.SHUT_WR)
        clients.append(client)
    while len(world.closed) < 20:
        await deferLater(reactor, 0.01)
    assert len(world.opened) == 20
    for client in clients:
        client.close()
    await maybeDeferred(port.stopListening)
