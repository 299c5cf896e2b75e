"""An Immich server before anybody has logged in, and the one way to make one for a real network.

`ImmichServer` takes any IAgent, so that the tests join it to a server in memory; `connect` gives
it a pooled one.  There is no way to switch certificate checks off: a private authority is handed
in as `ca_file`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from attrs import evolve
from OpenSSL import crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    _HTTP11ClientFactory,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from immich_conch.errors import (
    BadAnswer,
    BadCredentials,
    ConchError,
    MissingPermission,
    SessionRevoked,
    SettingsError,
    Unreachable,
)
from immich_conch.immich.dialects import Dialect, Misfit, dialect_of
from immich_conch.immich.http import Http, Threads
from immich_conch.immich.interfaces import IImmichServer
from immich_conch.immich.limits import (
    CACHED_CONNECTION_TIMEOUT,
    CONNECT_TIMEOUT,
    FEATURES_KEPT,
    MAX_IDLE_CONNECTIONS,
    MAX_KEY,
    MEDIA_TYPES_KEPT,
    VERSION_KEPT,
)
from immich_conch.immich.model import MediaTypes, User, Version
from immich_conch.immich.requests import Credential
from immich_conch.immich.session import Session

T = TypeVar("T")

#: A path and a query that taking apart and putting together again leave as they are.
_TARGET = re.compile(rb"/(?!/)[!\"$-:<-~]*(?<!\?)")

_PEM_END = "-----END CERTIFICATE-----"


def base_url(url: str) -> str:
    """The URL without a trailing slash or `/api`; raises SettingsError for what is no such URL.

    A path before it is kept: Immich may live behind a prefix of a proxy.
    """
    try:
        parts = urlsplit(url.strip())
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise SettingsError(f"The Immich URL is not valid: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise SettingsError("The Immich URL has to look like http://host:2283.")
    if parts.query or parts.fragment or parts.username is not None:
        raise SettingsError("The Immich URL may have no query, fragment or user name.")
    path = parts.path.rstrip("/")
    path = path.removesuffix("/api").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


@implementer(IImmichServer)
class ImmichServer:
    """IImmichServer over any IAgent.

    `zone` is the offset of the dates that are sent; `jitter` gives numbers from 0 to 1.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        agent: IAgent,
        clock: IReactorTime,
        *,
        threads: Threads | None = None,
        zone: tzinfo = UTC,
        jitter: Callable[[], float] = random.random,
        trace: bool = False,
    ) -> None:
        self.url = base_url(url)
        self.http = Http(self.url + "/api", agent, clock, jitter, threads, trace)
        self._clock = clock
        self._zone = zone
        # Values believed for a while: name -> (until, value).
        self._kept: dict[str, tuple[float, Any]] = {}

    def __repr__(self) -> str:
        return f"<ImmichServer {self.url}>"

    async def version(self) -> Version:
        """The version Immich reports now."""
        version = await self.http.read("GET", "/server/version", {}, Version.from_json)
        dialect_of(version)
        self._keep("version", VERSION_KEPT, version)
        return version

    async def dialect(self, fresh: bool = False) -> Dialect:
        """The dialect the server speaks, as of the last five minutes or as of now."""
        version = None if fresh else self._get("version")
        return dialect_of(version or await self.version())

    async def in_dialect(self, work: Callable[[Dialect], Awaitable[T]]) -> T:
        """Run `work` in the server's dialect.

        An answer that does not fit it may mean that Immich was upgraded meanwhile: the version is
        asked for and the work done once more, this time taking albums of either form.
        """
        dialect = await self.dialect()
        try:
            return await work(dialect)
        except BadAnswer as error:
            fresh = await self.dialect(fresh=True)
            if fresh is dialect and not isinstance(error, Misfit):
                raise
            if fresh is not dialect:
                self._log.info("Immich is now spoken to as {name}", name=fresh.name)
        return await work(evolve(fresh, owner_apart=None))

    async def media_types(self) -> MediaTypes:
        """The extensions Immich takes."""
        return await self._cached("/server/media-types", MEDIA_TYPES_KEPT, MediaTypes.from_json)

    async def trash_enabled(self) -> bool:
        """Whether a plain delete goes to the trash."""
        return await self._cached("/server/features", FEATURES_KEPT, _trash_switch)

    async def log_in(self, email: str, password: str) -> Session:
        """Open a session with e-mail and password."""
        await self.dialect()
        token = await self.http.read(
            "POST",
            "/auth/login",
            {},
            _token,
            data={"email": email, "password": password},
            retry=False,
            login=True,
        )
        credential = Credential(token, is_key=False)
        try:
            user = await self.http.read("GET", "/users/me", credential.headers, User.from_json)
        except ConchError:
            nobody = User(id="", email=email, name="")
            await Session(self, nobody, credential).log_out()
            raise
        return Session(self, user, credential, zone=self._zone)

    async def use_key(self, key: str) -> Session:
        """A session that sends an API key."""
        if not (key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY) or " " in key:
            raise BadCredentials
        await self.dialect()
        credential = Credential(key, is_key=True)
        try:
            user = await self.http.read("GET", "/users/me", credential.headers, User.from_json)
        except SessionRevoked:
            raise BadCredentials from None
        permissions = await self._permissions(credential)
        return Session(self, user, credential, permissions, self._zone)

    async def _permissions(self, credential: Credential) -> frozenset[str] | None:
        try:
            return await self.http.read("GET", "/api-keys/me", credential.headers, _permission_list)
        except Unreachable:
            raise
        except ConchError as error:
            # Its list cannot be read; what it may not do, Immich will say.
            permission = error.permission if isinstance(error, MissingPermission) else ""
            self._log.debug("the key's permissions stay unknown {why}", why=permission)
            return None

    async def _cached(self, path: str, seconds: float, parse: Callable[[Any], T]) -> T:
        value: T | None = self._get(path)
        if value is None:
            value = await self.http.read("GET", path, {}, parse)
            self._keep(path, seconds, value)
        return value

    def _get(self, name: str) -> Any:
        until, value = self._kept.get(name, (0.0, None))
        return value if self._clock.seconds() < until else None

    def _keep(self, name: str, seconds: float, value: Any) -> None:
        self._kept[name] = (self._clock.seconds() + seconds, value)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Where a server is reached."""

    def __init__(self, reactor: Any, policy: BrowserLikePolicyForHTTPS) -> None:
        self._reactor = reactor
        self._policy = policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The endpoint of a URI's host; `_Agent` asks once."""
        host = uri.host.decode("ascii").strip("[]")
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, host, uri.port, CONNECT_TIMEOUT
        )
        if uri.scheme == b"https":
            connector = self._policy.creatorForNetloc(uri.host, uri.port)
            endpoint = wrapClientTLS(connector, endpoint)
        return endpoint


class _Agent(Agent):
    """Takes a server's address apart once: Twisted's own does so for every request."""

    _origin: bytes | None = None
    _address: URI
    _endpoint: IStreamClientEndpoint

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """As Twisted's own, which gets whatever is not the usual path and query."""
        origin = self._origin
        if origin is not None and uri.startswith(origin):
            target = uri[len(origin) :]
            if _TARGET.fullmatch(target):
                at = self._address
                key = (at.scheme, at.host, at.port)
                return self._requestWithEndpoint(
                    key, self._endpoint, method, at, headers, bodyProducer, target
                )
        else:
            at = URI.fromBytes(uri)
            self._endpoint = self._getEndpoint(at)  # type: ignore[no-untyped-call]
            self._origin, self._address = b"%b://%b" % (at.scheme, at.netloc), at
        return super().request(method, uri, headers, bodyProducer)


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False


def connect(
    reactor: Any,
    url: str,
    ca_file: Path | None = None,
    *,
    zone: tzinfo = UTC,
    jitter: Callable[[], float] = random.random,
    trace: bool = False,
) -> ImmichServer:
    """An Immich server on the network, over pooled connections.

    `ca_file` holds PEM certificates of the authorities to trust instead of the system's.  Raises
    SettingsError if it or the URL cannot be used.
    """
    pool = HTTPConnectionPool(reactor, persistent=True)
    # One line for every connection opened and closed tells nobody anything.
    pool._factory = _QuietFactory
    pool.maxPersistentPerHost = MAX_IDLE_CONNECTIONS
    # Twisted's own retry stays on: it repeats a bodyless GET or DELETE at once on a new connection
    # when Immich closed the old one in that very moment.  All others are up to `Http.answer`.
    pool.cachedConnectionTimeout = CACHED_CONNECTION_TIMEOUT
    policy = BrowserLikePolicyForHTTPS() if ca_file is None else trust_only(ca_file)
    agent = _Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
        reactor, _Endpoints(reactor, policy), pool
    )

    def threads(work: Callable[[], Any]) -> Awaitable[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), work)

    return ImmichServer(url, agent, reactor, threads=threads, zone=zone, jitter=jitter, trace=trace)


def trust_only(ca_file: Path) -> BrowserLikePolicyForHTTPS:
    """Certificate and host name checks with these authorities as the only trusted ones."""
    try:
        pieces = ca_file.read_text("ascii").split(_PEM_END)[:-1]
        authorities = [Certificate.loadPEM((piece + _PEM_END).encode()) for piece in pieces]
    except (OSError, ValueError, crypto.Error) as error:
        raise SettingsError(f"{ca_file}: no usable certificates ({error}).") from None
    if not authorities:
        raise SettingsError(f"{ca_file}: no certificate in it.")
    return BrowserLikePolicyForHTTPS(trustRoot=trustRootFromCertificates(authorities))


def _token(data: Any) -> str:
    token = data.get("accessToken") if isinstance(data, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise BadAnswer("Immich gave no token at log-in.")
    return token


def _trash_switch(data: Any) -> bool:
    switch = data.get("trash") if isinstance(data, dict) else None
    if not isinstance(switch, bool):
        raise BadAnswer("Immich does not say whether it has a trash.")
    return switch


def _permission_list(data: Any) -> frozenset[str] | None:
    permissions = data.get("permissions") if isinstance(data, dict) else None
    if not isinstance(permissions, list):
        raise BadAnswer("Immich does not say what the key may do.")
    return None if "all" in permissions else frozenset(map(str, permissions))
