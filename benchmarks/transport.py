"""How quickly packets are sealed and opened: `python -m benchmarks.transport`.

Our transport and Conch's unmodified one, each alone in this process with keys and without a
network: channel data of 32 KiB and of 64 bytes, out as fast as it is taken, in as it comes from
TCP, 64 KiB at a time.  Conch has no AES-GCM and no encrypt-then-MAC; its peer is then the suite
that today's clients land on with it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attrs import define
from twisted.conch.ssh.connection import MSG_CHANNEL_DATA
from twisted.conch.ssh.transport import SSHCiphers, SSHServerTransport
from twisted.internet.task import Clock

from benchmarks.process import busy, load, machine
from benchmarks.tables import Ratio, Report, Row, Series
from immich_conch.ssh.ciphers import GCM, Suite
from immich_conch.ssh.outlet import Outlet
from immich_conch.ssh.session import Connection
from immich_conch.ssh.transport import Transport

RESULTS = Path(__file__).with_name("results")
SUMMARY = (__doc__ or "").splitlines()[0]

RUNS, QUICK_RUNS = 9, 3
#: Bytes of channel data a run moves, in packets of so many.
MOVED = {32_768: 2**26, 64: 2**19}
QUICK_PART = 16
READ_BYTES = 2**16
SUITES = (
    Suite(b"aes128-gcm@openssh.com", b""),
    Suite(b"aes256-gcm@openssh.com", b""),
    Suite(b"aes128-ctr", b"hmac-sha2-256-etm@openssh.com"),
    Suite(b"aes128-ctr", b"hmac-sha2-256"),
    Suite(b"aes256-ctr", b"hmac-sha2-512"),
)
#: What OpenSSH's client and Conch's server agree on.
USUAL = Suite(b"aes128-ctr", b"hmac-sha2-256")
IV, KEY, INTEGRITY = bytes(range(64)), bytes(range(64, 128)), bytes(range(128, 192))


@define(eq=False)
class Wire:
    """A TCP connection that counts, and keeps what was sent if it is told to."""

    size: int = 0
    kept: list[bytes] | None = None
    bufferSize: int = 0
    SEND_LIMIT: int = 0

    def write(self, data: bytes) -> None:
        """One packet, or a part."""
        self.size += len(data)
        if self.kept is not None:
            self.kept.append(bytes(data))

    def writeSequence(self, pieces: Sequence[bytes]) -> None:
        """One packet in pieces."""
        self.size += sum(map(len, pieces))
        if self.kept is not None:
            self.kept.extend(pieces)

    def pauseProducing(self) -> None:
        """A turn is over."""

    def resumeProducing(self) -> None:
        """The next begins."""


class Sink(Connection):
    """Counts what comes, and drops it."""

    bytes_in = 0

    def channel_data(self, plain: bytes, at: int, end: int) -> None:
        """As our transport hands it over; one copy, as the channel makes it."""
        self.bytes_in += len(plain[at + 8 : end])

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """As Conch's hands it over, which copies it once more."""
        self.bytes_in += len(packet[8:])


@define(eq=False)
class Peer:
    """A transport with keys, and how it is used."""

    name: str
    transport: Any
    wire: Wire
    sink: Sink
    clock: Clock
    send: Callable[[bytes, bytes], None]

    def out(self, size: int, moved: int) -> float:
        """CPU seconds to send so many bytes in packets of `size`."""
        head, data = bytes(4) + size.to_bytes(4, "big"), bytes(size)
        count, send = moved // size, self.send
        started = time.process_time()
        for _ in range(count):
            send(head, data)
        return time.process_time() - started

    def into(self, stream: bytes, moved: int) -> float:
        """CPU seconds to read a stream, which has to hold so many bytes of channel data."""
        reads = [stream[at : at + READ_BYTES] for at in range(0, len(stream), READ_BYTES)]
        self.sink.bytes_in = 0
        started = time.process_time()
        for data in reads:
            self.transport.dataReceived(data)
            self.clock.advance(0)
        seconds = time.process_time() - started
        if self.sink.bytes_in != moved:
            raise RuntimeError(f"{self.name} read {self.sink.bytes_in} bytes of {moved}")
        return seconds


def ours(suite: Suite) -> Peer:
    """Our transport, after a log-in."""
    wire, sink, clock = Wire(), Sink(), Clock()
    transport: Any = Transport()
    transport.transport = wire
    transport._outlet = Outlet(wire)
    transport.factory = SimpleNamespace(clock=clock, rekey_bytes=2**60, keepalive=0, idle_timeout=0)
    transport._sealer = suite.keyed(IV, KEY, INTEGRITY)
    transport._reader.use(suite.keyed(IV, KEY, INTEGRITY))
    transport.authenticated()
    transport._blockedByKeyExchange = None
    transport.gotVersion = True
    transport.service = sink

    def send(head: bytes, data: bytes) -> None:
        transport.send_pieces(MSG_CHANNEL_DATA, (head, data))

    return Peer("ours", transport, wire, sink, clock, send)


def conch(suite: Suite) -> Peer:
    """Conch's transport as it is."""
    wire, sink = Wire(), Sink()
    transport: Any = SSHServerTransport()
    transport.transport = wire
    transport.currentEncryptions = SSHCiphers(suite.cipher, suite.cipher, suite.mac, suite.mac)
    transport.currentEncryptions.setKeys(IV, KEY, IV, KEY, INTEGRITY, INTEGRITY)
    transport.gotVersion = True
    transport.service = sink

    def send(head: bytes, data: bytes) -> None:
        transport.sendPacket(MSG_CHANNEL_DATA, head + data)

    return Peer("Conch", transport, wire, sink, Clock(), send)


def stream_of(suite: Suite, size: int, moved: int) -> bytes:
    """Packets as a client would send them."""
    client = ours(suite)
    client.wire.kept = []
    client.out(size, moved)
    return b"".join(client.wire.kept)


def label(suite: Suite) -> str:
    """Short names of a suite."""
    parts = (suite.cipher, suite.mac)
    return " ".join(part.decode().removesuffix("@openssh.com") for part in parts if part)


def rows(suite: Suite, size: int, moved: int, runs: int) -> list[Row]:
    """Out and in: MB/s with 32 KiB, packets in a second with small ones."""
    judged = suite if suite.cipher not in GCM and "etm" not in label(suite) else USUAL
    streams = [stream_of(one, size, moved) for one in (suite, judged)]
    found: dict[str, tuple[list[float], list[float]]] = {"out": ([], []), "in": ([], [])}
    large = size > 1024
    amount = moved / 1e6 if large else moved / size / 1e3
    for run in range(runs):
        # Keys count packets: each run has its own.
        pair = [(0, ours(suite)), (1, conch(judged))]
        for who, peer in pair if run % 2 else reversed(pair):
            found["out"][who].append(amount / peer.out(size, moved))
            found["in"][who].append(amount / peer.into(streams[who], moved))
    unit = "MB/s" if large else "1000/s"
    made: list[Row] = []
    for direction, (mine, theirs) in found.items():
        name = f"{label(suite)}, {size} bytes, {direction}"
        peer_name = f"Conch, {label(judged)}"
        made.append(
            Ratio(
                name,
                Series("ours", tuple(mine), unit),
                Series(peer_name, tuple(theirs), unit),
                1.0,
                at_most=False,
            )
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all suites; 1 if one of them is slower than Conch, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=SUMMARY)
    parser.add_argument("--quick", action="store_true", help="less data, fewer runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    parser.add_argument("--runs", type=int, help=f"times each is measured [{RUNS}]")
    options = parser.parse_args(arguments)
    report = Report("transport", options.out)
    before = os.getloadavg()[0]
    report.note(f"{machine()}; load before: {load()}")
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    for size, moved in MOVED.items():
        for suite in SUITES:
            for row in rows(suite, size, moved // (QUICK_PART if options.quick else 1), runs):
                report.add(row)
    report.note(f"load after: {load()}")
    if warning := busy(before):
        report.note(warning)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
