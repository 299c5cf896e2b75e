"""The parts of the transfer benchmark that could be wrong without anybody seeing it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest

from benchmarks.bulk_immich import CATCH_UP, Pacer, size_of
from benchmarks.content import PERIOD, Content
from benchmarks.movers import Moved, matches
from benchmarks.peers import CannotMeasure
from benchmarks.process import cpu_seconds, tree_cpu_seconds
from benchmarks.relay import BUFFER_BYTES, Wire, serve
from benchmarks.tables import Beside, Series
from benchmarks.transfer_bench import cpu, interleaved, rate, slower
from benchmarks.uploading import TAIL_BYTES, Received, body_pieces
from immich_conch.demo.storage import Storage

# -- made-up files


def test_a_made_up_file_is_the_same_in_pieces_and_across_the_end_of_the_noise() -> None:
    content = Content("a.mp4", PERIOD + 5000)
    edge = PERIOD - content.shift
    whole = content.read(edge - 3000, 6000)
    assert whole == b"".join(content.read(edge - 3000 + at, 100) for at in range(0, 6000, 100))
    assert len({whole[at : at + 100] for at in range(0, 6000, 100)}) == 60


def test_a_made_up_file_ends_where_it_ends() -> None:
    content = Content("a.mp4", 1000)
    assert len(content.read(990, 100)) == 10
    assert content.read(1000, 1) == content.read(5000, 1) == b""
    assert content.read(0, 1000) != Content("b.mp4", 1000).read(0, 1000)


def test_a_file_with_one_wrong_byte_is_no_match(tmp_path: Path) -> None:
    content, path = Content("a.mp4", 3_000_000), tmp_path / "a.mp4"
    content.write(path)
    matches(path, content)
    assert content.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("r+b") as file:
        file.seek(2_999_999)
        last = file.read(1)
        file.seek(2_999_999)
        file.write(bytes((last[0] ^ 1,)))
    with pytest.raises(CannotMeasure):
        matches(path, content)
    with path.open("r+b") as file:
        file.seek(2_999_999)
        file.write(last + b"x")
    with pytest.raises(CannotMeasure):
        matches(path, content)


# -- pace


def test_two_senders_share_one_pace() -> None:
    pacer = Pacer(1000.0)
    # Each sends 100 bytes whenever it may; the time is that of the later one.
    now = [10.0, 10.0]
    for _ in range(50):
        for who in (0, 1):
            now[who] += pacer.wait(100, now[who])
    assert 100 * 100 / (max(now) - 10.0) == pytest.approx(1000, rel=0.02)


def test_a_sender_who_fell_behind_does_not_catch_up_on_everything() -> None:
    pacer = Pacer(1000.0)
    pacer.wait(100, 0.0)
    assert pacer.wait(1000, 60.0) == 0
    assert pacer.wait(1, 60.0) == pytest.approx(1.0 - CATCH_UP)


def test_without_a_pace_nobody_waits() -> None:
    assert Pacer().wait(2**40, 0.0) == 0


@pytest.mark.parametrize(("text", "size"), [("7", 7), ("3K", 3072), ("2m", 2**21), ("4G", 2**32)])
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert size_of(text) == size


# -- the long wire


def test_a_wire_delays_what_is_small_and_paces_what_is_much() -> None:
    wire = Wire(rate=1000.0, delay=0.05)
    assert wire.arrival(5.0, 1) == pytest.approx(5.051)
    # A second's worth at once arrives over a second, in the order it was sent.
    arrivals = [wire.arrival(6.0, 100) for _ in range(10)]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(7.05)
    # Idle time is not saved up.
    assert wire.arrival(60.0, 100) == pytest.approx(60.15)


def test_a_wire_holds_what_is_under_way_and_a_little_more() -> None:
    assert Wire(rate=125e6, delay=0.05).holds == 6_250_000 + BUFFER_BYTES


def test_the_relay_gives_every_byte_and_the_end_on_after_the_delay() -> None:
    """Through a real relay: what comes back, when, and that the end comes last."""
    sent = Content("wire", 3_000_000).read(0, 3_000_000)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(len(sent))
        writer.write(data)
        writer.close()

    async def run() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        target = await asyncio.start_server(echo, "127.0.0.1", 0)
        # A free port, for the relay is told one.
        probe = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        await probe.wait_closed()
        relay = loop.create_task(
            serve(port, target.sockets[0].getsockname()[1], round_trip=0.1, rate=30e6)
        )
        for _ in range(200):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        start = loop.time()
        writer.write(sent)
        got = await reader.read(-1)
        seconds = loop.time() - start
        writer.close()
        relay.cancel()
        target.close()
        return got, seconds

    got, seconds = asyncio.run(asyncio.wait_for(run(), 30))
    assert got == sent
    # There and back, and 3 MB at 30 MB/s each way.
    assert seconds >= 0.1 + 2 * 0.1 - 0.02


# -- uploads


BOUNDARY = "b0undary"
FIELDS = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="filename"\r\n\r\na.mp4\r\n'
).encode()
FILE_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="assetData"; filename="u.mp4"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
END = f"--{BOUNDARY}--\r\n".encode()


def _received(body: bytes, step: int, tmp_path: Path) -> Received:
    received = Received(Storage(tmp_path), f"multipart/form-data; boundary={BOUNDARY}")
    for at in range(0, len(body), step):
        received.write(memoryview(body)[at : at + step])
    return received


@pytest.mark.parametrize("step", [1000, TAIL_BYTES - 1, TAIL_BYTES, 300_000, 10**7])
@pytest.mark.parametrize("size", [0, 1, TAIL_BYTES, 1_000_000])
@pytest.mark.parametrize("fields_first", [True, False])
def test_an_upload_is_understood_wherever_it_is_cut(
    step: int, size: int, fields_first: bool, tmp_path: Path
) -> None:
    data = Content("up", size).read(0, size)
    file = FILE_HEAD + data + b"\r\n"
    body = (FIELDS + file if fields_first else file + FIELDS) + END
    parsed = _received(body, step, tmp_path).finish()
    assert not parsed.error
    assert parsed.fields == {"filename": "a.mp4"}
    assert parsed.file is not None
    assert parsed.file.size == size
    assert parsed.file.checksum == base64.b64encode(hashlib.sha1(data).digest()).decode()
    parsed.close()


def test_an_upload_that_was_cut_off_is_no_upload(tmp_path: Path) -> None:
    parsed = _received(FIELDS + FILE_HEAD + bytes(200_000), 1000, tmp_path).finish()
    assert parsed.error
    parsed.close()


def _headers(**values: str) -> Message:
    headers = Message()
    for name, value in values.items():
        headers[name.replace("_", "-")] = value
    return headers


def test_a_body_comes_out_of_its_chunks_and_leaves_the_next_request() -> None:
    chunks = [b"a" * 10, b"b" * 700_000, b"c"]
    wire = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    stream = io.BufferedReader(io.BytesIO(wire + b"0\r\n\r\nGET / HTTP/1.1\r\n"))  # type: ignore[arg-type]
    pieces = [bytes(p) for p in body_pieces(stream, _headers(Transfer_Encoding="chunked"))]
    assert b"".join(pieces) == b"".join(chunks)
    assert stream.readline() == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("wire", "headers"),
    [
        (b"5\r\nab", {"Transfer_Encoding": "chunked"}),
        (b"", {"Transfer_Encoding": "chunked"}),
        (b"abc", {"Content_Length": "4"}),
    ],
)
def test_a_body_that_ends_early_is_an_error(wire: bytes, headers: dict[str, str]) -> None:
    stream = io.BufferedReader(io.BytesIO(wire))  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        list(body_pieces(stream, _headers(**headers)))


# -- figures


def test_everybody_goes_first_in_turn() -> None:
    order: list[str] = []

    def work(name: str) -> Moved:
        order.append(name)
        return Moved(len(order))

    found = interleaved(3, *((lambda n=n: work(n)) for n in "abc"))  # type: ignore[misc]
    assert order == list("abcbcacab")
    assert [[int(moved.seconds) for moved in moves] for moves in found] == [
        [1, 6, 8],
        [2, 4, 9],
        [3, 5, 7],
    ]


def test_rates_are_of_a_million_bytes_and_costs_of_a_gib() -> None:
    moves = [Moved(2.0, 1.0)]
    assert rate("ours", 2**29, moves).values == pytest.approx((2**29 / 2e6,))
    assert cpu("ours", 2**29, moves).values == pytest.approx((2.0,))


def test_the_slower_peer_is_the_one_to_be_held_against() -> None:
    quick, slow = Series("curl", (9.0, 1.0, 9.0), "MB/s"), Series("sshd", (3.0, 2.0, 4.0), "MB/s")
    assert slower(quick, slow) is slow


def test_a_peer_without_a_mark_has_no_verdict() -> None:
    row = Beside("x", Series("ours", (3.0,)), Series("sshd", (2.0,)))
    assert row.met is None
    assert row.cells[1:] == ("sshd: 2 s (2..2)", "1.500 x", "")


def test_the_cpu_time_of_a_server_counts_that_of_its_children() -> None:
    """A shell that waits for a child that works."""
    work = f"{sys.executable} -c 'sum(range(10_000_000)); print(1, flush=True); input()'; true"
    with subprocess.Popen(
        ["/bin/sh", "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "1\n"
        alone, whole = cpu_seconds(shell.pid), tree_cpu_seconds(shell.pid)
        shell.communicate("\n")
    assert whole > alone + 0.05
