"""An Immich in a process of its own that moves bulk bytes as fast as it can, or at a pace.

    python -m benchmarks.bulk_immich --file clip.mp4:1G --file long.mp4:4G --rate 150

prints `listening on http://127.0.0.1:PORT` and serves until it is told to stop (SIGTERM).  From
Python: `with bulk_immich.serving(place, {"clip.mp4": 2**30}, rate=150) as server:`, where `server`
is a `peers.Immich` with the process' `pid`.

There is one user (`peers.USER`, `peers.PASSWORD`) with one album, `ALBUM`, and in it the files
that `--file NAME:SIZE` names, `SIZE` with K, M or G for powers of 1,024; `--files N:SIZE` makes
`file-00.mp4` and so on.  Their bytes are those of `content.Content(NAME, SIZE)` and cost no disk
and no more memory than one block of noise, whatever their sizes.

Every small call is answered by our demo, through a connection of its own.  What is fast is

- `GET /api/assets/{id}/original`, with `Range`, `If-Range` and `ETag`: the demo decides,
  sendfile(2) out of the page cache answers;
- `POST /api/assets`, of known length or chunked, the fields before or after the file: the bytes
  go through SHA-1, as Immich's do, and are dropped; the asset is there afterwards, but reading
  its original gives nothing.

A thread for each connection; sendfile, reading and SHA-1 all let go of the interpreter.

`--rate` is in millions of bytes a second, for all originals together.  For the process that
measures there is `POST /bench` with `{"rate": MB_PER_SECOND or null}`, and `GET /bench`: `rate`,
`sent` and `received` bytes of bulk, `originals` and `uploads` begun.  The demo's `/control/…` is
there, too.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.threads import blockingCallFromThread

from benchmarks.content import PERIOD, Content, noise
from benchmarks.peers import PASSWORD, ROOT, USER, CannotMeasure, Immich, running
from benchmarks.uploading import Received, body_pieces
from immich_conch.demo.immich import VERSIONS, DemoImmich
from immich_conch.demo.routing import Answer
from immich_conch.demo.sending import encode
from immich_conch.demo.web import Plan, Web

reactor: Any = _reactor

ALBUM = "Bulk"
MODIFIED = 1_700_000_000
#: Bytes a sendfile is asked for at once; at a pace, less.
SEND_BYTES, PACED_BYTES = 2**22, 2**17
#: Seconds of its pace that a sender who fell behind may catch up on.
CATCH_UP = 0.02
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
#: Headers that are about one connection only (RFC 9110, 7.6.1), and those we write ourselves.
OWN_HEADERS = frozenset(("connection", "keep-alive", "transfer-encoding", "date", "server"))


@define(eq=False)
class Pacer:
    """Hands out the seconds to wait so that all together keep a rate; None is no rate.

    `rate` is bytes a second, times are seconds of one clock.
    """

    rate: float | None = None
    _free_at: float = 0.0
    _lock: threading.Lock = field(factory=threading.Lock)

    def wait(self, count: int, now: float) -> float:
        """How long to wait from `now` before so many bytes may go out."""
        if self.rate is None:
            return 0.0
        with self._lock:
            start = max(self._free_at, now - CATCH_UP)
            self._free_at = start + count / self.rate
            return max(0.0, start - now)


@define(eq=False)
class Asked:
    """A request as the demo's routes look at one."""

    headers: Any
    uri: bytes
    content: Any = field(factory=io.BytesIO)
    args: dict[bytes, list[bytes]] = field(factory=dict)

    def getHeader(self, name: str) -> bytes | None:
        """As Twisted's requests do."""
        value = self.headers.get(name)
        return None if value is None else str(value).encode("latin-1")


@define(eq=False)
class Bulk:
    """The demo, its noise in a file of memory, and what was moved."""

    demo: DemoImmich
    pacer: Pacer = field(factory=Pacer)
    contents: dict[str, Content] = field(factory=dict)
    #: The demo's own port.
    inner: int = 0
    web: Web = field(init=False)
    noise: int = field(init=False)
    counted: dict[str, int] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self.web = Web(self.demo.core, self.demo.faults, None)
        self.noise = os.memfd_create("noise")
        with os.fdopen(os.dup(self.noise), "wb") as file:
            file.write(noise())
        self.counted = dict.fromkeys(("sent", "received", "originals", "uploads"), 0)

    def count(self, what: str, more: int = 1) -> None:
        """Add to what `GET /bench` tells."""
        with self._lock:
            self.counted[what] += more

    def add(self, files: Mapping[str, int]) -> None:
        """The user, the album, and the files by name and size."""
        demo = self.demo
        user = demo.add_user(USER, PASSWORD, "Bench")
        assets = []
        for name, size in files.items():
            # Not the SHA-1 of the bytes, which would take seconds: nobody reads it again.
            checksum = base64.b64encode(hashlib.sha1(name.encode()).digest()).decode()
            made = demo._put_asset(
                user,
                name,
                None,
                MODIFIED,
                None,
                None,
                {"size": size, "checksum": checksum, "synthetic": name},
            )
            self.contents[made.id] = Content(name, size)
            assets.append(made)
        demo.add_album(user, ALBUM, assets)

    def answer(self, asked: Asked, plan: Plan) -> Answer:
        """The demo's answer, given by the reactor's thread, which owns the tables."""
        return blockingCallFromThread(reactor, self.web.answer, asked, plan)


class Handler(BaseHTTPRequestHandler):
    """One connection: originals and uploads at once, everything else from the demo."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16
    bulk: Bulk
    _inner: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""

    def finish(self) -> None:
        """The connection is over."""
        if self._inner is not None:
            self._inner.close()
        try:
            super().finish()
        except OSError:
            self.close_connection = True

    def handle(self) -> None:
        """Until the client has gone, which is no error."""
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        """Originals, counters, and what the demo answers."""
        path = urlsplit(self.path).path
        if path == "/bench":
            self._json({"rate": self._rate(), **self.bulk.counted})
        elif path.startswith("/api/assets/") and path.endswith("/original"):
            self._original()
        else:
            self._forward()

    def do_POST(self) -> None:
        """Uploads, the pace, and what the demo answers."""
        path = urlsplit(self.path).path
        if path == "/bench":
            rate = json.loads(self._body())["rate"]
            self.bulk.pacer.rate = None if rate is None else rate * 1e6
            self._json({"rate": self._rate()})
        elif path == "/api/assets":
            self._upload()
        else:
            self._forward()

    do_PUT = do_DELETE = do_PATCH = do_HEAD = lambda self: self._forward()

    def _rate(self) -> float | None:
        rate = self.bulk.pacer.rate
        return None if rate is None else rate / 1e6

    def _body(self) -> bytes:
        return b"".join(bytes(piece) for piece in body_pieces(self.rfile, self.headers))

    def _json(self, value: Any) -> None:
        self._whole(Answer(200, value))

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _whole(self, answer: Answer) -> None:
        body, headers = encode(answer)
        self._head(answer.status, {"Content-Length": "0", **headers})
        self.wfile.write(body)
        self.wfile.flush()

    # Originals

    def _original(self) -> None:
        bulk = self.bulk
        plan = bulk.web.plan("GET", self.path)
        answer = bulk.answer(Asked(self.headers, self.path.encode("latin-1")), plan)
        content = bulk.contents.get(plan.params.get("id", ""))
        if answer.pieces is None:
            self._whole(answer)
            return
        if answer.status not in (200, 206) or content is None or answer.length is None:
            body = b"".join(answer.pieces)
            self._head(answer.status, {**answer.headers, "Content-Length": str(len(body))})
            self.wfile.write(body)
            self.wfile.flush()
            return
        start = 0
        if answer.status == 206:
            start = int(answer.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
        bulk.count("originals")
        self._head(answer.status, {**answer.headers, "Content-Length": str(answer.length)})
        self.wfile.flush()
        self._send(content.shift + start, answer.length)

    def _send(self, at: int, left: int) -> None:
        """So many bytes of the noise, from `at` of its endless repetition."""
        bulk, out = self.bulk, self.connection.fileno()
        while left:
            place = at % PERIOD
            paced = bulk.pacer.rate is not None
            count = min(left, PERIOD - place, PACED_BYTES if paced else SEND_BYTES)
            if paced:
                time.sleep(bulk.pacer.wait(count, time.monotonic()))
            sent = os.sendfile(out, bulk.noise, place, count)
            bulk.count("sent", sent)
            at, left = at + sent, left - sent

    # Uploads

    def _upload(self) -> None:
        bulk = self.bulk
        bulk.count("uploads")
        plan = bulk.web.plan("POST", self.path)
        asked = Asked(self.headers, self.path.encode("latin-1"))
        early = blockingCallFromThread(reactor, bulk.web.before_upload, asked, plan)
        if early is not None:
            self.close_connection = True
            self._whole(early)
            return
        received = Received(bulk.demo.state.storage, self.headers.get("Content-Type", ""))
        for piece in body_pieces(self.rfile, self.headers):
            received.write(piece)
            bulk.count("received", len(piece))
        asked.content = received.finish()
        self._whole(bulk.answer(asked, plan))

    # Everything else

    def _forward(self) -> None:
        """The demo's answer; one without a length goes on as it comes."""
        if self._inner is None:
            self._inner = http.client.HTTPConnection("127.0.0.1", self.bulk.inner)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in (*OWN_HEADERS, "content-length", "expect")
        }
        body = self._body()
        for last in (False, True):
            try:
                self._inner.request(self.command, self.path, body or None, headers)
                answer = self._inner.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                # It closes what was idle for some seconds, and may not have seen this.
                self._inner.close()
                if last:
                    raise
        kept = {
            name: value for name, value in answer.getheaders() if name.lower() not in OWN_HEADERS
        }
        lengthy = answer.length is None and self.command != "HEAD"
        self._head(answer.status, {**kept, **({"Transfer-Encoding": "chunked"} if lengthy else {})})
        while piece := answer.read1(2**16):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if lengthy else piece)
            self.wfile.flush()
        # `read1` does not see the end of an answer with a length, and the next would be refused.
        answer.read()
        self.wfile.write(b"0\r\n\r\n" if lengthy else b"")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    """Listens on the loopback."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def size_of(text: str) -> int:
    """Bytes of `512M`; raises ValueError."""
    unit = UNITS.get(text[-1:].upper())
    return int(text) if unit is None else int(text[:-1]) * unit


def _named(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition(":")
    return name, size_of(size)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk_immich", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[-1])
    parser.add_argument("--file", type=_named, action="append", default=[], metavar="NAME:SIZE")
    parser.add_argument("--files", type=_named, action="append", default=[], metavar="N:SIZE")
    parser.add_argument("--rate", type=float, metavar="MB/S", help="pace of originals")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is told to stop."""
    options = _arguments(arguments)
    files = dict(options.file)
    for count, size in options.files:
        files.update({f"file-{number:02}.mp4": size for number in range(int(count))})
    demo = DemoImmich(options.version, control=True)
    bulk = Bulk(demo, Pacer(None if options.rate is None else options.rate * 1e6))
    bulk.add(files)
    bulk.inner = reactor.listenTCP(0, demo.site(), interface="127.0.0.1").getHost().port
    server = Server(("127.0.0.1", options.port), type("Bound", (Handler,), {"bulk": bulk}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reactor.addSystemEventTrigger("after", "shutdown", demo.close)
    # A thread that waits for a client must not keep the process.
    reactor.addSystemEventTrigger("after", "shutdown", signal.alarm, 2)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    reactor.run()


@contextmanager
def serving(
    place: Path, files: Mapping[str, int], rate: float | None = None, version: str = VERSIONS[-1]
) -> Iterator[Immich]:
    """One in a process of its own; `rate` in millions of bytes a second."""
    command = [sys.executable, "-m", "benchmarks.bulk_immich", "--version", version]
    for name, size in files.items():
        command += ["--file", f"{name}:{size}"]
    if rate is not None:
        command += ["--rate", str(rate)]
    log = place / "bulk.log"
    with running(command, log, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CannotMeasure(f"the bulk server does not start:\n{log.read_text()}")
        yield Immich(line.split()[-1], pid=process.pid)


if __name__ == "__main__":
    main()
