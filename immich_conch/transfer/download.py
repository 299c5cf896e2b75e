"""Random reads over streamed GETs, in bounded memory (section 4 of the behaviour contract).

A `Reader` belongs to one open file.  Nothing is asked before its first read; then one GET flows,
and reads in order are answered from its window, out of what has arrived or as soon as it does.  A
read elsewhere opens a second stream, and later ones replace the one that was used longest ago, so
that a client which alternates between two places does not open a GET for each read.  What this
module must keep: data is never shorter than the known size says, never of two versions of a file,
and every read is answered exactly once.  It knows nothing of HTTP or SFTP.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable
from operator import attrgetter

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from immich_conch.errors import BadAnswer, ConchError, NotFound, Refused, Unreachable
from immich_conch.immich.interfaces import IDownload
from immich_conch.transfer.budget import EVERYBODY, Budget
from immich_conch.transfer.window import Window

WINDOW = 8 * 1024 * 1024
LEAST_WINDOW = 256 * 1024
"""Bytes read ahead for one open file, at most and at least.  In between it is what the client
takes in twice the time that Immich needs to answer: so much hides a new request's pause, and a
client that reads slowly holds no more than it has use for.  What the system keeps of a paused
connection comes on top."""

RATE_SECONDS = 0.25
"""Seconds over which a client's rate is measured."""

LOOK_BEHIND = 1024 * 1024
"""Bytes kept behind the furthest read, for clients that ask again or a little out of order."""

MAX_READ = 256 * 1024
"""Bytes answered to one read at most; a longer one gets a short answer, as SFTP allows."""

MAX_STREAMS = 2
"""GETs at once for one open file; window and look-behind are divided among them."""

PAUSES = (0.2, 0.8, 3.2, 12.8)
"""Seconds before each attempt to resume a stream that broke off; after the last it has failed."""

MAX_PAUSE = 30.0
"""Seconds that an attempt waits at most where Immich names a pause; clients give up then."""

PROGRESS = 1024 * 1024
"""Bytes that must arrive after a break until the attempts are counted from nought again."""

Open = Callable[[int, str | None], Awaitable[IDownload]]


@define(eq=False)
class _Wanted:
    """A read that waits for the bytes from `offset` to `end`."""

    offset: int
    end: int
    answer: Deferred[bytes]


class Reader:
    """Random reads of one file.

    `open(offset, etag)` opens a stream, as `IImmich.download` does; `size` is the file's size in
    bytes as the client was told it; `window` and `behind` are bytes.  Memory: `window + behind`,
    and for each of the two streams what its transport delivers at once and one piece kept whole.
    """

    def __init__(
        self,
        open: Open,
        size: int,
        clock: IReactorTime,
        window: int = WINDOW,
        behind: int = LOOK_BEHIND,
        budget: Budget = EVERYBODY,
    ) -> None:
        self.budget = budget
        self.open = open
        self.size = size
        self.clock = clock
        self.ahead = max(1, window // MAX_STREAMS)
        self.behind = max(1, behind // MAX_STREAMS)
        # A read must fit into what is kept behind, or its beginning could be dropped.
        self.max_read = min(MAX_READ, self.ahead, self.behind)
        self.etag: str | None = None
        self.paused = False
        self._closed = False
        self._uses = 0
        self._streams: list[_Stream] = []
        self._queue: deque[_Wanted] = deque()

    @property
    def buffered(self) -> int:
        """Bytes in memory now."""
        return sum(len(stream.window) for stream in self._streams)

    def read(self, offset: int, length: int) -> bytes | Deferred[bytes]:
        """Bytes from `offset` on: at once if they are here, else when they are.

        At most `length` and `max_read` bytes, all of these unless the file ends; `b""` at and
        beyond the end.  The Deferred fails with Unreachable after the attempts to resume, with
        Refused if the file is not the one that was opened any more, with NotFound if it or the
        Reader is gone, or with what else `open` raised; a later read tries afresh.  Cancelling
        it touches no other read.
        """
        if self._closed:
            return fail(NotFound("The file is closed."))
        if offset >= self.size or length <= 0:
            return b""
        end = min(offset + min(length, self.max_read), self.size)
        for stream in self._streams:
            if stream.window.start <= offset and end <= stream.window.end:
                self._touch(stream)
                return stream.take(offset, end)
        wanted = _Wanted(offset, end, Deferred(lambda _: self._forget(wanted)))
        # Whoever waits for a stream goes first; a fast reader elsewhere must not starve it.
        if self._queue or not self._place(wanted):
            self._queue.append(wanted)
        return wanted.answer

    def pause(self) -> None:
        """Answer nothing more until `resume`, because the client does not take its answers."""
        self.paused = True
        for stream in list(self._streams):
            stream.steer()

    def resume(self) -> None:
        """Go on; what has arrived is answered at once."""
        self.paused = False
        for stream in list(self._streams):
            stream.go_on()

    def close(self) -> None:
        """Abort the streams; reads that wait fail with NotFound, as do all later ones."""
        self._closed = True
        streams, self._streams = self._streams, []
        waiting = list(self._queue)
        self._queue.clear()
        for stream in streams:
            waiting += stream.stop()
        for wanted in waiting:
            wanted.answer.errback(NotFound("The file was closed while it was read."))

    def serve(self) -> None:
        """Find a stream for the reads that wait for one (a stream has no more to do, or failed)."""
        while self._queue:
            wanted = self._queue.popleft()
            if not self._place(wanted):
                self._queue.appendleft(wanted)
                return

    def drop(self, stream: _Stream) -> None:
        """Forget a stream that failed."""
        if stream in self._streams:
            self._streams.remove(stream)

    def _place(self, wanted: _Wanted) -> bool:
        """Give a read to a stream within reach or to a new one; False if all are busy."""
        near = [stream for stream in self._streams if stream.reaches(wanted.offset)]
        if near:
            stream = min(near, key=lambda each: abs(wanted.offset - each.window.end))
        else:
            if len(self._streams) >= MAX_STREAMS:
                idle = [each for each in self._streams if not each.waiting]
                if not idle:
                    return False
                oldest = min(idle, key=lambda each: each.used)
                self._streams.remove(oldest)
                oldest.stop()
            stream = _Stream(self, wanted.offset)
            self._streams.append(stream)
        self._touch(stream)
        stream.add(wanted)
        return True

    def _touch(self, stream: _Stream) -> None:
        self._uses += 1
        stream.used = self._uses
        self.budget.touch(stream)

    def _forget(self, wanted: _Wanted) -> None:
        """A caller has cancelled its read (Deferred then fails it with CancelledError)."""
        if wanted in self._queue:
            self._queue.remove(wanted)
        for stream in list(self._streams):
            if wanted in stream.waiting:
                stream.waiting.remove(wanted)
                stream.steer()
        self.serve()


class _Stream:
    """One place in the file: a window, the GET that fills it, and the reads that wait for it."""

    _log = Logger()

    def __init__(self, reader: Reader, offset: int) -> None:
        self.reader = reader
        self.window = Window(offset)
        self.waiting: list[_Wanted] = []  # by their ends
        self.used = 0
        self._cursor = offset  # the furthest end of a read that was answered
        self._download: IDownload | None = None
        self._paused = False
        self._skip = 0
        self._is_opening = False
        self._opening: Deferred[None] | None = None  # only to be cancelled
        self._retry: IDelayedCall | None = None
        self._retry_at = 0.0
        self._breaks = 0
        self._progress = 0
        self._stopped = False
        self._least = min(LEAST_WINDOW // MAX_STREAMS, reader.ahead)
        self._ahead = self._least  # what is read ahead, as far as the client's rate is known
        self._patience = 0.0  # seconds that Immich took to answer
        self._kept = 0  # bytes that the budget knows of
        self._rate_since = 0.0
        self._rate_from = offset

    def reaches(self, offset: int) -> bool:
        """Whether a read there should wait for this stream rather than open another."""
        furthest = max(self.window.end, self.waiting[-1].end if self.waiting else 0)
        return self.window.start <= offset <= furthest + self.reader.ahead

    def take(self, offset: int, end: int) -> bytes:
        """Answer a read whose bytes are all here."""
        data = self.window.get(offset, end)
        if end > self._cursor:
            self._cursor = end
            self._measure()
            self._trim()
            if self._paused:
                self.steer()
        return data

    def add(self, wanted: _Wanted) -> None:
        """Let a read wait for its bytes; if need be, ask Immich for them."""
        insort(self.waiting, wanted, key=attrgetter("end"))
        self._answer()

    def stop(self) -> list[_Wanted]:
        """End for good; returns the reads that still wait."""
        self._stopped = True
        waiting, self.waiting = self.waiting, []
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()
        if self._opening is not None:
            self._opening.cancel()
        download, self._download = self._download, None
        if download is not None:
            download.abort()
        self.window.trim(self.window.end)
        self.reader.budget.leave(self)
        self._count()
        return waiting

    def give_back(self) -> None:
        """Others need the memory: end, unless somebody waits."""
        if not self.waiting and not self._stopped:
            self.reader.drop(self)
            self.stop()

    def _count(self) -> None:
        """Tell the budget what is kept now; that may end other streams."""
        kept = len(self.window)
        more, self._kept = kept - self._kept, kept
        if more:
            self.reader.budget.changed(self, more)

    def go_on(self) -> None:
        """Answer what may be answered again, and let it flow."""
        if not self._stopped:
            self._answer()

    def steer(self) -> None:
        """Start, pause or resume the flow as the waiting reads and the window want it."""
        if self._stopped or self.window.end >= self.reader.size:
            return
        download = self._download
        if download is None:
            self._start()
            return
        ahead = self.window.end - self._cursor
        if self._paused:
            if not self.reader.paused and (self.waiting or ahead <= self._ahead // 2):
                self._paused = False
                download.resume()
        elif self.reader.paused or (not self.waiting and ahead >= self._ahead):
            self._paused = True
            download.pause()

    def _start(self) -> None:
        """Open or resume if somebody waits; a stream that broke off while idle stays as it is."""
        if not self.waiting or self._is_opening or self._retry is not None:
            return
        pause = self._retry_at - self.reader.clock.seconds()
        if self._breaks and pause > 0:
            self._retry = self.reader.clock.callLater(pause, self._try_again)
            return
        self._is_opening = True
        self._opening = Deferred.fromCoroutine(self._open())

    def _try_again(self) -> None:
        self._retry = None
        self._start()

    def _measure(self) -> None:
        """Size what is read ahead by what the client takes and how long Immich takes."""
        clock = self.reader.clock.seconds()
        took = clock - self._rate_since
        if took < RATE_SECONDS:
            return
        rate = max(0, self._cursor - self._rate_from) / took
        self._rate_since, self._rate_from = clock, self._cursor
        self._ahead = max(self._least, min(self.reader.ahead, int(2 * rate * self._patience)))

    async def _open(self) -> None:
        wanted = self.window.end
        asked = self.reader.clock.seconds()
        try:
            download = await self.reader.open(wanted, self.reader.etag)
        except Exception as error:
            # Nothing is hidden: whatever it was, every read that waits fails with it.
            self._is_opening = False
            if isinstance(error, (Unreachable, CancelledError)):
                self._broke(error)
            else:
                self._fail(error)
            return
        self._is_opening = False
        if self._stopped:
            download.abort()
        else:
            self._rate_since = self.reader.clock.seconds()
            self._rate_from = self._cursor
            self._patience = self._rate_since - asked
            self._opened(download, wanted)

    def _opened(self, download: IDownload, wanted: int) -> None:
        reader = self.reader
        changed = reader.etag is not None and download.etag not in (None, reader.etag)
        if changed or download.total not in (None, reader.size):
            download.abort()
            self._fail(Refused("The file changed while it was read."))
            return
        if download.offset > wanted:
            download.abort()
            self._broke(BadAnswer())
            return
        if reader.etag is None:
            reader.etag = download.etag
        # An answer that ignored the Range begins too early: what comes before is passed over.
        self._skip = wanted - download.offset
        self._download = download
        self._paused = False
        download.deliver(
            lambda data: self._data(download, data), lambda error: self._done(download, error)
        )
        self.steer()

    def _data(self, download: IDownload, data: bytes) -> None:
        if download is not self._download:
            return
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        room = self.reader.size - self.window.end
        if len(data) > room:
            # Immich sends more than the file had; nobody was told of that.
            data = data[:room]
            self._download = None
            download.abort()
        self.window.append(data)
        self._count()
        self._progress += len(data)
        if self._progress >= PROGRESS:
            self._breaks = 0
        self._answer()

    def _done(self, download: IDownload, error: BaseException | None) -> None:
        if download is not self._download:
            return
        self._download = None
        if self.window.end >= self.reader.size:
            return
        if isinstance(error, ConchError) and not isinstance(error, Unreachable):
            self._fail(error)
        else:
            # Also a clean end before the known size: short data is no end of the file.
            self._broke(error)

    def _broke(self, error: BaseException | None) -> None:
        """The flow ended too early: resume it after a pause, or give up."""
        if self._stopped:
            return
        if self._breaks >= len(PAUSES):
            self._fail(error if isinstance(error, Unreachable) else Unreachable())
            return
        asked = error.retry_after if isinstance(error, Unreachable) else None
        pause = max(PAUSES[self._breaks], min(asked or 0.0, MAX_PAUSE))
        self._breaks += 1
        self._progress = 0
        self._retry_at = self.reader.clock.seconds() + pause
        self._log.info(
            "A download broke off at {offset} of {size} bytes (break {breaks}): {error!r}",
            offset=self.window.end,
            size=self.reader.size,
            breaks=self._breaks,
            error=error,
        )
        self._start()

    def _fail(self, error: BaseException) -> None:
        """Fail every read that waits; the next read opens a new stream."""
        waiting = self.stop()
        self.reader.drop(self)
        for wanted in waiting:
            wanted.answer.errback(error)
        self.reader.serve()

    def _answer(self) -> None:
        """Answer the reads whose bytes are here.  A caller may read, cancel or close meanwhile."""
        while self.waiting and self.waiting[0].end <= self.window.end and not self.reader.paused:
            wanted = self.waiting.pop(0)
            data = self.window.get(wanted.offset, wanted.end)
            self._cursor = max(self._cursor, wanted.end)
            wanted.answer.callback(data)
        if self._stopped:
            return
        self._measure()
        self._trim()
        self.steer()
        if not self.waiting:
            self.reader.serve()

    def _trim(self) -> None:
        reader = self.reader
        behind = 0 if reader.budget.tight else reader.behind
        keep = max(self._cursor - behind, self.window.end - reader.ahead - behind)
        if self.waiting:
            # No read is longer than this, so no read that waits begins before it.
            first = self.waiting[0].end - reader.max_read
            if reader.budget.tight:
                first = min(wanted.offset for wanted in self.waiting)
            keep = min(keep, first)
        self.window.trim(keep)
        self._count()
