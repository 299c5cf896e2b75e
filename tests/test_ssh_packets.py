"""Packets out of a stream, however it is cut; one byte at a time is the oracle for all at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from immich_conch.ssh.ciphers import Gcm, MacThenCtr, Opener, Plain, Sealer, _Mac
from immich_conch.ssh.packets import BEFORE_LOGIN_BYTES, PacketReader
from immich_conch.ssh.wire import PacketError

KEY, IV = bytes(range(16)), bytes(range(12))

CIPHERS: dict[str, Callable[[], tuple[Sealer, Opener]]] = {
    "plain": lambda: (Plain(), Plain()),
    "gcm": lambda: (Gcm(KEY, IV), Gcm(KEY, IV)),
    "ctr": lambda: (
        MacThenCtr(KEY, KEY, _Mac(KEY, "sha256")),
        MacThenCtr(KEY, KEY, _Mac(KEY, "sha256")),
    ),
}


def read(opener: Opener, pieces: list[bytes]) -> tuple[list[bytes], int]:
    """The payloads, and the number of the next packet."""
    reader = PacketReader()
    reader.use(opener)
    found: list[bytes] = []
    for piece in pieces:
        reader.take(piece)
        while (plain := reader.next()) is not None:
            found.append(bytes(plain[reader.start : reader.end]))
    return found, reader.sequence


@given(
    cipher=st.sampled_from(sorted(CIPHERS)),
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_a_stream_gives_the_same_packets_however_it_is_cut(
    cipher: str, payloads: list[bytes], cuts: list[int]
) -> None:
    sealer, opener = CIPHERS[cipher]()
    sealed = [sealer.seal(number, len(one), (one,)) for number, one in enumerate(payloads)]
    stream = b"".join(b"".join(packet) for packet in sealed)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert read(opener, pieces) == (payloads, len(payloads))
    drip = [stream[at : at + 1] for at in range(len(stream))]
    assert read(CIPHERS[cipher]()[1], drip) == (payloads, len(payloads))


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 100])
def test_a_packet_that_is_too_long_is_refused_by_its_head(cut: int) -> None:
    data = (BEFORE_LOGIN_BYTES // 8 * 8 + 12).to_bytes(4, "big") + bytes(200)
    with pytest.raises(PacketError):
        read(Plain(), [data[:cut], data[cut:]])


@pytest.mark.parametrize("length", [0, 5, 15, 17])
def test_a_length_that_gcm_cannot_have_is_refused(length: int) -> None:
    with pytest.raises(PacketError):
        read(Gcm(KEY, IV), [length.to_bytes(4, "big") + bytes(100)])
