"""Bytes that came in any pieces are the same bytes, and what need not be copied is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from immich_conch.sftp.input import MERGE_BELOW, Input

SIZES = st.lists(
    st.one_of(st.integers(0, 40), st.integers(MERGE_BELOW - 2, 3 * MERGE_BELOW)), max_size=12
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("feed", "gather", "take", "skip")),
        st.one_of(st.integers(0, 60), st.integers(0, 20_000)),
    ),
    max_size=40,
)


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


@given(sizes=SIZES, steps=STEPS)
def test_any_steps_over_any_pieces_give_the_bytes_in_order(
    sizes: list[int], steps: list[tuple[str, int]]
) -> None:
    sent = content(sum(sizes))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(sent[at : at + size])
        at += size
    source, taken, fed = Input(), 0, 0
    for step, number in steps:
        if step == "feed" and pieces:
            piece = pieces.pop(0)
            source.feed(piece)
            fed += len(piece)
        elif step == "gather":
            source.gather(number)
            here = len(source.data) - source.at
            assert here >= min(number, source.size)
        elif step == "take":
            count = min(number, source.size)
            got = b"".join(source.take(count))
            assert got == sent[taken : taken + count]
            taken += count
        elif step == "skip":
            count = min(number, len(source.data) - source.at)
            source.skip(count)
            taken += count
        assert source.size == fed - taken
        assert bytes(source.data[source.at :]) == sent[taken : taken + len(source.data) - source.at]
        assert bool(source.size) == (len(source.data) > source.at)


def test_large_pieces_are_handed_on_where_they_lie() -> None:
    first, second = bytes(100_000), bytes(100_000)
    source = Input()
    source.feed(first)
    source.feed(second)
    source.gather(34)
    source.skip(34)
    taken = source.take(150_000)
    assert [len(piece) for piece in taken] == [99_966, 50_034]
    assert [piece.obj is whole for piece, whole in zip(taken, (first, second), strict=True)] == [
        True,
        True,
    ]


def test_a_drip_is_kept_in_few_pieces() -> None:
    source = Input()
    for _ in range(50_000):
        source.feed(b"x")
    assert len(source.take(50_000)) <= 2 + 50_000 // MERGE_BELOW


def test_nothing_is_kept_once_it_is_cleared() -> None:
    source = Input()
    source.feed(b"one")
    source.feed(bytes(10_000))
    source.clear()
    assert source.size == 0
    source.feed(b"two")
    assert source.take(3) == [b"two"]
