"""What is fuzzed, and what must hold for every input.

The server is the real one on a clock moved by hand, its client a list of reads.  Keys are agreed on
as ever, but then protect nothing (`_NoProtection`), so that what is behind the decryption sees
broken bytes too, and what is answered can be counted.  A `Crash` is something that must not be:
an exception that escapes, a line too many, an answer too few or too many, something left behind.
"""

from __future__ import annotations

import gc
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen
from sftp_peer import Channel, Memory
from ssh_server import PASSWORD, Files, World
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from immich_conch.errors import NotFound, QuotaExceeded
from immich_conch.sftp.packets import MAX_PACKET_BYTES, FileTransferServer
from immich_conch.ssh.certificates import BadCertificate, Certificate
from immich_conch.ssh.ciphers import Plain
from immich_conch.ssh.packets import AFTER_LOGIN_BYTES, BEFORE_LOGIN_BYTES
from immich_conch.ssh.publickey import Acceptable, BadKey, IPublicKeyLogin, PublicKey
from immich_conch.ssh.transport import FAILURE_DELAY, MAX_UNSENT_BYTES, Transport
from immich_conch.ssh.wire import Reader

from . import corpus
from .mutate import Messages, break_packet, mutate, reads, ssh_packet, string

_TURNS = 20_000  # of the reactor; an input that needs more goes round in circles
_ANSWERS_BYTES = 2**23
_SFTP_KINDS = (101, 102, 103, 104, 105, 201)
_INIT, _VERSION = 1, 2


class Crash(Exception):
    """Something that must not be; the text says what."""


@frozen
class Case:
    """One input: what is read, and the seed of what happens beside it."""

    plan: int
    reads: list[bytes]


class Log:
    """What is logged: lines, and failures, of which there must be none."""

    def __init__(self) -> None:
        self.lines: list[LogEvent] = []
        self.failures: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self.failures.append(failure.getTraceback())
        elif event["log_level"] is LogLevel.critical:
            self.failures.append(repr(event))
        elif event["log_level"] >= LogLevel.info:
            self.lines.append(event)

    def take(self) -> list[LogEvent]:
        """The lines since the last call; raises Crash for failures."""
        lines, self.lines = self.lines, []
        failures, self.failures = self.failures, []
        if failures:
            raise Crash("a failure was logged\n" + "\n".join(failures))
        for text in map(_text, lines):
            if not text.isprintable():
                raise Crash(f"a line that is none: {text!r}")
        return lines


@contextmanager
def watching() -> Iterator[Log]:
    """Everything that is logged meanwhile, also by what is only found to be unhandled later."""
    log = Log()
    globalLogPublisher.addObserver(log)
    try:
        yield log
        gc.collect()
        log.take()
    finally:
        globalLogPublisher.removeObserver(log)


class _Socket(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class _Clear(Plain):
    """Protection that is none."""

    encrypts = True


class _NoProtection:
    """In place of a `Suite`."""

    def keyed(self, iv: bytes, key: bytes, integrity: bytes) -> _Clear:
        return _Clear()


class _Bare(Transport):
    """Key exchanges as ever, after which everything is in the clear."""

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        self._agreed = evolve(self._agreed, suite_in=_NoProtection(), suite_out=_NoProtection())
        super()._keySetup(sharedSecret, exchangeHash)

    def skip_key_exchange(self) -> None:
        """As if the first one were over."""
        self.gotVersion = True
        self.otherVersionString = b"SSH-2.0-fuzz"
        self.sessionID = bytes(32)
        self._secured = True
        self._blockedByKeyExchange = None
        self._reader.use(_Clear())
        self._sealer = _Clear()

    def held_bytes(self) -> int:
        """What the connection keeps of what came and of what is to go."""
        blocked = self._blockedByKeyExchange or ()
        kept = len(self._reader._data) - self._reader._at + len(self._reader._partial)
        return kept + sum(len(piece) for _, pieces in blocked for piece in pieces)

    def is_aligned(self) -> bool:
        """Whether the reads ended where a packet did, so that another one will be understood."""
        reader = self._reader
        return not (len(reader._data) - reader._at or reader._partial or reader._length)


@define(eq=False)
class _Counting(Files):
    """Files in memory that count who has been opened and who was let go, once each."""

    opened: int = 0

    async def openFile(self, path: bytes, flags: int, attrs: dict[str, Any]) -> Any:
        file = await super().openFile(path, flags, attrs)
        self.opened += 1
        return file

    async def openDirectory(self, path: bytes) -> Any:
        await self.step("opendir", path)
        folder = await super().openDirectory(path)
        self.opened += 1
        return folder

    def check(self) -> None:
        """Once nobody is there any more."""
        let_go = sum(self.called().count(name) for name in ("close", "abort", "closedir"))
        if let_go != self.opened:
            raise Crash(f"{self.opened} handles were opened and {let_go} let go")


class _Anybody(tuple[bytes, ...]):
    """Authorities: whoever has signed."""

    def __contains__(self, key: object) -> bool:
        return True


@define(eq=False)
class _Open(World):
    """Takes any key and any certificate that is one, besides the password."""

    credentialInterfaces = (IUsernamePassword, IPublicKeyLogin)

    async def requestAvatarId(self, credentials: Any) -> bytes:
        if not IPublicKeyLogin.providedBy(credentials):
            return await super().requestAvatarId(credentials)
        try:
            if credentials.algorithm.certified:
                key = Certificate.read(credentials.blob, _Anybody()).key
            else:
                key = PublicKey.parse(credentials.blob)
        except (BadKey, BadCertificate):
            raise UnauthorizedLogin from None
        if credentials.asks:
            raise Acceptable
        if not credentials.proven_by(key):
            raise UnauthorizedLogin
        return bytes(credentials.username)


def _files(r: Random) -> _Counting:
    files = _Counting()
    for name in (b"/photo", b"/source", b"/album/photo"):
        files.files[name] = bytearray(b"x" * 500)
    files.folders[b"/"] = [[(b"photo", b"-rw photo", {"size": 500})] * 3, []]
    names = ("open", "read", "write", "close", "stat", "lstat", "rename", "fsetstat", "readdir",
             "opendir", "fstat", "realpath", "remove", "mkdir", "fsync")  # fmt: skip
    if r.random() < 0.3:
        files.hold(*r.sample(names, r.randrange(1, 6)))
    if r.random() < 0.1:
        kind = r.choice((NotFound, QuotaExceeded))
        files.errors = {name: kind() for name in r.sample(names, 3) if not name.startswith("close")}
    return files


def _release(r: Random, files: Memory) -> None:
    """Let what waits go on, in any order."""
    while names := [name for name, waiting in files._waiting.items() if waiting]:
        files.release(r.choice(names))


@define(eq=False)
class SSH:
    """The transport and what is above it, from one of three places on."""

    name: str
    keys: Any
    log: Log
    pool: list[Messages]
    #: Messages that bring a session to where the target is about; seldom changed.
    keep: int = 0

    def make(self, r: Random) -> Case:
        """An input made of the corpus."""
        messages = mutate(r, self.pool, self.keep)
        stream = b""
        if self.name == "transport" and messages:
            greeting = messages.pop(0)
            stream = greeting + r.choice((b"\r\n", b"\r\n", b"\n"))
        breaks = r.random() < 0.15
        place = r.randrange(len(messages) or 1)
        for n, message in enumerate(messages):
            packet = ssh_packet(message[: 2**18])
            stream += break_packet(r, packet) if breaks and n == place else packet
        if r.random() < 0.03:
            at = r.randrange(len(stream) + 1)
            stream = stream[:at] + r.randbytes(r.randrange(1, 50)) + stream[at:]
        return Case(r.randrange(2**32), reads(r, stream))

    def run(self, case: Case) -> str:
        """Feed it; the outcome in a word or two.  Raises Crash."""
        r = Random(case.plan)
        clock, files = Clock(), _files(r)
        world = _Open(files=files)
        factory = world.factory(self.keys, clock)
        factory.protocol = _Bare
        server: Any = factory.buildProtocol(None)
        socket = _Socket()
        server.makeConnection(socket)
        if self.name != "transport":
            server.skip_key_exchange()
        if self.name == "channels":
            log_in = string(b"ann") + string(b"ssh-connection") + string(b"password")
            log_in += b"\0" + string(PASSWORD.encode())
            for message in (b"\x05" + string(b"ssh-userauth"), b"\x32" + log_in):
                server.dataReceived(ssh_packet(message))
            if not hasattr(server, "avatar"):
                raise Crash("the harness is not logged in")
        full = r.random() < 0.1
        limit = 2 * AFTER_LOGIN_BYTES + 2 * MAX_UNSENT_BYTES
        patient = r.random() < 0.5
        for n, data in enumerate(case.reads):
            if full and n == len(case.reads) // 2:
                server.pauseProducing()
            server.dataReceived(data)
            if patient and getattr(server.service, "_busy", False):
                clock.advance(FAILURE_DELAY)
            if n % 16:
                continue
            if hasattr(server, "avatar"):
                _turn(clock)
            elif server.held_bytes() > BEFORE_LOGIN_BYTES + MAX_UNSENT_BYTES + len(data):
                raise Crash(f"{server.held_bytes()} bytes of somebody unknown are kept")
            if server.held_bytes() > limit + len(data):
                raise Crash(f"{server.held_bytes()} bytes are kept")
        _turn(clock)
        if full and not server.ended:
            server.resumeProducing()
        for _ in range(10):
            if not getattr(server.service, "_busy", False):
                break
            clock.advance(FAILURE_DELAY)
            _turn(clock)
        _release(r, files)
        _turn(clock)
        outcome = self._probe(server, socket, clock)
        self._end(server, socket, clock, world)
        return outcome

    def _probe(self, server: Any, socket: _Socket, clock: Clock) -> str:
        """Whoever is not cut off must still be answered."""
        if server.ended:
            return "ended"
        if not server.is_aligned():
            return "waits for the rest of a packet"
        if not server.gotVersion:
            return "waits for an identification"
        if server.changing_keys:
            return "waits in a key exchange"
        logged_in = hasattr(server, "avatar")
        probe, answer = (b"\x05" + string(b"ssh-userauth"), 6)
        if logged_in:
            probe, answer = b"\x50" + string(b"keepalive@openssh.com") + b"\x01", 82
        before = _kinds(socket)[answer]
        server.dataReceived(ssh_packet(probe))
        _turn(clock)
        if not server.ended and _kinds(socket)[answer] != before + 1:
            raise Crash("whoever is connected is not answered any more")
        return "logged in" if logged_in else "not logged in"

    def _end(self, server: Any, socket: _Socket, clock: Clock, world: World) -> None:
        kinds = _kinds(socket)
        server.connectionLost(Failure(ConnectionLost()))
        _release(Random(0), world.files)
        if clock.getDelayedCalls():
            raise Crash(f"left behind: {clock.getDelayedCalls()}")
        if world.closed != [server]:
            raise Crash("the end of the connection was not told")
        if world.logouts != hasattr(server, "avatar") or kinds[52] > world.logouts:
            raise Crash(f"{kinds[52]} log-ins and {world.logouts} ends of them")
        world.files.check()
        lines = self.log.take()
        ends = [line for line in lines if "disconnect" in line["log_format"]]
        # A channel may have a line of its own, also one whose confirmation waits for new keys.
        if len(ends) > 1 or len(lines) > 1 + 2 * max(1, kinds[91]):
            raise Crash(f"{len(lines)} lines were logged: {[_text(line) for line in lines]}")


def _text(event: LogEvent) -> str:
    return str(event["log_format"]).format(**event)


def _turn(clock: Clock) -> None:
    """Let happen what is due."""
    for _ in range(_TURNS):
        if not any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls()):
            return
        clock.advance(0)
    raise Crash("the reactor never comes to rest")


def _kinds(socket: _Socket) -> Counter[int]:
    """How often each message was sent, all of which must be whole."""
    data = socket.value()
    if len(data) > _ANSWERS_BYTES:
        raise Crash(f"{len(data)} bytes were sent")
    at = data.index(b"\n") + 1
    kinds: Counter[int] = Counter()
    while at < len(data):
        length, padding = struct.unpack_from("!LB", data, at)
        if at + 4 + length > len(data) or (4 + length) % 8 or not 4 <= padding < length - 1:
            raise Crash("what was sent is no packet")
        kinds[data[at + 5]] += 1
        at += 4 + length
    return kinds


@define(eq=False)
class SFTP:
    """The SFTP session over a channel that is none, on files in memory."""

    log: Log
    pool: list[Messages] = field(factory=corpus.sftp)
    name: str = "sftp"

    def make(self, r: Random) -> Case:
        """An input made of the corpus."""
        stream = b""
        breaks = r.random() < 0.1
        messages = mutate(r, self.pool, keep=1)
        place = r.randrange(len(messages) or 1)
        for n, message in enumerate(messages):
            packet = string(message)
            if breaks and n == place:
                length = r.choice((0, 1, 4, 5, len(message) - 1, len(message) + 1, 2**18, 2**31))
                packet = struct.pack("!L", length & 0xFFFFFFFF) + message
            stream += packet
        return Case(r.randrange(2**32), reads(r, stream))

    def run(self, case: Case) -> str:
        """Feed it; the outcome in a word or two.  Raises Crash."""
        r = Random(case.plan)
        files, channel = _files(r), Channel()
        server: Any = FileTransferServer(b"", None, files)
        server.makeConnection(channel)
        full = r.random() < 0.1
        for n, data in enumerate(case.reads):
            if full:
                channel.buffered = r.choice((0, 2**20 + 1, 2**21 + 1)) if n else 2**21 + 1
            server.dataReceived(data)
        channel.buffered = 0
        if channel.drained is not None:
            channel.drained()
        _release(r, files)
        stream = b"".join(case.reads)
        asked, closes, left = _requests(stream)
        answered = _answers(bytes(channel.written))
        if closes and not channel.closed:
            raise Crash("a client that speaks no SFTP keeps its channel")
        if not closes and (channel.closed or answered != asked):
            raise Crash(
                f"not answered: {asked - answered}, answered too often: {answered - asked}, "
                f"closed: {channel.closed}"
            )
        if answered - asked:
            raise Crash(f"answered too often: {answered - asked}")
        if not closes and channel.taken != len(stream) - left:
            raise Crash(f"{channel.taken} bytes of {len(stream)} count as dealt with")
        server.connectionLost(Failure(ConnectionLost()))
        files.check()
        if len(self.log.take()) > 1:
            raise Crash("more than a line was logged")
        return "closed" if closes else "all answered"


def _requests(stream: bytes) -> tuple[Counter[int], bool, int]:
    """How often each id is asked with, whether the channel must end, and the bytes left over."""
    asked: Counter[int] = Counter()
    at, greeted = 0, False
    while len(stream) - at >= 4:
        length = int.from_bytes(stream[at : at + 4], "big")
        if not 5 <= length <= MAX_PACKET_BYTES:
            return asked, True, 0
        if len(stream) - at < 4 + length:
            break
        packet = stream[at + 4 : at + 4 + length]
        at += 4 + length
        if greeted == (packet[0] == _INIT):
            return asked, True, 0
        if not greeted:
            fields = Reader(packet[5:])
            try:
                while fields.rest():
                    fields.string()
                    fields.string()
            except Exception:
                return asked, True, 0
            greeted = True
        else:
            asked[int.from_bytes(packet[1:5], "big")] += 1
    return asked, False, len(stream) - at


def _answers(data: bytes) -> Counter[int]:
    """How often each id is answered; all answers must be whole."""
    if len(data) > _ANSWERS_BYTES:
        raise Crash(f"{len(data)} bytes were answered")
    answered: Counter[int] = Counter()
    at = 0
    while at < len(data):
        length, kind, number = struct.unpack_from("!LBL", data, at)
        if at + 4 + length > len(data) or (kind != _VERSION and kind not in _SFTP_KINDS):
            raise Crash("an answer is no packet")
        if kind != _VERSION:
            answered[number] += 1
        at += 4 + length
    return answered


def targets(keys: Any, log: Log) -> dict[str, SSH | SFTP]:
    """All targets by name."""
    return {
        "transport": SSH("transport", keys, log, corpus.sessions(), keep=1),
        "userauth": SSH("userauth", keys, log, corpus.userauth()),
        "channels": SSH("channels", keys, log, corpus.channels()),
        "sftp": SFTP(log),
    }


Runner = Callable[[Case], str]
