"""Real SSH clients against a server in this process: OpenSSH, asyncssh and paramiko."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
import pytest_twisted
from ssh_server import CLIENT_SECONDS, PASSWORD, Clients, World, asyncssh_at, host_keys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from immich_conch.ssh.publickey import SIGNATURES

__all__ = ["host_keys"]

MIB = 2**20


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clients(world: World, host_keys: Any, tmp_path: Path) -> Iterator[Clients]:
    port = reactor.listenTCP(0, world.factory(host_keys, failure_delay=0.02), interface="127.0.0.1")
    yield Clients(port.getHost().port, tmp_path)
    for transport in world.opened:
        if transport not in world.closed:
            transport.transport.abortConnection()
    pytest_twisted.blockon(port.stopListening())


async def settled(world: World) -> None:
    """Wait until every connection is over."""
    while len(world.closed) < len(world.opened):
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_100_mib_go_up_and_down_unchanged_and_sftp_ends_well(
    world: World, clients: Clients, tmp_path: Path
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(MIB) * 100)
    out, errors, status = await clients.sftp(
        f"put {source} /photo", "ls -l", f"get /photo {copy}", "bye"
    )
    assert status == 0, errors
    assert b"photo" in out
    digests = [hashlib.sha1(path.read_bytes()).digest() for path in (source, copy)]
    assert digests[0] == digests[1] == hashlib.sha1(world.files.files[b"/photo"]).digest()
    await settled(world)
    assert world.logouts == 1
    assert world.files.called().count("close") == 2 and "abort" not in world.files.called()


@pytest_twisted.ensureDeferred
async def test_psftp_lftp_and_the_like_end_by_eof_with_status_0(clients: Clients) -> None:
    out, errors, status = await clients.run("ssh", "-n", "ann@127.0.0.1", "-s", "sftp")
    assert (out, status) == (b"", 0), errors


@pytest_twisted.ensureDeferred
async def test_a_command_and_a_shell_get_one_line_and_status_1(clients: Clients) -> None:
    for arguments in (("ann@127.0.0.1", "md5sum"), ("ann@127.0.0.1",), ("-tt", "ann@127.0.0.1")):
        out, errors, status = await clients.run("ssh", *arguments)
        assert (out, status) == (b"", 1)
        assert b"This is an SFTP service; there is no shell here.\r\n" in errors


@pytest_twisted.ensureDeferred
async def test_a_command_that_the_avatar_knows_is_answered(world: World, clients: Clients) -> None:
    async def run(command: bytes, out: Any, err: Any) -> int | None:
        await deferLater(reactor, 0.01)
        if command != b"sha1sum":
            return None
        out(b"da39 -\n")
        return 0

    world.run_command = run
    out, _, status = await clients.run("ssh", "ann@127.0.0.1", "sha1sum")
    assert (out, status) == (b"da39 -\n", 0)
    out, errors, status = await clients.run("ssh", "ann@127.0.0.1", "rm")
    assert (out, status) == (b"", 1) and b"SFTP service" in errors


@pytest_twisted.ensureDeferred
async def test_the_seventh_password_of_a_connection_is_not_looked_at(
    world: World, clients: Clients
) -> None:
    _, errors, status = await clients.run("ssh", "ann@127.0.0.1", password="wrong")
    assert status == 255 and b"too many failed log-ins" in errors
    assert world.tried == [b"wrong"] * 6
    await settled(world)
    assert world.logouts == 0


@pytest_twisted.ensureDeferred
async def test_only_passwords_and_good_algorithms_are_offered(clients: Clients) -> None:
    _, errors, status = await clients.run("ssh", "-n", "-vv", "ann@127.0.0.1", "-s", "sftp")
    assert status == 0
    offered = errors.decode().partition("peer server KEXINIT proposal")[2]

    def names(label: str) -> list[str]:
        found = re.search(rf"debug2: {re.escape(label)}: (\S*)", offered)
        assert found is not None
        return found[1].split(",")

    hybrid = ["mlkem768x25519-sha256"]
    exchanges = names("KEX algorithms")
    assert exchanges[len(exchanges) - 8 :] == [
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group-exchange-sha256",
        "ext-info-s",
        "kex-strict-s-v00@openssh.com",
    ]
    assert exchanges[: len(exchanges) - 8] in ([], hybrid)
    assert names("host key algorithms") == [
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ]
    for direction in ("ctos", "stoc"):
        # What a client would prefer to the quickest that it has is left out.
        assert names(f"ciphers {direction}")[:2] == [
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
        ]
        assert names(f"MACs {direction}") == [
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha2-256",
            "hmac-sha2-512",
        ]
        assert names(f"compression {direction}") == ["none"]
    assert b"Authentications that can continue: password,keyboard-interactive\r" in errors
    assert b"remote software version immich-conch" in errors
    told = b"server-sig-algs=<" + b",".join(SIGNATURES) + b">"
    assert told in errors and not {b"ssh-rsa", b"ssh-dss"} & set(SIGNATURES)


@pytest.mark.parametrize(
    "option",
    [
        "-oKexAlgorithms=diffie-hellman-group-exchange-sha256",
        "-oKexAlgorithms=ecdh-sha2-nistp521",
        "-oHostKeyAlgorithms=rsa-sha2-512",
        "-oHostKeyAlgorithms=ecdsa-sha2-nistp256",
        "-oCiphers=aes256-ctr",
        "-oMACs=hmac-sha2-512",
        "-oRekeyLimit=1M",
    ],
)
@pytest_twisted.ensureDeferred
async def test_each_kind_of_algorithm_works(
    world: World, clients: Clients, tmp_path: Path, option: str
) -> None:
    world.files.files[b"/photo"] = bytearray(os.urandom(MIB) * 5)
    copy = tmp_path / "copy"
    _, errors, status = await clients.run("sftp", option, "ann@127.0.0.1:/photo", str(copy))
    assert status == 0, errors
    assert copy.read_bytes() == world.files.files[b"/photo"]


@pytest.mark.parametrize(
    "options",
    [
        ["-oKexAlgorithms=diffie-hellman-group14-sha1"],
        ["-oHostKeyAlgorithms=ssh-rsa"],
        ["-oCiphers=aes128-cbc"],
        ["-oMACs=hmac-sha1", "-oCiphers=aes128-ctr"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_old_algorithms_are_refused(clients: Clients, options: list[str]) -> None:
    _, errors, status = await clients.run("ssh", *options, "ann@127.0.0.1")
    assert status == 255 and b"no matching" in errors


@pytest_twisted.ensureDeferred
async def test_paramiko_logs_in_and_a_wrong_password_is_refused(
    world: World, clients: Clients
) -> None:
    def client(port: int) -> list[str]:
        wrong = paramiko.Transport(("127.0.0.1", port))
        with pytest.raises(paramiko.AuthenticationException):
            wrong.connect(username="ann", password="wrong")
        wrong.close()
        right = paramiko.Transport(("127.0.0.1", port))
        right.connect(username="ann", password=PASSWORD)
        sftp = paramiko.SFTPClient.from_transport(right)
        assert sftp is not None
        with sftp.open("/photo", "wb") as file:
            file.set_pipelined(True)
            for _ in range(100):
                file.write(b"x" * 32768)
        assert sftp.stat("/photo").st_size == 100 * 32768
        with sftp.open("/photo", "rb") as file:
            file.prefetch()
            assert file.read() == b"x" * 3276800
        found = sftp.listdir("/")
        right.close()
        return found

    assert await clients.thread(client) == ["photo"]
    await settled(world)
    assert world.logouts == 1


@pytest_twisted.ensureDeferred
async def test_asyncssh_transfers_side_by_side_and_may_open_only_so_many_channels(
    world: World, clients: Clients
) -> None:
    async def client(port: int) -> int:
        async with asyncssh_at(port) as connection:
            sessions = [await connection.start_sftp_client() for _ in range(16)]

            async def transfer(number: int, sftp: asyncssh.SFTPClient) -> None:
                content = bytes([number]) * (2 * MIB)
                async with sftp.open(f"/{number}", "wb") as file:
                    await file.write(content)
                async with sftp.open(f"/{number}", "rb") as file:
                    assert await file.read() == content

            await asyncio.gather(*(transfer(n, sftp) for n, sftp in enumerate(sessions)))
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.start_sftp_client()
            sessions[0].exit()
            await sessions[0].wait_closed()
            await connection.start_sftp_client()
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection("localhost", 22)
            return len(sessions)

    def run(port: int) -> int:
        return asyncio.run(asyncio.wait_for(client(port), CLIENT_SECONDS))

    assert await clients.thread(run) == 16
    await settled(world)
    assert world.logouts == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_dies_in_an_upload_leaves_it_aborted(
    world: World, clients: Clients
) -> None:
    def client(port: int) -> None:
        transport = paramiko.Transport(("127.0.0.1", port))
        transport.connect(username="ann", password=PASSWORD)
        sftp = paramiko.SFTPClient.from_transport(transport)
        assert sftp is not None
        file = sftp.open("/photo", "wb")
        file.write(b"half")
        transport.sock.shutdown(socket.SHUT_RDWR)
        transport.close()
        del file  # only now: it would send a CLOSE

    await clients.thread(client)
    await settled(world)
    assert world.files.called()[-1] == "abort" and "close" not in world.files.called()


@pytest_twisted.ensureDeferred
async def test_who_leaves_while_the_password_is_checked_leaves_no_session(
    world: World, clients: Clients
) -> None:
    checking: Deferred[None] = Deferred()
    world.check = lambda password: checking
    running = clients.run("ssh", "-n", "ann@127.0.0.1", "-s", "sftp")
    client = Deferred.fromCoroutine(running)
    while not world.tried:
        await deferLater(reactor, 0.01)
    world.opened[0].transport.abortConnection()
    await client
    assert world.logouts == 0
    checking.callback(None)
    assert world.logouts == 1
