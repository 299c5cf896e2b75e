"""The agent below treq takes the server's address apart once; Twisted's own, which does so for
every request, is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers

from immich_conch.immich.client import _Agent
from immich_conch.immich.http import Http, _Sent

BASES = ["http://immich:2283", "https://photos.example.com", "http://[::1]:8080", "http://h:80"]


class Noting:
    """Notes the request that would go out, and where."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.asked: list[Any] = []

    def _getEndpoint(self, uri: URI) -> Any:
        return (uri.scheme, uri.host, uri.port)

    def _requestWithEndpoint(
        self, key: Any, endpoint: Any, method: bytes, uri: URI, *rest: Any
    ) -> Deferred[Any]:
        self.asked.append((key, endpoint, method, uri.netloc, *rest))
        return succeed(None)


class Ours(Noting, _Agent):
    pass


class Theirs(Noting, Agent):
    pass


targets = st.text(st.sampled_from("ab/%?=&;.~#é \n"), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(BASES), targets), min_size=1, max_size=6))
@example([(BASES[0], "/api/a"), (BASES[0] + "0", "/api/a"), (BASES[0], "/api/b?c=d")])
@example([(BASES[0], "/a;b?c;d"), (BASES[0], "/a;b?c;d"), (BASES[0], "/a?b?c#d")])
def test_every_request_is_the_one_that_twisted_would_make(uris: list[tuple[str, str]]) -> None:
    ours, theirs = Ours(Clock()), Theirs(Clock())
    headers = Headers({"accept": ["*/*"]})
    for base, target in uris:
        uri = (base + "/api" + target).encode()
        failed = []
        for agent in (ours, theirs):
            try:
                agent.request(b"GET", uri, headers, None)
            except ValueError as error:
                failed.append(str(error))
        assert len(failed) in (0, 2), (uri, failed)
    assert ours.asked == theirs.asked


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("http://immich:2283/api", b"immich:2283"),
        ("http://immich/api", b"immich"),
        ("http://immich:80/api", b"immich"),
        ("https://photos.example.com:443/api", b"photos.example.com"),
        ("https://photos.example.com:80/api", b"photos.example.com:80"),
        ("http://bücher.example/api", b"xn--bcher-kva.example"),
        ("http://[::1]:2283/api", b"[::1]:2283"),
        ("https://[fd00::1]/api", b"[fd00::1]"),
    ],
)
def test_the_host_is_named_as_twisted_would_name_it(base: str, host: bytes) -> None:
    http = Http(base, Agent(Clock()), Clock(), lambda: 0.0)  # type: ignore[arg-type]
    assert http._always.getRawHeaders(b"host") == [host]
    uri = URI.fromBytes(http._uri.encode())
    assert Agent(Clock())._computeHostValue(uri.scheme, uri.host, uri.port) == host  # type: ignore[no-untyped-call]


@given(st.dictionaries(st.sampled_from(["a", "B", "x-y"]), st.lists(st.text("ab, ", min_size=1))))
def test_a_copy_of_headers_has_the_same_values_and_none_in_common(
    values: dict[str, list[str]],
) -> None:
    sent = _Sent(values)
    copy = sent.copy()
    assert copy == sent == Headers(values).copy()
    copy.addRawHeader("a", "more")
    copy.setRawHeaders("x-y", ["other"])
    assert sent == Headers(values)
