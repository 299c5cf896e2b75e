"""Reading a file: any reads, over streams that stop, break off and come in any pieces.

The stream here is a fake of `IDownload`; time is a `task.Clock` and chance is hypothesis'.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from immich_conch.errors import BadAnswer, NotFound, Refused, Unreachable
from immich_conch.immich.interfaces import IDownload
from immich_conch.transfer import download
from immich_conch.transfer.budget import Budget
from immich_conch.transfer.download import MAX_STREAMS, PAUSES, Reader
from immich_conch.transfer.window import MERGE_BELOW, Window

CONTENT = random.Random(7).randbytes(3 * 1024 * 1024)
KIB = 1024


@implementer(IDownload)
class FakeDownload:
    """A stream that flows only when the test says so, and breaks the rules never."""

    def __init__(self, content: bytes, offset: int, etag: str | None) -> None:
        self.content = content
        self.offset = offset
        self.etag = etag
        self.total: int | None = len(content)
        self.at = offset
        self.paused = self.aborted = self.ended = False
        self._data: Callable[[bytes], None] | None = None
        self._done: Callable[[BaseException | None], None] | None = None

    def deliver(
        self, data: Callable[[bytes], None], done: Callable[[BaseException | None], None]
    ) -> None:
        assert self._data is None
        self._data, self._done = data, done

    def pause(self) -> None:
        assert not self.aborted
        assert not self.ended
        self.paused = True

    def resume(self) -> None:
        assert not self.aborted
        assert not self.ended
        self.paused = False

    def abort(self) -> None:
        self.aborted = True

    @property
    def flows(self) -> bool:
        return self._data is not None and not (self.paused or self.aborted or self.ended)

    def push(self, size: int) -> None:
        """Let up to `size` bytes arrive as one piece."""
        assert self.flows
        assert self._data is not None
        piece = self.content[self.at : self.at + size]
        self.at += len(piece)
        self._data(piece)

    def extra(self, data: bytes) -> None:
        """Let bytes arrive that the file does not have."""
        assert self._data is not None
        self._data(data)

    def end(self, error: BaseException | None = None) -> None:
        assert not self.aborted
        assert self._done is not None
        self.ended = True
        self._done(error)

    def run(self, piece: int = 64 * KIB) -> None:
        """Flow for as long as the reader lets it, to the end."""
        while self.flows and self.at < len(self.content):
            self.push(piece)
        if self.flows:
            self.end()


class Source:
    """An Immich with one file; remembers what was asked of it."""

    def __init__(self, content: bytes = CONTENT, etag: str | None = '"1"') -> None:
        self.content = content
        self.etag = etag
        self.asked: list[tuple[int, str | None]] = []
        self.streams: list[FakeDownload] = []
        self.errors: list[Exception] = []
        self.hold: list[Deferred[None]] | None = None

    async def open(self, offset: int, etag: str | None) -> FakeDownload:
        self.asked.append((offset, etag))
        if self.hold is not None:
            gate: Deferred[None] = Deferred()
            self.hold.append(gate)
            await gate
        if self.errors:
            raise self.errors.pop(0)
        stream = FakeDownload(self.content, offset, self.etag)
        self.streams.append(stream)
        return stream

    @property
    def live(self) -> list[FakeDownload]:
        return [each for each in self.streams if not each.aborted and not each.ended]


def answer(result: bytes | Deferred[bytes]) -> bytes:
    """What a read gave; fails the test if it has not been answered."""
    if isinstance(result, bytes):
        return result
    got: list[object] = []
    result.addBoth(got.append)
    assert got, "the read was not answered"
    assert isinstance(got[0], bytes), got[0]
    return got[0]


def error(result: bytes | Deferred[bytes]) -> BaseException:
    assert isinstance(result, Deferred)
    got: list[BaseException] = []
    result.addErrback(lambda failure: got.append(failure.value))
    assert got, "the read did not fail"
    return got[0]


def waits(result: bytes | Deferred[bytes]) -> bool:
    return isinstance(result, Deferred) and not result.called


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(source: Source, clock: Clock) -> Reader:
    return Reader(source.open, len(CONTENT), clock, window=512 * KIB, behind=512 * KIB)


def test_the_fake_is_a_download() -> None:
    verifyObject(IDownload, FakeDownload(b"", 0, None))


def test_nothing_is_asked_before_the_first_read(source: Source, reader: Reader) -> None:
    reader.close()
    assert source.asked == []


def test_reads_in_order_take_one_stream_and_come_at_once_from_the_window(
    source: Source, reader: Reader
) -> None:
    first = reader.read(0, 32 * KIB)
    assert waits(first)
    source.streams[0].push(64 * KIB)
    assert answer(first) == CONTENT[: 32 * KIB]
    assert reader.read(32 * KIB, 32 * KIB) == CONTENT[32 * KIB : 64 * KIB]
    assert source.asked == [(0, None)]


def test_a_whole_file_asked_for_at_once_arrives_in_bounded_memory(
    source: Source, reader: Reader
) -> None:
    reads = [reader.read(at, 32 * KIB) for at in range(0, len(CONTENT) + 256 * KIB, 32 * KIB)]
    stream = source.streams[0]
    while stream.at < len(CONTENT):
        stream.push(48 * KIB)
        assert reader.buffered <= (256 + 256 + 2 * 48) * KIB
    stream.end()
    assert b"".join(answer(each) for each in reads) == CONTENT
    assert len(source.asked) == 1


def test_the_end_is_known_without_asking(source: Source, reader: Reader) -> None:
    for offset in (len(CONTENT), len(CONTENT) + 1, 2**63, 2**64 - 1):
        assert reader.read(offset, 2**32 - 1) == b""
    assert reader.read(0, 0) == b""
    assert source.asked == []


def test_a_read_across_the_end_is_short_and_a_wild_length_is_clamped(
    source: Source, reader: Reader
) -> None:
    last = reader.read(len(CONTENT) - 5, 2**32)
    wild = reader.read(0, 2**32)
    for stream in source.streams:
        stream.run()
    assert answer(last) == CONTENT[-5:]
    assert answer(wild) == CONTENT[: reader.max_read]


def test_a_client_that_stops_reading_stops_the_stream(source: Source, reader: Reader) -> None:
    first = reader.read(0, 1000)
    stream = source.streams[0]
    stream.run()
    assert answer(first) == CONTENT[:1000]
    assert stream.paused
    assert stream.at < (256 + 64 + 1) * KIB
    reader.read(1000, 100 * KIB)
    assert stream.paused
    reader.read(101 * KIB, 100 * KIB)
    assert not stream.paused


def test_a_read_beyond_what_has_come_resumes_the_stream(source: Source, reader: Reader) -> None:
    answer_later = reader.read(0, 1000)
    stream = source.streams[0]
    stream.run()
    assert answer(answer_later) and stream.paused
    far = reader.read(stream.at + 10 * KIB, 1000)
    assert not stream.paused
    stream.run()
    assert len(answer(far)) == 1000
    assert len(source.asked) == 1


def test_a_client_that_does_not_take_its_answers_gets_no_more(
    source: Source, reader: Reader
) -> None:
    reads = [reader.read(at, 64 * KIB) for at in range(0, len(CONTENT), 64 * KIB)]
    stream = source.streams[0]
    stream.push(64 * KIB)
    reader.pause()
    assert stream.paused
    assert sum(not waits(each) for each in reads) == 1
    reader.resume()
    stream.run()
    assert b"".join(answer(each) for each in reads) == CONTENT


def test_a_small_step_back_is_answered_from_memory(source: Source, reader: Reader) -> None:
    reads = [reader.read(at, 64 * KIB) for at in range(0, 1024 * KIB, 64 * KIB)]
    source.streams[0].run()
    assert all(answer(each) for each in reads)
    assert reader.read(850 * KIB, 100) == CONTENT[850 * KIB :][:100]
    assert len(source.asked) == 1


def test_a_jump_asks_for_a_range_with_the_same_etag(source: Source, reader: Reader) -> None:
    first = reader.read(0, 100)
    source.streams[0].push(100)
    far = reader.read(2 * 1024 * KIB, 100)
    source.streams[1].push(100)
    assert answer(first) == CONTENT[:100]
    assert answer(far) == CONTENT[2 * 1024 * KIB :][:100]
    assert source.asked == [(0, None), (2 * 1024 * KIB, '"1"')]


def test_alternating_between_two_places_opens_two_streams_not_one_a_read(
    source: Source, reader: Reader
) -> None:
    for step in range(20):
        for base in (0, 2 * 1024 * KIB):
            offset = base + step * 16 * KIB
            result = reader.read(offset, 16 * KIB)
            for stream in source.live:
                if stream.flows:
                    stream.push(16 * KIB)
            assert answer(result) == CONTENT[offset:][: 16 * KIB]
    assert len(source.asked) == 2


def test_a_third_place_replaces_the_stream_used_longest_ago(source: Source, reader: Reader) -> None:
    for number, offset in enumerate((0, 1024 * KIB, 2 * 1024 * KIB)):
        result = reader.read(offset, 10)
        source.streams[number].push(10)
        assert answer(result) == CONTENT[offset:][:10]
    assert [each.aborted for each in source.streams] == [True, False, False]


def test_reads_at_three_places_at_once_all_come(source: Source, reader: Reader) -> None:
    places = (0, 1024 * KIB, 2 * 1024 * KIB, 1024 * KIB + 5, 2 * 1024 * KIB + 600 * KIB)
    reads = [reader.read(offset, 10) for offset in places]
    assert len(source.streams) == MAX_STREAMS
    while source.live and any(waits(each) for each in reads):
        for stream in source.live:
            if stream.flows:
                stream.push(10)
    assert [answer(each) for each in reads] == [CONTENT[at:][:10] for at in places]


def test_a_read_elsewhere_gets_its_turn_while_two_fast_readers_go_on(
    source: Source, reader: Reader
) -> None:
    ahead = [reader.read(at, 10) for at in (0, 1024 * KIB)]
    elsewhere = reader.read(2 * 1024 * KIB, 10)
    ahead += [reader.read(at, 10) for at in (10, 1024 * KIB + 10)]
    source.streams[0].push(10)
    assert source.asked[-1][0] == 2 * 1024 * KIB
    source.streams[2].push(10)
    assert answer(elsewhere) == CONTENT[2 * 1024 * KIB :][:10]
    while any(waits(each) for each in ahead):
        for stream in source.live:
            if stream.flows:
                stream.push(10)


def test_a_cancelled_read_makes_room_for_one_elsewhere(source: Source, reader: Reader) -> None:
    first, _, third = (reader.read(at * 1024 * KIB, 10) for at in range(3))
    assert isinstance(first, Deferred)
    first.addErrback(lambda failure: failure.trap(CancelledError) and b"")
    first.cancel()
    source.streams[2].push(10)
    assert answer(third) == CONTENT[2 * 1024 * KIB :][:10]


def test_a_stream_that_flows_through_what_nobody_wants_any_more_keeps_its_bound(
    source: Source, reader: Reader
) -> None:
    reads = [reader.read(at, 10) for at in range(0, 2500 * KIB, 250 * KIB)]
    for each in reads[:-1]:
        assert isinstance(each, Deferred)
        each.addErrback(lambda failure: failure.trap(CancelledError) and b"")
        each.cancel()
    while waits(reads[-1]):
        source.streams[0].push(32 * KIB)
        assert reader.buffered <= (512 + 2 * 32 + 4) * KIB
    assert answer(reads[-1]) == CONTENT[2250 * KIB :][:10]
    assert len(source.asked) == 1


def test_a_read_far_ahead_from_within_an_answer_takes_nothing_from_those_that_wait(
    source: Source, clock: Clock
) -> None:
    reader = Reader(source.open, len(CONTENT), clock, window=128 * KIB, behind=128 * KIB)
    first, second = reader.read(0, 5000), reader.read(4000, 2000)
    assert isinstance(first, Deferred)
    far: list[bytes | Deferred[bytes]] = []
    first.addCallback(lambda _: far.append(reader.read(130 * KIB, 1000)))
    source.streams[0].push(4999)
    source.streams[0].push(140 * KIB)
    assert answer(far[0]) == CONTENT[130 * KIB :][:1000]
    assert answer(second) == CONTENT[4000:6000]


def test_late_bytes_of_a_stream_that_broke_off_are_not_taken(
    source: Source, reader: Reader, clock: Clock
) -> None:
    result = reader.read(0, 100)
    source.streams[0].push(50)
    source.streams[0].end(Unreachable())
    clock.advance(PAUSES[0])
    source.streams[0].extra(b"late")
    source.streams[1].push(50)
    assert answer(result) == CONTENT[:100]


def test_a_stream_that_breaks_off_is_resumed_where_it_was(
    source: Source, reader: Reader, clock: Clock
) -> None:
    result = reader.read(0, 1000)
    source.streams[0].push(400)
    source.streams[0].end(Unreachable())
    assert len(source.asked) == 1
    clock.advance(PAUSES[0])
    assert source.asked == [(0, None), (400, '"1"')]
    source.streams[1].push(600)
    assert answer(result) == CONTENT[:1000]


@pytest.mark.parametrize("ending", [None, Unreachable(), ConnectionError("reset")])
def test_a_stream_that_keeps_breaking_off_fails_the_reads_after_growing_pauses(
    source: Source, reader: Reader, clock: Clock, ending: BaseException | None
) -> None:
    reads = [reader.read(0, 1000), reader.read(1000, 1000)]
    for pause in PAUSES:
        source.streams[-1].push(100)
        source.streams[-1].end(ending)
        clock.advance(pause - 0.01)
        asked = len(source.asked)
        clock.advance(0.01)
        assert len(source.asked) == asked + 1
    source.streams[-1].end(ending)
    assert [type(error(each)) for each in reads] == [Unreachable, Unreachable]
    assert clock.getDelayedCalls() == []
    again = reader.read(0, 10)
    source.streams[-1].push(10)
    assert answer(again) == CONTENT[:10]


def test_a_long_way_between_breaks_starts_the_count_anew(source: Source, clock: Clock) -> None:
    reader = Reader(source.open, len(CONTENT), clock, window=128 * KIB, behind=128 * KIB)
    reads = [reader.read(at, 64 * KIB) for at in range(0, len(CONTENT), 64 * KIB)]
    for _ in range(2):
        for pause in PAUSES:
            source.streams[-1].end(Unreachable())
            clock.advance(pause)
        source.streams[-1].push(download.PROGRESS)
    source.streams[-1].run()
    assert b"".join(answer(each) for each in reads) == CONTENT


def test_a_drip_between_breaks_does_not_make_the_attempts_endless(
    source: Source, reader: Reader, clock: Clock
) -> None:
    reads = [reader.read(at, 256 * KIB) for at in range(0, 1280 * KIB, 256 * KIB)]
    source.streams[0].push(download.PROGRESS)
    result = reads[-1]
    for pause in PAUSES:
        source.streams[-1].push(10)
        source.streams[-1].end(None)
        clock.advance(pause)
    source.streams[-1].push(10)
    source.streams[-1].end(None)
    assert isinstance(error(result), Unreachable)
    assert len(source.asked) == 1 + len(PAUSES)


def test_a_pause_that_immich_asks_for_is_kept(source: Source, reader: Reader, clock: Clock) -> None:
    source.errors = [Unreachable(retry_after=5.0), Unreachable(retry_after=1e9)]
    result = reader.read(0, 10)
    clock.advance(4.9)
    assert len(source.asked) == 1
    clock.advance(0.1)
    assert len(source.asked) == 2
    clock.advance(download.MAX_PAUSE)
    source.streams[0].push(10)
    assert answer(result) == CONTENT[:10]


def test_a_stream_that_breaks_off_while_nobody_reads_is_left_alone(
    source: Source, reader: Reader, clock: Clock
) -> None:
    first = reader.read(0, 10)
    source.streams[0].push(1000)
    assert answer(first)
    source.streams[0].end(Unreachable())
    clock.advance(3600)
    assert len(source.asked) == 1
    assert reader.read(10, 990) == CONTENT[10:1000]
    later = reader.read(1000, 10)
    assert source.asked[1:] == [(1000, '"1"')]
    source.streams[1].push(10)
    assert answer(later) == CONTENT[1000:1010]


def test_a_file_that_changed_is_refused_not_mixed(
    source: Source, reader: Reader, clock: Clock
) -> None:
    result = reader.read(0, 1000)
    source.streams[0].push(100)
    source.etag = '"2"'
    source.streams[0].end(Unreachable())
    clock.advance(PAUSES[0])
    failure = error(result)
    assert isinstance(failure, Refused)
    assert str(failure) == "The file changed while it was read."
    assert source.streams[1].aborted
    assert isinstance(error(reader.read(0, 10)), Refused)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_size_that_is_not_the_listed_one_is_refused_not_cut(clock: Clock, change: int) -> None:
    source = Source()
    reader = Reader(source.open, len(CONTENT) + change, clock)
    assert isinstance(error(reader.read(0, 10)), Refused)
    assert source.streams[0].aborted


def test_bytes_beyond_the_listed_size_are_ignored(clock: Clock) -> None:
    source = Source(b"0123456789")
    reader = Reader(source.open, 10, clock)
    result = reader.read(0, 20)
    source.streams[0].push(8)
    source.streams[0].extra(b"89xxxx")
    assert answer(result) == b"0123456789"
    assert reader.buffered == 10
    assert source.streams[0].aborted


@pytest.mark.parametrize("failure", [NotFound(), Refused("changed"), ZeroDivisionError("a bug")])
def test_what_no_retry_changes_is_heard_at_once_and_the_next_read_tries_afresh(
    source: Source, reader: Reader, clock: Clock, failure: Exception
) -> None:
    source.errors = [failure]
    assert error(reader.read(0, 10)) is failure
    assert clock.getDelayedCalls() == []
    again = reader.read(0, 10)
    source.streams[0].push(10)
    assert answer(again) == CONTENT[:10]


def test_an_asset_that_vanishes_in_the_middle_is_gone(source: Source, reader: Reader) -> None:
    result = reader.read(0, 10)
    source.streams[0].end(NotFound())
    assert isinstance(error(result), NotFound)


def test_an_answer_that_ignores_the_range_is_passed_over_to_the_place(
    source: Source, clock: Clock
) -> None:
    async def whole(offset: int, etag: str | None) -> FakeDownload:
        return await source.open(0, etag)

    reader = Reader(whole, len(CONTENT), clock)
    result = reader.read(1000, 10)
    source.streams[0].push(700)
    assert reader.buffered == 0
    source.streams[0].push(700)
    assert answer(result) == CONTENT[1000:1010]


def test_an_answer_that_begins_too_late_is_never_taken(source: Source, clock: Clock) -> None:
    async def late(offset: int, etag: str | None) -> FakeDownload:
        return await source.open(offset + 1, etag)

    reader = Reader(late, len(CONTENT), clock)
    result = reader.read(0, 10)
    for pause in PAUSES:
        clock.advance(pause)
    assert isinstance(error(result), BadAnswer)
    assert all(stream.aborted for stream in source.streams)


def test_closing_ends_the_streams_and_every_read_that_waits(
    source: Source, reader: Reader, clock: Clock
) -> None:
    reads = [reader.read(at, 10) for at in (0, 1024 * KIB, 2 * 1024 * KIB)]
    reader.close()
    reader.close()
    assert [type(error(each)) for each in reads] == [NotFound] * 3
    assert isinstance(error(reader.read(0, 10)), NotFound)
    assert all(stream.aborted for stream in source.streams)
    assert reader.buffered == 0
    assert clock.getDelayedCalls() == []


def test_closing_while_a_stream_is_opened_or_about_to_be_resumed_leaves_nothing_behind(
    source: Source, reader: Reader, clock: Clock
) -> None:
    source.errors = [Unreachable()]
    broken = reader.read(0, 10)
    source.hold = []
    opening = reader.read(2 * 1024 * KIB, 10)
    reader.close()
    assert isinstance(error(broken), NotFound)
    assert isinstance(error(opening), NotFound)
    assert source.streams == []
    assert clock.getDelayedCalls() == []


def test_a_stream_that_opens_in_spite_of_close_is_aborted(clock: Clock) -> None:
    late: list[FakeDownload] = []
    gate: Deferred[None] = Deferred(lambda _: None)

    async def stubborn(offset: int, etag: str | None) -> FakeDownload:
        try:
            await gate
        except CancelledError:
            late.append(FakeDownload(CONTENT, offset, None))
        return late[0]

    reader = Reader(stubborn, len(CONTENT), clock)
    result = reader.read(0, 10)
    reader.close()
    assert isinstance(error(result), NotFound)
    assert late[0].aborted


def test_a_cancelled_read_leaves_the_others_alone(source: Source, reader: Reader) -> None:
    places = (0, 10, 1024 * KIB, 2 * 1024 * KIB)
    reads = [reader.read(at, 10) for at in places]
    for number in (0, 2):
        cancelled = reads[number]
        assert isinstance(cancelled, Deferred)
        cancelled.cancel()
        assert isinstance(error(cancelled), CancelledError)
    for stream in source.streams:
        if stream.flows:
            stream.push(100)
    assert answer(reads[1]) == CONTENT[10:20]
    assert answer(reads[3]) == CONTENT[2 * 1024 * KIB :][:10]


def test_a_caller_may_read_and_close_from_within_an_answer(source: Source, reader: Reader) -> None:
    seen: list[bytes] = []
    first, second, third = (reader.read(at, 100) for at in (0, 100, 200))
    assert isinstance(first, Deferred) and isinstance(second, Deferred)
    first.addCallback(lambda data: seen.extend([data, answer(reader.read(50, 100))]))
    second.addCallback(lambda data: reader.close())
    source.streams[0].push(300)
    assert seen == [CONTENT[:100], CONTENT[50:150]]
    assert isinstance(error(third), NotFound)


@given(st.lists(st.integers(0, 3 * MERGE_BELOW), max_size=12), st.data())
def test_a_window_gives_every_slice_it_holds(sizes: list[int], data: st.DataObject) -> None:
    window, at = Window(100), 0
    for size in sizes:
        window.append(CONTENT[at : at + size])
        at += size
    window.trim(data.draw(st.integers(0, 100 + at)))
    assert len(window) == window.end - window.start
    assert window.end == 100 + at
    if len(window):
        start = data.draw(st.integers(window.start, window.end - 1))
        end = data.draw(st.integers(start + 1, window.end))
        assert window.get(start, end) == CONTENT[start - 100 : end - 100]
    window.trim(window.end)
    assert (len(window), window.start) == (0, window.end)


OFFSETS = st.one_of(st.just(None), st.integers(0, 70_000), st.integers(0, 2**64 - 1))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_reads_over_any_streams_give_the_files_bytes(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 60_000))
    content = CONTENT[:size]
    source, clock = Source(content), Clock()
    window, behind = (data.draw(st.sampled_from([2, 600, 4_000, 30_000])) for _ in range(2))
    reader = Reader(source.open, size, clock, window=window, behind=behind)
    most = data.draw(st.integers(1, 9_000))
    bound = window + behind + MAX_STREAMS * 2 * (most + MERGE_BELOW)
    pending: list[tuple[int, int, bytes | Deferred[bytes]]] = []
    following = 0
    breaks = 0

    def flow(stream: FakeDownload) -> None:
        stream.push(most)
        assert reader.buffered <= bound
        if stream.flows and stream.at == size:
            stream.end()

    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["read"] * 5 + ["flow"] * 4 + ["break", "cancel"]))
        live = [each for each in source.live if each.flows]
        if action == "read":
            offset = data.draw(OFFSETS)
            offset = following if offset is None else offset
            length = data.draw(st.one_of(st.integers(0, 5_000), st.just(2**32 - 1)))
            pending.append((offset, length, reader.read(offset, length)))
            following = min(offset + min(length, reader.max_read), 2**64 - 1)
        elif action == "flow" and live:
            flow(data.draw(st.sampled_from(live)))
        elif action == "break" and live and breaks < len(PAUSES):
            # No stream sees more breaks than it may, so every read must be answered.
            breaks += 1
            data.draw(st.sampled_from(live)).end(data.draw(st.sampled_from([None, Unreachable()])))
        elif action == "cancel" and pending:
            victim = pending.pop(data.draw(st.integers(0, len(pending) - 1)))[2]
            if isinstance(victim, Deferred):
                victim.addErrback(lambda failure: failure.trap(CancelledError) and b"")
                victim.cancel()
        assert reader.buffered <= bound
    while any(waits(result) for _, _, result in pending):
        clock.advance(sum(PAUSES))
        live = [each for each in source.live if each.flows]
        assert live, "a read waits, and nothing flows"
        for stream in live:
            if stream.flows:
                flow(stream)
    for offset, length, result in pending:
        expected = content[offset : offset + min(length, reader.max_read)]
        assert answer(result) == expected
    reader.close()
    assert clock.getDelayedCalls() == []
    assert source.live == []


def test_a_client_that_stops_taking_gets_not_even_what_is_here_already(
    source: Source, reader: Reader
) -> None:
    reads = [reader.read(0, 64 * KIB) for _ in range(20)]
    got: list[bytes] = []

    def take(data: bytes) -> None:
        got.append(data)
        if len(got) == 3:
            reader.pause()

    for each in reads:
        assert isinstance(each, Deferred)
        each.addCallback(take)
    source.streams[0].push(64 * KIB)
    assert len(got) == 3
    assert source.streams[0].paused
    reader.resume()
    assert got == [CONTENT[: 64 * KIB]] * 20


def take_at(reader: Reader, source: Source, clock: Clock, rate: int, seconds: float) -> int:
    """Read in order at a rate in bytes a second; the most that was kept meanwhile."""
    step, at, most = 16 * KIB, 0, 0
    while clock.seconds() < seconds:
        got = reader.read(at, step)
        while waits(got):
            source.live[-1].push(64 * KIB)
        at += len(answer(got))
        while source.live and source.live[-1].flows and source.live[-1].at < reader.size:
            source.live[-1].push(64 * KIB)
        most = max(most, reader.buffered)
        clock.advance(step / rate)
    return most


@pytest.mark.parametrize(
    ("rate", "patience", "least", "most"),
    [
        # A slow client holds little, also where Immich takes its time.
        (1_000_000, 0.002, 0, 256 * KIB),
        (1_000_000, 0.1, 0, 330 * KIB),
        # A fast one may have as much as covers what Immich needs to answer, up to a bound.
        (20_000_000, 0.05, 1_400 * KIB, 2_200 * KIB),
        (20_000_000, 5.0, 3_500 * KIB, 4_300 * KIB),
    ],
)
def test_what_is_read_ahead_follows_the_clients_rate_and_immichs_patience(
    clock: Clock, rate: int, patience: float, least: int, most: int
) -> None:
    source = Source(CONTENT * 20)
    source.hold = []
    reader = Reader(source.open, len(source.content), clock)
    first = reader.read(0, 10)
    clock.advance(patience)
    source.hold.pop().callback(None)
    source.streams[0].push(64 * KIB)
    assert len(answer(first)) == 10
    kept = take_at(reader, source, clock, rate, clock.seconds() + 2)
    assert least <= kept - reader.behind <= most


def test_files_that_nobody_reads_any_more_give_their_memory_to_others(clock: Clock) -> None:
    budget = Budget(limit=1024 * KIB)
    source = Source()
    readers = [Reader(source.open, len(CONTENT), clock, budget=budget) for _ in range(40)]
    for number, reader in enumerate(readers):
        first = reader.read(number * KIB, 100)
        source.streams[-1].run()
        assert answer(first) == CONTENT[number * KIB :][:100]
        assert budget.used == sum(each.buffered for each in readers) <= 1024 * KIB + 128 * KIB
    kept = [reader.buffered > 0 for reader in readers]
    # Those that were read last; the others' streams are closed, not only empty.
    assert kept == sorted(kept) and 1 < sum(kept) < 20
    assert sum(not each.aborted for each in source.streams) == sum(kept)
    asked = len(source.asked)
    again = readers[0].read(5, 10)
    source.streams[-1].run()
    assert answer(again) == CONTENT[5:15] and len(source.asked) == asked + 1
    for reader in readers:
        reader.close()
    assert budget.used == 0


def test_who_waits_keeps_its_place_however_little_memory_there_is(clock: Clock) -> None:
    budget = Budget(limit=64 * KIB)
    source = Source()
    readers = [Reader(source.open, len(CONTENT), clock, budget=budget) for _ in range(8)]
    waiting = [
        [reader.read(at, 32 * KIB) for at in range(0, 512 * KIB, 32 * KIB)] for reader in readers
    ]
    while any(waits(each) for reads in waiting for each in reads):
        for stream in source.live:
            if stream.flows:
                stream.push(20 * KIB)
        # Nothing behind is kept, only what is on its way to a read.
        assert budget.used <= 8 * 64 * KIB + 64 * KIB
    for reads in waiting:
        assert b"".join(answer(each) for each in reads) == CONTENT[: 512 * KIB]
    assert len(source.asked) == 8
