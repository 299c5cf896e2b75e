"""Makes the transports, and holds what they are to go by.

Conch's factory offers every algorithm it knows and signs with SHA-1 where it has an RSA key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.cred.portal import Portal
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory as ProtocolFactory

from immich_conch.ssh.admission import Gate, TurnedAway
from immich_conch.ssh.algorithms import Algorithms
from immich_conch.ssh.kex import REKEY_BYTES, REKEY_SECONDS
from immich_conch.ssh.liveness import KEEPALIVE_SECONDS
from immich_conch.ssh.primes import PRIMES
from immich_conch.ssh.quiet import QuietLogger
from immich_conch.ssh.session import MAX_CHANNELS, WINDOW_BYTES, Connection
from immich_conch.ssh.transport import FAILURE_DELAY, LOGIN_DEADLINE, Transport
from immich_conch.ssh.userauth import MAX_ATTEMPTS, UserAuth

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _SSHFactory = Any
else:
    _SSHFactory = SSHFactory


def _nothing(transport: Transport) -> None:
    pass


class Factory(_SSHFactory):
    """Makes a Transport for each connection.

    `host_keys` are private keys by format; times are seconds, `window` bytes.  A `keepalive` or
    `idle_timeout` of 0 asks or ends nobody.  `gate` says who may connect and hears what comes of
    it; `connection_opened` and `connection_closed` are called once each with the transport.
    """

    protocol = Transport
    noisy = False
    _log = QuietLogger()

    def __init__(
        self,
        portal: Portal,
        host_keys: Mapping[bytes, Key],
        clock: IReactorTime,
        *,
        login_deadline: float = LOGIN_DEADLINE,
        failure_delay: float = FAILURE_DELAY,
        max_attempts: int = MAX_ATTEMPTS,
        max_channels: int = MAX_CHANNELS,
        window: int = WINDOW_BYTES,
        rekey_bytes: int = REKEY_BYTES,
        rekey_seconds: float = REKEY_SECONDS,
        gate: Gate | None = None,
        algorithms: Algorithms | None = None,
        keepalive: float = KEEPALIVE_SECONDS,
        idle_timeout: float = 0.0,
        connection_opened: Callable[[Transport], None] = _nothing,
        connection_closed: Callable[[Transport], None] = _nothing,
    ) -> None:
        self.portal = portal
        self.clock = clock
        self.privateKeys = dict(host_keys)
        self.publicKeys = {kind: key.public() for kind, key in host_keys.items()}
        self.primes = PRIMES
        self.algorithms = algorithms or Algorithms.of(host_keys)
        self.login_deadline = login_deadline
        self.failure_delay = failure_delay
        self.max_attempts = max_attempts
        self.rekey_bytes = rekey_bytes
        self.rekey_seconds = rekey_seconds
        self.gate = Gate() if gate is None else gate
        self.keepalive = keepalive
        self.idle_timeout = idle_timeout
        self.connection_opened = connection_opened
        self.connection_closed = connection_closed
        self.services = {
            b"ssh-userauth": UserAuth,
            b"ssh-connection": partial(Connection, window=window, max_channels=max_channels),
        }

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A transport with lists of its own (trap 14: never on Conch's classes)."""
        visit = self.gate.enter(addr)
        if visit is None:
            return TurnedAway()
        # SSHFactory's buildProtocol would put the SHA-1 signatures of an RSA key back.
        transport: Any = ProtocolFactory.buildProtocol(self, addr)
        transport.algorithms = self.algorithms
        transport.client, transport.visit = addr, visit
        return transport
