"""Tables kept up to date by the sync stream of one session, with a delta before they are too old.

The first look loads everything.  Deltas go one at a time and are shared by all who wait.  A small
one is entered at one go when it has come whole; a large one is entered as it comes, and nobody is
answered meanwhile.  What was entered is acknowledged, nothing else.  What goes wrong once a line
was entered makes the tables worthless: the next look starts over (rule 2: never half an answer).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.errors import BadAnswer, ConchError, NoMirror, SessionRevoked, Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.library.first_load import FirstLoad
from immich_conch.library.gather import Shared
from immich_conch.library.motion import LINK_TRIES, LINKING, moment
from immich_conch.library.records import raw_id
from immich_conch.library.tables import Tables

T = TypeVar("T")

Lend = Callable[[IImmich | None], Awaitable[IImmich]]
"""Gives the session to follow, each time the same; asked with one that Immich no longer accepts,
another.  Raises SessionRevoked where there is none."""

#: Lines of a delta that are held back until it is whole: some 20 ms of entering, 2 MB.
HELD_LINES = 2000
#: Streams in a row that may end with something linked but not told: rows that Immich writes
#: while it sends come with the next one, so an album that is being filled takes a few.
LOOSE_TRIES = 8
#: How often one catching up may begin from nothing: a reset, a revoked session, an unknown line.
STARTS = 3
#: Seconds after which a delta without changes is acknowledged, too, so that Immich does not take
#: the session for one that has not asked in 30 days.
ACK_COMPLETE = 3600.0
#: Seconds for which a stream that is of no use is not tried again.
REFUSAL_KEPT = 3600.0
#: The part of the freshness bound that passes between two deltas ahead of time.
AHEAD = 0.5
#: The type of line that is loaded before all others.
NOTES = "AssetMetadataV1"
#: Seconds between deltas ahead of time, or loads, after one failed, doubled with each, at most.
BACK_OFF, MAX_BACK_OFF = 2.0, 60.0


class _StartOver(Exception):
    """Immich wants this session to begin from nothing."""


@define(eq=False)
class Follower:
    """`clock.seconds()` measures; `freshness` is in seconds.

    `settle` is told of tables that are whole and when (`clock`) the delta in them began, before
    anybody is answered from them.
    """

    user_id: str
    lend: Lend
    clock: IReactorTime
    freshness: float
    max_assets: int
    revisions: count[int]
    settle: Callable[[Tables, float], None]
    #: Whether a load begins with what is noted, for those who do not wait for its end.
    notes_first: bool = field(default=False, init=False)
    #: The load from nothing that is under way.
    loading: FirstLoad | None = field(default=None, init=False, repr=False)
    #: Seconds (`clock`) before which no delta began that may be answered from: what was seen by
    #: other ways until then must be in it.
    not_before: float = field(default=-inf, init=False)
    #: The newest tables; not to be answered from unless `fresh` gave them.
    tables: Tables | None = field(default=None, init=False, repr=False)
    #: Whether the tables are something to answer from, and when the last delta in them began.
    _whole: bool = field(default=False, init=False)
    _at: float = field(default=0.0, init=False)
    _session: IImmich | None = field(default=None, init=False, repr=False)
    _running: Shared[None] | None = field(default=None, init=False, repr=False)
    _refusal: tuple[float, NoMirror] | None = field(default=None, init=False)
    _acknowledged: float = field(default=0.0, init=False)
    _ahead: IDelayedCall | None = field(default=None, init=False, repr=False)
    _keeping: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    #: Loads that failed in a row, and when (`clock`) another is due.
    _failed_loads: int = field(default=0, init=False)
    _retry_at: float = field(default=-inf, init=False)
    _watchers: list[Deferred[None]] = field(factory=list, init=False, repr=False)
    _log = Logger()

    async def fresh(self) -> Tables:
        """The tables, whole and no older than the freshness bound."""
        oldest = self.clock.seconds() - self.freshness
        while not self._knows(oldest):
            await self._begun().wait()
        assert self.tables is not None
        return self.tables

    def _knows(self, oldest: float) -> bool:
        return self._whole and self._at >= max(oldest, self.not_before)

    @property
    def whole(self) -> Tables | None:
        """The tables, of whatever age, if nothing is missing in them and nothing half entered."""
        return self.tables if self._whole else None

    async def load(self) -> FirstLoad | None:
        """None once `fresh` has an answer at once, or the load from nothing that is under way.

        Raises what the delta raised.
        """
        oldest = self.clock.seconds() - self.freshness
        while not self._knows(oldest):
            running = self._begun()
            if self.loading is None:
                await self._end_or_load(running)
            if self.loading is not None:
                return self.loading
        return None

    @property
    def failing(self) -> bool:
        """Whether a load failed and another is not due yet."""
        return self.tables is None and self.clock.seconds() < self._retry_at

    async def _end_or_load(self, running: Shared[None]) -> None:
        """Wait until a delta has ended, or has found that everything has to be loaded."""
        event: Deferred[None] = Deferred()

        def over(result: Failure | None) -> None:
            if event in self._watchers:
                self._watchers.remove(event)
            if not event.called:
                event.callback(result)

        self._watchers.append(event)
        Deferred.fromCoroutine(running.wait()).addBoth(over)
        await event

    def _set_loading(self, load: FirstLoad | None) -> None:
        self.loading = load
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.called:
                watcher.callback(None)

    async def delta(self) -> None:
        """Take a delta, or wait for the one under way."""
        await self._begun().wait()

    def _begun(self) -> Shared[None]:
        if self._refusal is not None:
            until, error = self._refusal
            if self.clock.seconds() < until:
                raise type(error)(error.text)
            self._refusal = None
        if self._running is None or self._running.done:
            self._running = Shared.start(self._catch_up())
        return self._running

    async def ask(self, work: Callable[[IImmich], Awaitable[T]]) -> T:
        """Ask for what the stream does not tell, with the session that is followed."""
        session = self._session or await self._lent(None)
        try:
            return await work(session)
        except SessionRevoked:
            self._forget()
            return await work(await self._lent(session))

    async def _lent(self, revoked: IImmich | None) -> IImmich:
        session = await self.lend(revoked)
        if session is not self._session:
            # Checkpoints belong to a session: to another one Immich tells everything.
            self._session = session
            self._forget()
        return session

    def _forget(self) -> None:
        self.tables = None
        self._whole = False

    async def _catch_up(self) -> None:
        revoked: IImmich | None = None
        for left in reversed(range(STARTS)):
            session = await self._lent(revoked)
            afresh = self.tables is None
            try:
                await self._until_complete(session)
                return
            except SessionRevoked:
                self._forget()
                revoked = session
                if not left:
                    raise
            except NoMirror as error:
                self._refuse(error)
                raise
            except (BadAnswer, _StartOver) as error:
                self._forget()
                if afresh or not left:
                    why = error.text if isinstance(error, BadAnswer) else "it always starts over."
                    refusal = NoMirror(f"Immich's sync stream cannot be followed: {why}")
                    self._refuse(refusal)
                    raise refusal from error
                self._log.info("the mirror of {user} starts over", user=self.user_id)
            except Unreachable:
                if self.tables is None:
                    self._failed_loads += 1
                    self._retry_at = self.clock.seconds() + _pause(self._failed_loads)
                raise

    def _refuse(self, error: NoMirror) -> None:
        self._forget()
        self._refusal = (self.clock.seconds() + REFUSAL_KEPT, error)

    async def _until_complete(self, session: IImmich) -> None:
        """Deltas until nothing is missing; one more after everything was loaded.

        A row that was written while everything was sent is in none of its lines, however old it
        is: without another delta an album could be missing that was there all the time.
        """
        again = self.tables is None
        if again:
            self._set_loading(FirstLoad(self.clock))
        try:
            if self.loading is not None and self.notes_first:
                self.loading.told(await self._noted(session))
                await self.loading.turn()
            loose = 0
            for _ in range(LINK_TRIES):
                tables, began = await self._one_stream(session)
                if not again and not tables.incomplete and not tables.parting:
                    self._at = began
                    self._whole = True
                    self._failed_loads = 0
                    self.settle(tables, began)
                    return
                # What is there now lacks something: nobody is to see it.
                self._whole = False
                loose += again or tables.incomplete
                if loose == LOOSE_TRIES:
                    raise NoMirror("Immich's sync stream leaves out what it refers to.")
                again = False
                if tables.parting:
                    await moment(self.clock)
            raise Unreachable(LINKING)
        finally:
            if self.loading is not None:
                self.loading.end()
                self._set_loading(None)

    async def _noted(self, session: IImmich) -> Mapping[bytes, Mapping[str, Any]]:
        """What is noted of all own assets.  Nothing is acknowledged: it comes again."""
        tables = Tables(raw_id(self.user_id), 0, self.revisions)

        def take(lines: Sequence[Mapping[str, Any]]) -> None:
            if any(line["type"] == "SyncResetV1" for line in lines):
                raise _StartOver
            tables.apply(line for line in lines if line["type"] != "SyncCompleteV1")

        # The checkpoints are void without tables; with one of them this would lack something.
        await session.sync_stream(take, True, (NOTES,))
        return tables.notes

    async def _one_stream(self, session: IImmich) -> tuple[Tables, float]:
        """One stream entered and acknowledged: the tables, and when it began."""
        began = self.clock.seconds()
        reset = self.tables is None
        tables = self.tables or Tables(raw_id(self.user_id), self.max_assets, self.revisions)
        acks: dict[str, str] = {}
        held: list[Mapping[str, Any]] = []
        entered = False

        def enter() -> None:
            nonlocal entered
            entered = True
            tables.apply(held)
            held.clear()

        def take(lines: Sequence[Mapping[str, Any]]) -> None:
            for line in lines:
                kind, ack = line["type"], line["ack"]
                if kind == "SyncResetV1":
                    raise _StartOver
                # One a type is enough; a line may acknowledge another type than its own.
                acks[ack.partition("|")[0]] = ack
                if kind != "SyncCompleteV1":
                    held.append(line)
            if len(held) > HELD_LINES or not self._whole:
                self._whole = False
                enter()

        try:
            await session.sync_stream(take, reset)
            # Nothing waits from here on until the tables are in order again.
            enter()
            tables.finish()
        except BaseException:
            if entered:
                self._forget()
            raise
        self.tables = tables
        if len(acks) > 1 or reset or began - self._acknowledged > ACK_COMPLETE:
            # If this is lost, Immich tells the same once more, which changes nothing.
            await session.sync_ack(list(acks.values()))
            self._acknowledged = began
        return tables, began

    # -- ahead of time ----------------------------------------------------------------------------

    def keep_fresh(self) -> None:
        """Take deltas ahead of their time, so that nobody has to wait for one."""
        if not self._keeping:
            self._keeping = True
            self._failures = 0
            self._plan(0.0)

    def rest(self) -> None:
        """No deltas but those that somebody waits for."""
        self._keeping = False
        if self._ahead is not None and self._ahead.active():
            self._ahead.cancel()
        self._ahead = None

    async def quiet(self) -> None:
        """Wait until no stream is open: one whose session is logged out would never end."""
        while self._running is not None and not self._running.done:
            try:
                await self._running.wait()
            except ConchError as error:
                self._log.debug("the last delta failed: {reason}", reason=error.text)

    def _plan(self, pause: float) -> None:
        if self._ahead is None:
            self._ahead = self.clock.callLater(pause, self._go_ahead)

    def _go_ahead(self) -> None:
        self._ahead = None
        Deferred.fromCoroutine(self.delta()).addCallbacks(self._went_well, self._went_wrong)

    def _went_well(self, _result: None) -> None:
        self._failures = 0
        if self._keeping:
            self._plan(self.freshness * AHEAD)

    def _went_wrong(self, failure: Failure) -> None:
        failure.trap(ConchError)
        self._log.debug(
            "no delta for {user}: {error}", user=self.user_id, error=failure.getErrorMessage()
        )
        if isinstance(failure.value, (NoMirror, SessionRevoked)):
            self.rest()
        elif self._keeping:
            self._failures += 1
            self._plan(_pause(self._failures))


def _pause(failures: int) -> float:
    return min(BACK_OFF * 2.0 ** (failures - 1), MAX_BACK_OFF)
