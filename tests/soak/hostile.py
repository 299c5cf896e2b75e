"""Clients that vanish, are killed, guess, or say nothing; what they leave behind has to go."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import time
from contextlib import suppress

import paramiko
from rawsftp import F_READ, OPENDIR, READ, Raw, string

from .actor import LIBRARY, LIMIT, Actor, Told, TooLong


class Killed(Actor):
    """sftp, killed with -9 or stopped for ever in the middle of an upload."""

    def step(self) -> None:
        name, data = self.new(large=True)
        (self.directory / "up").write_bytes(data)
        # 8 Mbit/s: three MiB take three seconds.
        command = self.sftp_command(f"put up {self.album}/{name}", "-l", "8000")
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env={**os.environ, "HOME": str(self.directory), **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(self.dice.uniform(0.2, 2.5))
            if self.dice.random() < 0.3:
                # It hangs and its kernel goes on; the service has to notice by itself.
                os.killpg(process.pid, signal.SIGSTOP)
                self._stop.wait(30.0)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.tell({name: data}, False)


class Guesser(Actor):
    """Passwords that are none, of users who are none."""

    def step(self) -> None:
        name = f"guess-{random.randrange(10**6)}@example.com"
        transport = None
        try:
            transport = paramiko.Transport(("127.0.0.1", self.service.port))
            transport.banner_timeout = transport.auth_timeout = LIMIT
            transport.connect(username=name, password="guess")
            self.ledger.found(f"{name} came in")
        except TimeoutError as error:
            raise TooLong(f"a refusal took {LIMIT:.0f} s: {error!r}") from None
        except (paramiko.SSHException, OSError, EOFError):
            self.ledger.count("refused guesses")
        finally:
            if transport is not None:
                transport.close()


class HalfOpen(Actor):
    """TCP connections that say nothing, half a greeting, or nonsense, and are left or reset."""

    WORDS = (b"", b"SSH-2.0-", b"SSH-2.0-x\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100)

    def step(self) -> None:
        held = []
        for _ in range(5):
            with suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", self.service.port), timeout=5)
                held.append(connection)
                connection.sendall(self.dice.choice(self.WORDS))
        self._stop.wait(self.dice.uniform(0.5, 3.0))
        for connection in held:
            if self.dice.random() < 0.5:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
        self.ledger.count("half-open connections", len(held))


class Leaver(Actor):
    """Logs in, opens files and folders, asks for a lot, and is gone without reading a word."""

    def step(self) -> None:
        there = Raw(self.service, self.user)
        try:
            with there:
                for name in sorted(self.library)[:5]:
                    handle = there.open(f"/{LIBRARY}/{name}", F_READ)
                    for at in range(4):
                        there.send(READ, string(handle), struct.pack("!QL", at * 32768, 32768))
                    there.send(OPENDIR, string(f"/{LIBRARY}"))
                raw = there._transport.sock
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.close()
        except (OSError, EOFError, AssertionError, paramiko.SSHException) as error:
            raise Told(f"leaver: {error!r}") from None
        self.ledger.count("clients that left")


HOSTILE: tuple[type[Actor], ...] = (Killed, Guesser, HalfOpen, Leaver)
