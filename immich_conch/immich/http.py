"""Requests to one Immich server: limits, silence, retries, JSON.  It knows no route and no user.

treq does the HTTP.  Three of its habits are turned off, each for a reason: its cookie jar
(Immich sets a session cookie at log-in, which beats an API key, so one user's requests would run
as another), redirects (a credential must not travel to wherever an answer points), and
`Accept-Encoding: gzip` (sizes and ranges of originals would mean something else).  It is handed
URLs that are encoded already and a jar that does nothing, for these two were three quarters of its
part of a small call.  Its `timeout` ends at the headers, so silence is watched here, on the clock
that was handed in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http.cookiejar import Cookie, CookieJar
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from attrs import define, field, frozen
from hyperlink import URL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from immich_conch.errors import BadAnswer, Unreachable
from immich_conch.immich.limits import (
    MAX_ANSWER,
    MAX_ERROR,
    PARSE_IN_THREAD,
    RETRY_AFTER_PATIENCE,
    RETRY_PAUSES,
    SILENCE_TIMEOUT,
)
from immich_conch.immich.problems import (
    WIRE_ERRORS,
    cancelled,
    in_a_word,
    own_error,
    problem,
    retry_after,
    wire_problem,
)

T = TypeVar("T")
Threads = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function away from the reactor's thread."""

_ALWAYS: Mapping[bytes, list[bytes]] = {
    b"user-agent": [b"immich-conch"],
    b"accept": [b"application/json, */*"],
}
READ_BYTES = 2**18
"""What is read of an original at once; Twisted's own are 64 KiB."""

_PASSING = frozenset({502, 503, 504})
_TIMED_OUT = "Immich did not answer in time."


class Silence:
    """Calls `end` when nothing was heard for some seconds; stopped or restarted by the listener."""

    def __init__(self, clock: IReactorTime, end: Callable[[], object]) -> None:
        self.clock = clock
        self._end = end
        self._call: IDelayedCall | None = None
        self.over = False

    def heard(self, seconds: float = SILENCE_TIMEOUT) -> None:
        """Something was heard: the next thing is due within `seconds`."""
        if self._call is not None and self._call.active():
            self._call.reset(seconds)
        elif not self.over:
            self._call = self.clock.callLater(seconds, self._fire)

    def stop(self) -> None:
        """Nothing is expected for now."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _fire(self) -> None:
        self._call = None
        self.over = True
        self._end()


@implementer(IAgent)
class PlainAgent:
    """Asks for answers as they are: treq adds `Accept-Encoding: gzip` to every request."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Pass the request on, with headers that treq has made for it alone."""
        headers = Headers() if headers is None else headers
        headers.setRawHeaders(b"accept-encoding", [b"identity"])
        return self._agent.request(method, uri, headers, bodyProducer)


class _NoCookies(CookieJar):
    """Sends none and keeps none, without looking."""

    def add_cookie_header(self, request: Any) -> None:
        """None is sent."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """None is kept."""

    def __iter__(self) -> Iterator[Cookie]:
        return iter(())


class _Sent(Headers):
    """A request's headers: what Twisted's own copies of them check has been checked before."""

    def __repr__(self) -> str:
        """Without what is in them, which is a user's token."""
        return f"<headers of a request: {len(self._rawHeaders)}>"

    def copy(self) -> _Sent:
        """Another one with the same values."""
        headers = _Sent()
        headers._rawHeaders = {name: values.copy() for name, values in self._rawHeaders.items()}
        return headers


class _Encoded(URL):
    """A URL that is encoded already: treq would encode its host's name anew for every request."""

    text: str

    @classmethod
    def of(cls, text: str) -> _Encoded:
        """Without looking at it."""
        url = object.__new__(cls)
        url.text = text
        return url

    def to_uri(self) -> URL:
        """Itself."""
        return self

    def to_text(self, with_password: bool = False) -> str:
        """As it was given."""
        return self.text


@implementer(IBodyProducer)
class Whole:
    """A small body, written at once (treq's own needs the global reactor for a few bytes)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all of it."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All of it is in the transport's buffer already."""

    def resumeProducing(self) -> None:
        """All of it is in the transport's buffer already."""

    def stopProducing(self) -> None:
        """All of it is in the transport's buffer already."""


def _raw(transport: Any) -> Any:
    return getattr(transport, "_producer", None)


def read_more_at_once(transport: Any) -> None:
    """Read a large body in pieces of READ_BYTES, where there is a plain TCP connection below.

    The price of a piece is its way through the event loop and the HTTP parser.
    """
    raw = _raw(transport)
    if hasattr(raw, "bufferSize"):
        raw.bufferSize = READ_BYTES


def kill(transport: Any) -> None:
    """Close a response's connection at once.

    The transport that a body's protocol gets is a proxy without `abortConnection`; its
    `stopProducing` is a polite close, after which TLS reads on until the peer agrees.
    """
    raw = _raw(transport)
    if hasattr(raw, "abortConnection"):
        raw.abortConnection()
    elif transport is not None:
        transport.stopProducing()


class _Collector(Protocol):
    """Gathers a body of bounded size."""

    def __init__(self, clock: IReactorTime, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._drop())
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []
        self._silence = Silence(clock, lambda: self._fail(Unreachable(_TIMED_OUT)))

    def connectionMade(self) -> None:
        self._silence.heard()

    def dataReceived(self, data: bytes) -> None:
        self._silence.heard()
        self._size += len(data)
        if self._size > self._limit:
            self._fail(BadAnswer("Immich's answer is too large."))
        elif not self.done.called:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._silence.stop()
        if self.done.called:
            return
        # PotentialDataLoss: neither length nor chunks.  JSON that was cut does not parse.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(Unreachable())

    def _fail(self, error: Exception) -> None:
        if not self.done.called:
            self.done.errback(error)
        self._drop()

    def _drop(self) -> None:
        self._silence.stop()
        self._pieces.clear()
        kill(self.transport)


def _as_sent(url: URL) -> URL:
    """A URL in ASCII; hyperlink takes the host for a name also where it is an IPv6 address."""
    if ":" not in url.host:
        return url.to_uri()
    return url.replace(host="address").to_uri().replace(host=url.host)


@frozen
class Answer:
    """A whole answer; `tries` is how many it took."""

    code: int
    headers: Headers
    body: bytes = field(repr=False)
    tries: int = 1

    @property
    def pause(self) -> float | None:
        """Seconds of its Retry-After."""
        return retry_after(header(self.headers, b"retry-after"))


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header, or None."""
    values = headers.getRawHeaders(name)
    return values[0] if values else None


@define(eq=False)
class Http:
    """The request layer of one server.  `base` ends in `/api`; `jitter` gives 0 to 1."""

    base: str
    agent: IAgent
    clock: IReactorTime
    jitter: Callable[[], float]
    threads: Threads | None = None
    #: Whether every request is logged.
    trace: bool = False
    #: `base` as it is sent: a host name of other letters in its ASCII form.
    _uri: str = field(init=False, repr=False)
    _always: Headers = field(factory=lambda: _Sent(_ALWAYS), init=False, repr=False)
    _cookies: CookieJar = field(factory=_NoCookies, repr=False)
    _client: HTTPClient = field(init=False, repr=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        url = _as_sent(URL.from_text(self.base))
        self._uri = url.to_text()
        # Twisted would work the host out for each request.
        self._always.setRawHeaders(b"host", [url.authority().encode("ascii")])
        self._client = HTTPClient(PlainAgent(self.agent), cookiejar=self._cookies)  # type: ignore[arg-type]

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        producer: IBodyProducer | None = None,
        watch: Callable[[Silence], None] = lambda silence: silence.heard(),
    ) -> IResponse:
        """One request up to its answer's headers; the body is still to be read.

        `watch` is given the silence timer and starts it; who produces a body keeps it.  Raises
        Unreachable, BadAnswer, and whatever the producer of the body raised.
        """
        started = self.clock.seconds()
        sent = self._always.copy()
        for name, value in headers.items():
            sent.setRawHeaders(name, [value])
        url = self._uri + path
        if params:
            url += "?" + urlencode(params, quote_via=quote)
        code: int | str = "no answer"
        request: Deferred[Any] | None = None

        def give_up() -> None:
            if request is not None:
                request.cancel()

        silence = Silence(self.clock, give_up)
        try:
            # Watched before it starts: on a pooled connection the body is written at once.
            watch(silence)
            request = self._client.request(
                method,
                _Encoded.of(url),
                headers=sent,
                data=producer,
                cookies=self._cookies,
                allow_redirects=False,
                unbuffered=True,
                reactor=self.clock,  # type: ignore[arg-type]
            )
            response: Any = await request
            code = response.code
        except WIRE_ERRORS as error:
            code = in_a_word(error)
            if silence.over or isinstance(error, TimeoutError):
                raise Unreachable(_TIMED_OUT) from None
            mine = own_error(error)
            if mine is not None:
                raise mine from None
            if cancelled(error):
                raise CancelledError from None
            raise wire_problem(error) from error
        finally:
            silence.stop()
            if self.trace:
                self._log.info(
                    "{method} {path}: {code} after {seconds:.3f} s",
                    method=method,
                    path=path,
                    code=code,
                    seconds=self.clock.seconds() - started,
                )
        return response  # type: ignore[no-any-return]

    async def stream(
        self, method: str, path: str, headers: Mapping[str, str], **more: Any
    ) -> IResponse:
        """Like `send` for what may be repeated, tried again as `answer` does; body unread."""
        for pause in (*RETRY_PAUSES, None):
            try:
                response = await self.send(method, path, headers, **more)
            except Unreachable as error:
                if pause is None or isinstance(error, BadAnswer) or error.text == _TIMED_OUT:
                    raise
            else:
                if pause is None or response.code not in _PASSING:
                    return response
                self.drop(response)
            await self._pause(pause)
        raise AssertionError("the last try returns or raises")

    def drop(self, response: IResponse) -> None:
        """Close the connection of a response whose body nobody wants."""
        collector = _Collector(self.clock, 0)
        collector.done.addErrback(lambda _: None)
        response.deliverBody(collector)
        collector.done.cancel()

    async def collect(self, response: IResponse, limit: int) -> bytes:
        """A response's body; raises BadAnswer above `limit` bytes, Unreachable when it breaks."""
        collector = _Collector(self.clock, limit if response.code < 400 else MAX_ERROR)
        response.deliverBody(collector)
        return await collector.done

    async def answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        limit: int = MAX_ANSWER,
        retry: bool = True,
    ) -> Answer:
        """A whole answer of any status.  With `retry` a connection that breaks, 502, 503 and 504
        are tried again after growing pauses; silence and garbage are not."""
        body = None
        if data is not None:
            body = json.dumps(data, separators=(",", ":")).encode()
            headers = {**headers, "content-type": "application/json"}
        pauses = list(RETRY_PAUSES) if retry else []
        for tries in range(1, len(pauses) + 2):
            last = tries > len(pauses)
            try:
                producer = None if body is None else Whole(body)
                response = await self.send(method, path, headers, params=params, producer=producer)
                got = Answer(
                    response.code, response.headers, await self.collect(response, limit), tries
                )
            except Unreachable as error:
                if last or isinstance(error, BadAnswer) or error.text == _TIMED_OUT:
                    raise
            else:
                patient = got.pause is None or got.pause <= RETRY_AFTER_PATIENCE
                if last or got.code not in _PASSING or not patient:
                    return got
            await self._pause(pauses[tries - 1])
        raise AssertionError("the last try returns or raises")

    async def read(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parse: Callable[[Any], T],
        *,
        login: bool = False,
        **more: Any,
    ) -> T:
        """The JSON of a successful answer as `parse` understands it; else the error it means."""
        got = await self.answer(method, path, headers, **more)
        return await self.parsed(got, parse, login=login)

    async def parsed(self, got: Answer, parse: Callable[[Any], T], *, login: bool = False) -> T:
        """What a whole answer says; large ones are parsed in a thread."""
        if not 200 <= got.code < 300:
            raise problem(got.code, got.body, got.pause, login=login)

        def work() -> T:
            return parse(loads(got.body))

        if len(got.body) > PARSE_IN_THREAD and self.threads is not None:
            return await self.threads(work)  # type: ignore[no-any-return]
        return work()

    async def done(self, method: str, path: str, headers: Mapping[str, str], **more: Any) -> Answer:
        """Like `read` where only success matters."""
        got = await self.answer(method, path, headers, **more)
        if not 200 <= got.code < 300:
            raise problem(got.code, got.body, got.pause)
        return got

    async def _pause(self, seconds: float) -> None:
        await deferLater(self.clock, seconds * (1 + self.jitter() / 2))


def _same(item: dict[str, Any]) -> dict[str, Any]:
    return item


def loads(body: bytes) -> Any:
    """JSON, or BadAnswer.

    The hook does nothing but be Python: the C parser never lets go of the interpreter lock by
    itself, so without it a thread would hold up the reactor as long as no thread at all.
    """
    try:
        return json.loads(body, object_hook=_same)
    except (ValueError, RecursionError) as error:
        raise BadAnswer() from error
