"""`twistd immich-sftp`: Options and makeService, the one place that knows everything.

Only this module touches the reactor and the environment.  What is wrong with the settings, the
host keys, the spool directory or an endpoint is one line on stderr and exit status 1.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.application.service import IService, MultiService, Service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThreadPool
from twisted.python import usage

from immich_conch import settings as settings_module
from immich_conch import volumes
from immich_conch.accounts import Accounts
from immich_conch.auth import KEY_USER, ImmichChecker, Realm
from immich_conch.counters import Counters
from immich_conch.demo import DemoImmich
from immich_conch.demo.library import EMAIL as DEMO_EMAIL
from immich_conch.demo.library import PASSWORD as DEMO_PASSWORD
from immich_conch.demo.library import seed
from immich_conch.errors import SettingsError
from immich_conch.guard.addresses import Atlas
from immich_conch.guard.admission import Admission, Caps, Startups
from immich_conch.guard.defender import Defender, Rules
from immich_conch.guard.gate import Guard, Scores
from immich_conch.guard.gateways import between
from immich_conch.guard.throttle import Throttle
from immich_conch.immich.client import ImmichServer, connect
from immich_conch.key_checker import KeyChecker
from immich_conch.loading import load
from immich_conch.logins import Logins
from immich_conch.parsing import parse_bool
from immich_conch.process import prepare
from immich_conch.service import Listener, SFTPService
from immich_conch.settings import Settings
from immich_conch.ssh.algorithms import AlgorithmError, Algorithms
from immich_conch.ssh.factory import Factory
from immich_conch.ssh.hostkeys import HostKeyError, fingerprints, load_host_keys
from immich_conch.ssh.networks import within
from immich_conch.ssh.proxy import ProxyFactory
from immich_conch.transfer.running_hash import Threads
from immich_conch.transfer.spool import Limits, Spool
from immich_conch.users_file import UsersFile

T = TypeVar("T")


class Options(usage.Options):
    """Command-line options, made from the table in `settings`."""

    synopsis = "[options]"
    longdesc = (
        "Serves the users of an Immich server over SFTP. Every option has an environment twin: "
        "IMMICH_HOST for --immich-host, TZ for --time-zone, and IMMICH_CONCH_SPOOL_DIR for "
        "--spool-dir and so on; --config names a TOML file with the same keys."
    )

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.given: dict[str, Any] = {}
        self.environment = os.environ if environment is None else environment
        self.settings = Settings()
        super().__init__()

    optParameters = [  # noqa: RUF012 -- usage.Options reads it so
        ["config", None, "", "TOML file with settings (IMMICH_CONCH_CONFIG)."],
        *(
            [settings_module.option_name(field.name), None, None, field.metadata["doc"]]
            for field in settings_module.fields()
            if field.metadata["parse"] is not parse_bool and not field.metadata["many"]
        ),
    ]

    def opt_version(self) -> None:
        """Print the version and exit."""
        from immich_conch import __version__

        print(f"immich-conch {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Parse; whatever is wrong is one line and exit status 1, not a page of help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise _wrong(error) from None

    def postOptions(self) -> None:
        """Join command line, environment and file."""
        for field in settings_module.fields():
            name = settings_module.option_name(field.name)
            if self.get(name) is not None:
                self.given[field.name] = self[name]
        try:
            self.settings = load(self.given, self.environment, self["config"])
        except SettingsError as error:
            raise _wrong(error) from None

    def parseArgs(self, *args: str) -> None:
        """There are options only."""
        if args:
            raise usage.UsageError(f"{args[0]}: there are only options")


def _wrong(error: Exception) -> SystemExit:
    text = " ".join(str(error).split())
    return SystemExit(f"immich-sftp: {text}")


def _add_methods() -> None:
    """Flags and repeatable options are methods in usage.Options; the table makes them."""

    def flag(name: str, doc: str) -> Callable[[Options], None]:
        def opt(self: Options) -> None:
            self.given[name] = "yes"

        opt.__doc__ = doc
        return opt

    def repeated(name: str, doc: str) -> Callable[[Options, str], None]:
        def opt(self: Options, value: str) -> None:
            self.given.setdefault(name, []).append(value)

        opt.__doc__ = doc
        return opt

    for field in settings_module.fields():
        doc = field.metadata["doc"]
        if field.metadata["parse"] is parse_bool:
            setattr(Options, f"opt_{field.name}", flag(field.name, doc))
        elif field.metadata["many"]:
            setattr(Options, f"opt_{field.name}", repeated(field.name, doc))


_add_methods()


class Demo(Service):
    """The embedded demo Immich, on a loopback port that is known before it listens."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.settings = settings
        self.reactor = reactor
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.port: Any = None
        #: Fires when nobody needs the demo any more.
        self.after: Deferred[Any] = Deferred()

    def privilegedStartService(self) -> None:
        """Seed the library and listen."""
        self.demo = DemoImmich(
            version=self.settings.demo_version,
            clock=self.reactor,
            directory=self.settings.demo_dir or None,
        )
        seed(self.demo)
        site = self.demo.site()
        # Its access log would be most of what `twistd -n` shows.
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        self.socket.listen()
        self.socket.setblocking(False)
        self.port = self.reactor.adoptStreamPort(self.socket.fileno(), socket.AF_INET, site)
        self.socket.close()

    def startService(self) -> None:
        """Say how to get in; on the log, which `twistd -n` writes to the terminal."""
        super().startService()
        self.reactor.callWhenRunning(print, _invitation(self.settings.endpoint), flush=True)

    def stopService(self) -> Deferred[Any]:
        """Stop listening and let go of the files."""
        super().stopService()
        # What is sealed still has to get in: services stop side by side.
        stopped = self.after.addBoth(lambda _: maybeDeferred(self.port.stopListening))
        return stopped.addBoth(lambda _: self.demo.close())


def _invitation(endpoints: Sequence[str]) -> str:
    match = re.match(r"tcp6?:(?:port=)?(\d+)", endpoints[0])
    port = match[1] if match else "PORT"
    return (
        f"The demo library is ready. User {DEMO_EMAIL}, password {DEMO_PASSWORD}. Try:\n\n"
        f"    sftp -P {port} -o User={DEMO_EMAIL} 127.0.0.1\n"
    )


def _in_thread(reactor: Any) -> Threads:
    """Runs blocking work in the reactor's threads."""

    def run(work: Callable[[], T]) -> Awaitable[T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), work)

    return run


def makeService(options: Options, reactor: Any = None) -> IService:
    """The whole service; raises SystemExit with one line for what is wrong at the start."""
    if reactor is None:
        from twisted.internet import reactor as default_reactor

        reactor = default_reactor
    settings = options.settings
    try:
        return _assemble(settings, reactor)
    except SettingsError as error:
        raise _wrong(error) from None


def _checkers(
    settings: Settings, server: ImmichServer, counters: Counters, logins: Logins, reactor: Any
) -> list[ICredentialsChecker]:
    """A checker for each way to log in; the transport offers what these take."""
    checkers: list[ICredentialsChecker] = []
    if settings.password_login:
        checkers.append(ImmichChecker(server, counters, logins))
    if settings.users_file:
        try:
            users = UsersFile.open(settings.users_file, reactor)
        except SettingsError as error:
            raise SettingsError(f"--users-file: {error}") from None
        checkers.append(KeyChecker(server, users, counters, logins, time.time))
    return checkers


def _guard(settings: Settings, reactor: Any, counters: Counters) -> Guard:
    """Caps, scores and bans as the settings want them."""
    rules = Rules(
        settings.ban_threshold, settings.ban_observation, settings.ban_time, settings.ban_time_max
    )
    points = {name.replace("-", "_"): value for name, value in settings.ban_scores}
    return Guard(
        atlas=Atlas(settings.allow_networks, settings.deny_networks, settings.addresses, between()),
        admission=Admission(
            Caps(
                Startups(*settings.max_startups),
                settings.address_startups,
                settings.max_per_address,
                settings.max_connections,
            ),
            random.random,
        ),
        addresses=Defender(rules, reactor),
        # Whoever knows a name could shut its user out: not for longer each time.
        users=Defender(rules, reactor, "user ", growing=False),
        scores=Scores(**points),
        counters=counters,
        shared=frozenset((KEY_USER,)),
    )


def accounts_of(
    settings: Settings, reactor: Any, in_thread: Threads, counters: Counters
) -> Accounts:
    """Everybody's uploads and catalogs, over the spool of these settings; raises SettingsError."""
    spool = Spool.make(
        settings.spool_dir,
        settings.spool_sync,
        Limits(settings.spool_limit, settings.spool_user_limit, settings.spool_min_free),
    )
    spool.threads = in_thread
    return Accounts(
        settings=settings,
        spool=spool,
        clock=reactor,
        now=time.time,
        in_thread=in_thread,
        counters=counters,
    )


def _assemble(settings: Settings, reactor: Any) -> MultiService:
    prepare()
    service = MultiService()
    in_thread = _in_thread(reactor)
    demo = Demo(settings, reactor) if settings.demo else None
    if demo is not None:
        demo.setServiceParent(service)
        settings = attrs.evolve(settings, immich_host=demo.url)
    ca_file = Path(settings.immich_ca_file) if settings.immich_ca_file else None
    try:
        server = connect(
            reactor,
            settings.immich_host,
            ca_file,
            zone=settings.time_zone or UTC,
            trace=settings.log_requests,
        )
    except SettingsError as error:
        raise SettingsError(f"--immich-ca-file: {error}") from None
    try:
        host_keys = load_host_keys(settings.host_key_dir)
    except HostKeyError as error:
        raise SettingsError(f"--host-key-dir: {error}") from None
    lists = ("kex", "ciphers", "macs", "host_key_algorithms")
    try:
        algorithms = Algorithms.chosen(
            host_keys,
            settings.algorithms == "strict",
            {settings_module.option_name(name): getattr(settings, name) for name in lists},
        )
    except AlgorithmError as error:
        raise SettingsError(f"--{error}") from None
    counters = Counters()
    accounts = accounts_of(settings, reactor, in_thread, counters)
    logins = Logins(
        accounts, Throttle(settings.login_rate, reactor), reactor, settings.login_memory
    )
    portal = Portal(
        Realm(accounts, reactor, time.time, in_thread, settings.max_per_user),
        _checkers(settings, server, counters, logins, reactor),
    )
    main = SFTPService(server, accounts, reactor)
    main.setServiceParent(service)
    if demo is not None:
        demo.after = main.finished
    guard = _guard(settings, reactor, counters)
    main.at_stop += [guard.stop, logins.stop]
    factory = Factory(
        portal,
        host_keys,
        reactor,
        failure_delay=settings.login_delay,
        gate=guard,
        algorithms=algorithms,
        max_channels=settings.max_channels,
        keepalive=settings.keepalive,
        idle_timeout=settings.idle_timeout,
        connection_opened=main.connection_opened,
        connection_closed=main.connection_closed,
    )
    for fingerprint in fingerprints(host_keys):
        main.lines.append(f"host key {fingerprint}")
    main.warnings += volumes.warnings(
        {"the host keys": settings.host_key_dir, "uploads on their way": settings.spool_dir}
    )
    for text in settings.endpoint:
        _listener(settings, reactor, factory, text).setServiceParent(service)
    return service


#: Twisted's prefix of endpoints behind a proxy; what follows is an endpoint itself.
_PROXY = "haproxy:"


def _listener(settings: Settings, reactor: Any, factory: Factory, text: str) -> Listener:
    try:
        # The prefix is taken off: `ssh/proxy.py` says what is wrong with Twisted's own.
        endpoint = serverFromString(reactor, text.removeprefix(_PROXY))
    except (IndexError, AttributeError):
        # `systemd:` looks the socket up at once, and the family among the names of `socket`.
        raise SettingsError(f"--endpoint: {text!r}: no such socket was handed over") from None
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"--endpoint: {text!r} is no endpoint: {error}") from None
    if not text.startswith(_PROXY):
        return Listener(endpoint, factory, text)
    networks = settings.proxy_networks
    if not networks and not text.startswith(_PROXY + "unix:"):
        raise SettingsError(
            f"--endpoint: {text!r} believes what its proxies say: name their networks "
            "with --proxy-networks"
        )

    def trusted(host: str) -> bool:
        return within(host, networks)

    return Listener(endpoint, ProxyFactory(factory, trusted, reactor), text)
