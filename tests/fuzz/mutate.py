"""Making broken sessions of recorded ones: a few random changes each, the same for the same seed.

Changes are made where mistakes are: whole messages (left out, twice, moved, spliced in from another
session), bytes inside them (flips, numbers, lengths, tokens of the protocol, cuts) and what is
around them (the lengths of packets and of their padding, where a read ends).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

Messages = list[bytes]

LONGEST = 300_000  # bytes of one made-up session, so that one input stays a matter of milliseconds
MOST_MESSAGES = 400

_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 127, 128, 255, 256, 1023, 1024, 32768, 35000, 65535,
            65536, 2**18, 2**21, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)  # fmt: skip

_WORDS = b"""
ssh-userauth ssh-connection none password publickey keyboard-interactive hostbased session
direct-tcpip forwarded-tcpip x11 shell exec subsystem sftp pty-req env signal window-change
exit-status keepalive@openssh.com tcpip-forward hostkeys-prove-00@openssh.com
no-more-sessions@openssh.com eow@openssh.com zlib zlib@openssh.com none aes128-ctr
aes128-gcm@openssh.com hmac-sha1 hmac-sha2-256 curve25519-sha256 mlkem768x25519-sha256
ecdh-sha2-nistp256 ecdh-sha2-nistp521 kex-strict-c-v00@openssh.com ext-info-c ssh-ed25519
rsa-sha2-512 ssh-ed25519-cert-v01@openssh.com posix-rename@openssh.com statvfs@openssh.com
fstatvfs@openssh.com hardlink@openssh.com fsync@openssh.com lsetstat@openssh.com
limits@openssh.com expand-path@openssh.com copy-data home-directory check-file check-file-name
check-file-handle users-groups-by-id@openssh.com md5 sha1 sha256 / .. /photo /album
/../../etc/passwd a
"""
TOKENS = tuple(_WORDS.split())


def string(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


# -- inside a message


def _flip(r: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 8))):
        changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
    return bytes(changed)


def _number(r: Random, data: bytes) -> bytes:
    size = r.choice((1, 4, 4, 4, 8))
    at = r.randrange(len(data))
    value = r.choice(_NUMBERS) + r.choice((0, 0, 0, 1, -1))
    packed = (value & (2 ** (8 * size) - 1)).to_bytes(size, "big")
    return data[:at] + packed + data[at + size :]


def _length(r: Random, data: bytes) -> bytes:
    """Change something that looks like the length of a string."""
    places = [
        at
        for at in range(1, min(len(data) - 4, 600))
        if int.from_bytes(data[at : at + 4], "big") <= len(data) - at - 4
    ]
    if not places:
        return _number(r, data)
    at = r.choice(places)
    old = int.from_bytes(data[at : at + 4], "big")
    new = r.choice((0, old + 1, max(old - 1, 0), old * 2, len(data), 2**31, 2**32 - 1))
    return data[:at] + (new & 0xFFFFFFFF).to_bytes(4, "big") + data[at + 4 :]


def _token(r: Random, data: bytes) -> bytes:
    token = r.choice(TOKENS)
    if r.random() < 0.3:
        token = b",".join(r.choices(TOKENS, k=r.randrange(1, 40)))
    token = r.choice((token, string(token), string(token)))
    at = r.randrange(len(data) + 1)
    return data[:at] + token + data[r.choice((at, at + len(token), len(data))) :]


def _cut(r: Random, data: bytes) -> bytes:
    return data[: r.randrange(len(data) + 1)]


def _remove(r: Random, data: bytes) -> bytes:
    at = r.randrange(len(data))
    return data[:at] + data[at + r.randrange(1, 17) :]


def _insert(r: Random, data: bytes) -> bytes:
    at = r.randrange(len(data) + 1)
    extra = r.choice((r.randbytes(r.randrange(1, 33)), bytes(r.randrange(1, 65))))
    return data[:at] + extra + data[at:]


def _double(r: Random, data: bytes) -> bytes:
    at = r.randrange(len(data))
    piece = data[at : at + r.randrange(1, 65)]
    return data[:at] + piece * r.randrange(2, 9) + data[at:]


def _grow(r: Random, data: bytes) -> bytes:
    if r.random() < 0.9:
        return _insert(r, data)
    return data + r.choice((b"\0", b"\xff", b"a,", b"\0\0\0\1a")) * r.choice((100, 9000, 30_000))


def _kind(r: Random, data: bytes) -> bytes:
    return bytes((r.randrange(256),)) + data[1:]


_BYTES: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_flip, _number, _number, _length, _length, _token, _cut, _remove, _insert, _double),
    *(_grow, _kind),
)


def mutate_bytes(r: Random, data: bytes) -> bytes:
    """One change inside a message."""
    return r.choice(_BYTES)(r, data) if data else r.randbytes(r.randrange(1, 9))


# -- among messages


def _at(r: Random, messages: Sequence[bytes]) -> int:
    # Where a session begins there is the most to go wrong.
    size = len(messages)
    return min(int(r.expovariate(4 / size)), size - 1) if r.random() < 0.5 else r.randrange(size)


def mutate(r: Random, pool: Sequence[Messages], keep: int = 0) -> Messages:
    """A recorded session with some changes; the first `keep` messages are seldom among them."""
    messages = list(r.choice(pool))
    if len(messages) > keep + 8 and r.random() < 0.7:
        # What comes late is as good as what comes soon, and half as much can be tried twice.
        del messages[r.randrange(keep + 4, len(messages)) :]
    for _ in range(r.choice((0, 1, 1, 1, 2, 2, 3, 5, 9))):
        if not messages:
            messages = [r.randbytes(r.randrange(1, 60))]
        at = _at(r, messages)
        if at < keep and r.random() < 0.8:
            at = len(messages) - 1
        what = r.random()
        if what < 0.6:
            messages[at] = mutate_bytes(r, messages[at])
        elif what < 0.66:
            messages.insert(at, messages[at])
        elif what < 0.72:
            del messages[at]
        elif what < 0.78:
            to = _at(r, messages)
            messages[at], messages[to] = messages[to], messages[at]
        elif what < 0.84:
            other = r.choice(pool)
            if other:
                messages.insert(at, r.choice(other))
        elif what < 0.88:
            other = r.choice(pool)
            messages[at:] = other[min(at, r.randrange(len(other) + 1)) :]
        elif what < 0.91:
            messages[at : at + 1] = [messages[at]] * r.choice((2, 2, 3, 5, 5, 20, 100))
        elif what < 0.94:
            del messages[at + 1 :]
        elif what < 0.97:
            piece = messages[at : at + 6]
            r.shuffle(piece)
            messages[at : at + 6] = piece
        else:
            messages.insert(at, r.randbytes(r.choice((1, 2, 5, 20, 200))))
    room = LONGEST
    for n, message in enumerate(messages[:MOST_MESSAGES]):
        room -= len(message)
        if room < 0:
            return messages[:n]
    return messages[:MOST_MESSAGES]


# -- around messages


def ssh_packet(payload: bytes, block: int = 8) -> bytes:
    """A binary packet without protection (RFC 4253, section 6)."""
    padding = block - (5 + len(payload)) % block
    padding += block if padding < 4 else 0
    return struct.pack("!LB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def break_packet(r: Random, packet: bytes) -> bytes:
    """A packet whose lengths are wrong."""
    if r.random() < 0.5 and len(packet) > 4:
        return packet[:4] + bytes((r.randrange(256),)) + packet[5:]
    length = int.from_bytes(packet[:4], "big")
    value = r.choice((*_NUMBERS, length + 8, length - 8, length + 1, length - 1, length ^ 0x800))
    return (value & 0xFFFFFFFF).to_bytes(4, "big") + packet[4:]


def reads(r: Random, stream: bytes) -> list[bytes]:
    """A stream as it may come, in one read or in many."""
    what = r.random()
    if what < 0.6 or len(stream) < 2:
        return [stream]
    if what < 0.605 and len(stream) < 1500:
        return [stream[n : n + 1] for n in range(len(stream))]
    cuts = sorted(r.randrange(len(stream)) for _ in range(r.choice((1, 2, 5, 20))))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
