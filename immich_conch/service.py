"""The service itself: listening, the start-up lines, regular tasks, an orderly end.

What cannot be listened on is one line on stderr and exit status 1.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from immich_conch import spool_tool
from immich_conch.accounts import Accounts
from immich_conch.errors import ConchError
from immich_conch.immich.client import ImmichServer
from immich_conch.process import give_back

#: Seconds between looks for what was under a temporary name, or cut off, for too long.
SWEEP_SECONDS = 600.0
#: Seconds between looks for what an administrator asks of the spool.
CONTROL_SECONDS = 2.0
#: Seconds between searches for young objects that only refer to each other.  `process` lets Python
#: search by itself once in many thousand objects, and few of them may hold many bytes: what is
#: left of an upload has pieces of 256 KiB.  A search costs some milliseconds.
TIDY_SECONDS = 10.0
#: Seconds between times when what is free in the heap goes back to the system.
GIVE_BACK_SECONDS = 60.0
#: Seconds that a stop waits for clients to take what was still to be sent to them.
GOODBYE_SECONDS = 2.0


class Listener(StreamServerEndpointService):
    """Listens on one endpoint; one that cannot be had is one line and exit status 1."""

    def __init__(self, endpoint: Any, factory: Any, text: str) -> None:
        super().__init__(endpoint, factory)
        self.text = text

    def privilegedStartService(self) -> None:
        """Listen while we may still be root."""
        failed: list[Failure] = []
        self._waitingForPort = self.endpoint.listen(self.factory)
        self._waitingForPort.addErrback(failed.append)
        if failed:
            error = failed[0].value
            reason = error.socketError if isinstance(error, CannotListenError) else error
            raise SystemExit(f"immich-sftp: --endpoint {self.text}: cannot listen: {reason}")


@implementer(IService)
class SFTPService(Service):
    """What is neither the listening nor the demo: the start-up line, and an orderly end."""

    _log = Logger()

    def __init__(self, server: ImmichServer, accounts: Accounts, reactor: Any) -> None:
        self.server = server
        self.accounts = accounts
        self.reactor = reactor
        self.connections: set[Any] = set()
        #: What there is to say once the log is open.
        self.lines: list[str] = []
        self.warnings: list[str] = []
        #: What else is to end with it, when the connections have ended.
        self.at_stop: list[Callable[[], object]] = []
        self.finished: Deferred[None] = Deferred()
        #: Fires when the last connection has ended, where somebody waits for that.
        self._deserted: Deferred[None] | None = None
        self._calls = [
            (LoopingCall(accounts.sweep), SWEEP_SECONDS),
            (LoopingCall(self._control), CONTROL_SECONDS),
            (LoopingCall(gc.collect, 1), TIDY_SECONDS),
            (LoopingCall(accounts.in_thread, give_back), GIVE_BACK_SECONDS),
        ]
        if accounts.settings.session_check:
            check = LoopingCall(accounts.check_sessions)
            self._calls.append((check, accounts.settings.session_check))

    def startService(self) -> None:
        """Take up what is in the spool, say which Immich this is, and serve either way."""
        super().startService()
        self.accounts.recover()
        for call, seconds in self._calls:
            call.clock = self.reactor
            call.start(seconds).addErrback(
                lambda failure: self._log.failure("a regular task has stopped", failure=failure)
            )
        for line in self.lines:
            self._log.info("{line}", line=line)
        for line in self.warnings:
            self._log.warn("{line}", line=line)
        self.reactor.callWhenRunning(lambda: Deferred.fromCoroutine(self._greet()))

    async def _greet(self) -> None:
        try:
            version = await self.server.version()
        except ConchError as error:
            if not self.running:
                return  # it may have ended before us
            self._log.warn(
                "Immich at {url} cannot be used yet: {reason} Serving all the same.",
                url=self.server.url,
                reason=error.text,
            )
        else:
            self._log.info("Immich {version} at {url}", version=version, url=self.server.url)

    async def _control(self) -> None:
        """Do what an administrator asked by `immich-conch spool`."""
        directory = self.accounts.spool.directory
        try:
            for file_id, action in spool_tool.requests(directory):
                try:
                    await self.accounts.command(file_id, action)
                except ConchError as error:
                    spool_tool.answer(directory, file_id, error.text)
                else:
                    spool_tool.answer(directory, file_id, "ok")
        except OSError as error:
            self._log.error("the spool's control directory: {reason}", reason=error.strerror)

    def connection_opened(self, transport: Any) -> None:
        """A client is here."""
        self.connections.add(transport)

    def connection_closed(self, transport: Any) -> None:
        """A client has gone."""
        self.connections.discard(transport)
        if not self.connections and self._deserted is not None:
            deserted, self._deserted = self._deserted, None
            deserted.callback(None)

    def stopService(self) -> Deferred[Any]:
        """Close the connections, then commit what is sealed for a limited time."""
        super().stopService()
        for call, _ in self._calls:
            if call.running:
                call.stop()
        work = Deferred.fromCoroutine(self._stop())
        work.addTimeout(self.accounts.settings.stop_timeout, self.reactor)

        def late(failure: Failure) -> None:
            self._log.error(
                "stopped with uploads still in the spool: {reason}", reason=failure.value
            )

        work.addErrback(late)
        return work.addBoth(self.finished.callback)

    async def _stop(self) -> None:
        # The connections first: each logs its Immich session out when it has ended.
        if self.connections:
            self._deserted = Deferred()
            deserted = self._deserted
            for transport in list(self.connections):
                transport.loseConnection()
            patience = self.reactor.callLater(GOODBYE_SECONDS, self._hang_up)
            await deserted
            if patience.active():
                patience.cancel()
        for end in self.at_stop:
            end()
        await self.accounts.stop()

    def _hang_up(self) -> None:
        """Clients that do not take what was still to be sent are left."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
