"""Carrying out the requests of one SFTP session and collecting their answers.

A request runs when nothing earlier stands in its way, gives its one answer when it is done, and
lets go whoever waited.  Everything a client can make the session hold is capped: handles,
unfinished requests, answers that the client does not take.  Where requests come from is not known
here; `packets` reads them.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Coroutine, Generator
from functools import partial
from inspect import iscoroutine
from typing import Any

from twisted.conch.ssh.filetransfer import FX_FAILURE, SFTPError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.errors import SessionRevoked
from immich_conch.sftp import wire
from immich_conch.sftp.holdings import Holdings, entries_of
from immich_conch.sftp.ordering import Answer, Handle, Order, Request, normalise
from immich_conch.sftp.requests import no_such_handle
from immich_conch.sftp.status import to_status

HANDLE_BYTES = 8
"""The length of a handle's id, a counter: no id is ever given out twice."""

MAX_HANDLES = 256
"""Open files and folders of one session."""

MAX_OPERATIONS = 64
MAX_TRANSFERS = 256
MAX_TRANSFER_BYTES = 2**24
"""Unfinished requests of a session: on paths and handles; READs and WRITEs; the bytes of these.
OpenSSH's client keeps 64 requests of 261,120 bytes under way, rclone 64 of 32 KiB."""

READ_MARK_BYTES = 2**20
"""With this much waiting for the client no file is read (trap 10), and what was asked of files
before is not answered until half of it has gone."""

PARSE_MARK_BYTES = 2**21
"""With this much waiting, say because a client never reads, no request is even looked at."""


class Engine:
    """The requests, handles and answers of a session; `packets.FileTransferServer` drives it."""

    _log = Logger()
    transport: Any

    def __init__(self, holdings: Holdings | None = None) -> None:
        self._holdings = Holdings() if holdings is None else holdings
        self._listed = 0
        self._order = Order()
        self._handles: dict[bytes, Handle] = {}
        self._last_handle = 0
        self._ready: deque[Request] = deque()
        self._held: deque[Request] = deque()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._consumed = 0
        self._paused = False
        self._closing = False
        self._lost = False

    @property
    def busy(self) -> bool:
        """Whether anything is open or under way."""
        return bool(self._handles) or not self._order.idle

    def _advance(self) -> None:
        """Do everything that can be done now; the subclass knows where requests come from."""
        raise NotImplementedError

    # -- running requests

    def _start_ready(self) -> bool:
        if not self._ready:
            return False
        self._start(self._ready.popleft())
        return True

    def _start_held(self) -> bool:
        if not self._held or self._waiting_bytes() > READ_MARK_BYTES:
            return False
        self._carry_out(self._held.popleft())
        return True

    def _waiting_bytes(self) -> int:
        return self._out_bytes + int(self.transport.buffered)

    def _has_room(self) -> bool:
        order = self._order
        return (
            order.operations < MAX_OPERATIONS
            and order.transfers < MAX_TRANSFERS
            and order.transfer_bytes < MAX_TRANSFER_BYTES
            and self._waiting_bytes() <= PARSE_MARK_BYTES
        )

    def _submit(self, request: Request) -> None:
        """Start a request now, or when what it has to wait for is finished."""
        blockers = self._order.blockers(request)
        if not blockers:
            self._start(request)
            return
        request.waits_for = len(blockers)
        for blocker in blockers:
            blocker.waiting.append(request)
        self._order.add(request)

    def _start(self, request: Request) -> None:
        if self._lost:
            self._finish(request)
        elif request.is_read and (self._held or self._waiting_bytes() > READ_MARK_BYTES):
            if not request.known:
                self._order.add(request)
            self._held.append(request)
        else:
            self._carry_out(request)

    def _carry_out(self, request: Request) -> None:
        try:
            result = request.call()
        except Exception as error:
            self._send_error(request.id, error)
            self._finish(request)
            return
        self._take_result(request, result)

    def _take_result(self, request: Request, result: Any) -> None:
        if iscoroutine(result):
            # Most wait for nothing: what is known is in memory.
            try:
                waits_for = result.send(None)
            except StopIteration as done:
                self._succeed(done.value, request)
                return
            except Exception as error:
                self._send_error(request.id, error)
                self._finish(request)
                return
            result = Deferred.fromCoroutine(_rest(result, waits_for))
        if not isinstance(result, Deferred):
            self._succeed(result, request)
            return
        result.addCallbacks(
            self._succeed, self._fail, callbackArgs=(request,), errbackArgs=(request,)
        )
        if not request.finished and not request.known:
            self._order.add(request)

    def _succeed(self, result: Any, request: Request) -> None:
        if not self._lost:
            try:
                self._send(request.reply(result))
            except Exception as error:
                # A READDIR's EOF, a session full of handles, or a result of the wrong shape.
                self._send_error(request.id, error)
        elif request.late is not None:
            # Opened for a client that is gone (trap 2).
            request.late(result)
        self._finish(request)

    def _fail(self, failure: Failure, request: Request) -> None:
        error = failure.value
        self._send_error(request.id, RuntimeError() if error is None else error)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        request.finished = True
        self._consumed += request.cost
        self._ready.extend(self._order.remove(request))
        self._advance()

    # -- what the requests ask of the session

    def handle(self, handle_id: bytes) -> Handle:
        """The open file or folder of this id; raises the status for an unknown one."""
        handle = self._handles.get(handle_id)
        if handle is None or handle.closing:
            raise no_such_handle()
        return handle

    def opened(self, request_id: int, target: Any, path: bytes, is_directory: bool) -> bytes:
        """Give an opened file or folder a handle of its own, never used before (trap 3)."""
        entries = entries_of(target) if is_directory else 0
        refusal = self._holdings.refusal(entries, self._listed)
        if len(self._handles) >= MAX_HANDLES:
            refusal = "too many open files"
        if refusal:
            self.let_go(target, is_directory)
            raise SFTPError(FX_FAILURE, refusal)
        self._holdings.take(entries)
        self._listed += entries
        self._last_handle += 1
        handle_id = self._last_handle.to_bytes(HANDLE_BYTES, "big")
        self._handles[handle_id] = Handle(handle_id, target, path, is_directory, entries)
        return wire.handle(request_id, handle_id)

    def closed(self, handle: Handle) -> None:
        """The handle's CLOSE is passed on: it is no longer ours to abort."""
        if self._handles.pop(handle.id, None) is not None:
            self._give_back(handle)

    def _give_back(self, handle: Handle) -> None:
        self._holdings.give_back(handle.entries)
        self._listed -= handle.entries

    def renamed(self, old: bytes, new: bytes) -> None:
        """Files opened below `old` now go by `new`, also for the order of requests."""
        before = normalise(old)
        for handle in self._handles.values():
            path = normalise(handle.path)
            if path[: len(before)] == before:
                below = "/".join(path[len(before) :]).encode("utf-8", "surrogateescape")
                handle.path = new + b"/" + below

    def let_go(self, target: Any, is_directory: bool) -> None:
        """Abort a file, close a folder, and go on whatever they say."""
        try:
            result = target.close() if is_directory else target.abort()
        except Exception:
            self._log.failure("An open file could not be let go")
        else:
            if isinstance(result, Deferred):
                result.addErrback(
                    lambda failure: self._log.failure("An open file failed late", failure=failure)
                )

    # -- answers

    def _send(self, answer: Answer) -> None:
        if isinstance(answer, bytes):
            self._out.append(answer)
            self._out_bytes += len(answer)
        else:
            self._out += answer
            self._out_bytes += sum(map(len, answer))

    def _send_error(self, number: int, error: BaseException) -> None:
        code, text = to_status(error)
        if self._lost:
            return
        self._send(wire.status(number, code, text))
        if isinstance(error, SessionRevoked) and not self._closing:
            # Nothing will work from here on: the client has to log in again.
            self._closing = True
            self._flush()
            self.transport.disconnect()

    def _flush(self) -> None:
        """Hand the collected answers and the consumed bytes to the channel."""
        out, self._out, self._out_bytes = self._out, [], 0
        consumed, self._consumed = self._consumed, 0
        if self._lost:
            return
        if consumed:
            self.transport.consumed(consumed)
        if out:
            self.transport.writeSequence(out)
        self._let_flow()

    def _let_flow(self) -> None:
        """Stop the files that are being read while the client does not take what it asked for."""
        waiting = self.transport.buffered
        if self._paused:
            if waiting > READ_MARK_BYTES // 2:
                return
        elif waiting <= READ_MARK_BYTES:
            return
        self._paused = not self._paused
        for handle in list(self._handles.values()):
            steer = getattr(handle.target, "pause" if self._paused else "resume", None)
            if steer is not None:
                steer()


async def _rest(work: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """What is left of a coroutine that has begun, and waits."""
    return await _go_on(work, waits_for)


@types.coroutine
def _go_on(work: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, value)
        try:
            waits_for = step()
        except StopIteration as done:
            return done.value
