"""A long wire: a relay on the loopback that delays and paces bytes, in a process of its own.

    python -m benchmarks.relay --to 2222 --port 2022 --round-trip 0.1 --rate 125

`--rate` is in millions of bytes a second, each way by itself; `--round-trip` in seconds, half of it
each way.  What is under way is as much as the wire holds, and `BUFFER_BYTES` more, as in a router;
whoever sends more is made to wait, as by TCP.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from collections.abc import Sequence

from attrs import define, field

#: What waits to get onto the wire: some milliseconds at 1 Gbit/s.
BUFFER_BYTES = 2**20
READ_BYTES = 2**18


@define(eq=False)
class Wire:
    """One direction: when bytes arrive that are sent now.

    `rate` is bytes a second, `delay` seconds; times are seconds of one clock.
    """

    rate: float
    delay: float
    _free_at: float = 0.0

    def arrival(self, now: float, count: int) -> float:
        """When the last of so many bytes is at the other end."""
        self._free_at = max(self._free_at, now) + count / self.rate
        return self._free_at + self.delay

    @property
    def holds(self) -> int:
        """Bytes that are under way when all is full."""
        return int(self.rate * self.delay) + BUFFER_BYTES


@define(eq=False)
class Direction(asyncio.Protocol):
    """Takes bytes of one end and gives them to the other when their time has come."""

    wire: Wire
    transport: asyncio.Transport | None = None
    other: Direction | None = None
    _queue: deque[tuple[float, bytes]] = field(factory=deque)
    _waiting: int = 0
    _paused: bool = False
    _stuck: bool = False
    _timer: asyncio.TimerHandle | None = None
    _ended: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """This end is there."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(2**20)
        if self.other is None:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes get onto the wire."""
        now = asyncio.get_running_loop().time()
        self._queue.append((self.wire.arrival(now, len(data)), data))
        self._waiting += len(data)
        if self._waiting > self.wire.holds and not self._paused:
            assert self.transport is not None
            self._paused = True
            self.transport.pause_reading()
        self._deliver()

    def connection_lost(self, error: Exception | None) -> None:
        """The other end learns of it when all that was sent has arrived."""
        self._ended = True
        self._deliver()

    def pause_writing(self) -> None:
        """This end does not take what comes from the other."""
        if self.other is not None:
            self.other._stuck = True

    def resume_writing(self) -> None:
        """It does again."""
        if self.other is not None:
            self.other._stuck = False
            self.other._deliver()

    def _deliver(self) -> None:
        """What has arrived goes to the other end."""
        if self.other is None or self.other.transport is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._queue and self._queue[0][0] <= now and not self._stuck:
            _, data = self._queue.popleft()
            self._waiting -= len(data)
            self.other.transport.write(data)
        if self._paused and self._waiting <= self.wire.holds and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        if self._queue and not self._stuck:
            if self._timer is None:
                self._timer = loop.call_at(self._queue[0][0], self._due)
        elif self._ended and not self._queue:
            self.other.transport.close()

    def _due(self) -> None:
        self._timer = None
        self._deliver()


async def serve(port: int, target: int, round_trip: float, rate: float) -> None:
    """Relay connections until cancelled; `rate` in bytes a second."""
    loop = asyncio.get_running_loop()
    there, back = (Wire(rate, round_trip / 2) for _ in range(2))
    joins: set[asyncio.Task[None]] = set()

    def accepted() -> Direction:
        client = Direction(there)

        async def join() -> None:
            server = Direction(back)
            server.other = client
            await loop.create_connection(lambda: server, "127.0.0.1", target)
            client.other = server
            assert client.transport is not None
            client.transport.resume_reading()
            server._deliver()

        task = loop.create_task(join())
        joins.add(task)
        task.add_done_callback(joins.discard)
        return client

    server = await loop.create_server(accepted, "127.0.0.1", port)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    """Relay until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--to", type=int, required=True, metavar="PORT")
    parser.add_argument("--round-trip", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=125.0, metavar="MB/S")
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.port, options.to, options.round_trip, options.rate * 1e6))


if __name__ == "__main__":
    main()
