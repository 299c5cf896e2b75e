"""Every client with each cipher that it shares with us, there and back, with new keys on the way.

The server asks for new keys after each MiB, so that a transfer of some MiB has several key
exchanges in it, in both directions.  ssh2 of Node is packaged by nobody but npm: with it in a
directory of NODE_PATH it is tested, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
import pytest_twisted
from sftp_peer import File
from ssh_server import CLIENT_SECONDS, PASSWORD, Clients, Files, World, asyncssh_at, host_keys
from twisted.conch.ssh.keys import FingerprintFormats
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue

from immich_conch.ssh.ciphers import CTR_KEYS, GCM, MACS
from immich_conch.ssh.kex import REKEY_BYTES

__all__ = ["host_keys"]

MIB = 2**20
GCMS, CTRS, HMACS = ([name.decode() for name in names] for names in (GCM, CTR_KEYS, MACS))
SUITES = [*((name, "") for name in GCMS), *((name, mac) for name in CTRS for mac in HMACS)]
SSH2_OF_NODE = shutil.which("node") is not None and any(
    (Path(place) / "ssh2").is_dir() for place in os.environ.get("NODE_PATH", "").split(":") if place
)
#: Where Debian's libjsch-java puts it.
JSCH = Path("/usr/share/java/jsch.jar")

every_suite = pytest.mark.parametrize(
    ("cipher", "mac"), SUITES, ids=["-".join(suite) for suite in SUITES]
)


class Disk(Files):
    """Files that clients may write in any order."""

    async def openFile(self, path: bytes, flags: int, attrs: dict[str, Any]) -> File:
        await self.step("open", path, flags, attrs)
        return Holed(self, path, self.files.setdefault(path, bytearray()))


class Holed(File):
    """What is not yet written is zeros."""

    def writeChunk(self, offset: int, data: bytes) -> Any:
        self.content.extend(bytes(max(0, offset - len(self.content))))
        return super().writeChunk(offset, data)


class Spy(World):
    """A world that notes what its transports have agreed on."""

    factory_used: Any

    def agreed(self) -> set[tuple[str, str]]:
        suites = [t._agreed.suite_in for t in self.opened] + [
            t._agreed.suite_out for t in self.opened
        ]
        return {(suite.cipher.decode(), suite.mac.decode()) for suite in suites}

    @property
    def exchanges(self) -> int:
        """Key exchanges of the last connection."""
        return int(self.opened[-1].exchanges)


@pytest.fixture
def world() -> Spy:
    return Spy(files=Disk())


@pytest.fixture
def clients(world: Spy, host_keys: Any, tmp_path: Path) -> Iterator[Clients]:
    factory = world.factory(host_keys, failure_delay=0.02, rekey_bytes=MIB)

    class Counting(factory.protocol):  # type: ignore[misc,name-defined]
        exchanges = 0

        def ssh_NEWKEYS(self, packet: bytes) -> None:
            super().ssh_NEWKEYS(packet)
            self.exchanges += 1

    factory.protocol = Counting
    world.factory_used = factory
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    yield Clients(port.getHost().port, tmp_path)
    for transport in world.opened:
        if transport not in world.closed:
            transport.transport.abortConnection()
    pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(4 * MIB + 12_345))
    return path


async def run(*command: str | Path, **env: str) -> bytes:
    """Run a client to its end; what it says.  Skips if it is not installed."""
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    out, errors, status = await getProcessOutputAndValue(
        shutil.which("timeout"),
        [str(CLIENT_SECONDS), program, *map(str, command[1:])],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env},
    )
    assert status == 0, out + errors
    return bytes(out + errors)


def same(world: Spy, source: Path, copy: Path) -> None:
    """The file went up and came down unchanged, and keys were changed on the way."""
    digests = {
        hashlib.sha1(data).digest()
        for data in (source.read_bytes(), copy.read_bytes(), world.files.files[b"/photo"])
    }
    assert len(digests) == 1
    assert world.exchanges >= 4


@every_suite
@pytest_twisted.ensureDeferred
async def test_openssh(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, cipher: str, mac: str
) -> None:
    batch, copy = tmp_path / "batch", tmp_path / "copy"
    batch.write_text(f"put {source} /photo\nget /photo {copy}\n")
    options = [f"-oCiphers={cipher}", *([f"-oMACs={mac}"] if mac else [])]
    _, errors, status = await clients.run(
        "sftp", "-oBatchMode=no", *options, "-b", str(batch), "ann@127.0.0.1"
    )
    assert status == 0, errors
    same(world, source, copy)
    assert world.agreed() == {(cipher, mac)}


@pytest_twisted.ensureDeferred
async def test_openssh_lands_on_gcm_by_itself_and_is_strict(
    world: Spy, clients: Clients, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    _, errors, status = await clients.sftp(f"put {source} /photo", f"get /photo {copy}")
    assert status == 0, errors
    same(world, source, copy)
    assert world.agreed() == {("aes128-gcm@openssh.com", "")}
    _, errors, _ = await clients.run("ssh", "-n", "-vvv", "ann@127.0.0.1", "-s", "sftp")
    if b"kex-strict-c-v00@openssh.com" in errors:
        assert world.opened[-1]._strict
        assert b"will use strict KEX ordering" in errors


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest_twisted.ensureDeferred
async def test_openssh_asks_for_new_keys_in_the_middle(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, direction: str
) -> None:
    copy = tmp_path / "copy"
    world.factory_used.rekey_bytes = REKEY_BYTES
    batch = tmp_path / "batch"
    if direction == "up":
        batch.write_text(f"put {source} /photo\n")
    else:
        world.files.files[b"/photo"] = bytearray(source.read_bytes())
        batch.write_text(f"get /photo {copy}\n")
    _, errors, status = await clients.run(
        "sftp", "-oBatchMode=no", "-oRekeyLimit=256K", "-b", str(batch), "ann@127.0.0.1"
    )
    assert status == 0, errors
    same(world, source, copy if direction == "down" else source)


@every_suite
@pytest_twisted.ensureDeferred
async def test_asyncssh(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, cipher: str, mac: str
) -> None:
    copy = tmp_path / "copy"

    async def transfer(port: int) -> None:
        async with asyncssh_at(
            port,
            encryption_algs=[cipher],
            mac_algs=[mac] if mac else (),
            rekey_bytes=2 * MIB,
        ) as connection:
            sftp = await connection.start_sftp_client()
            await sftp.put(source, "/photo")
            await sftp.get("/photo", copy)
            sftp.exit()

    await clients.thread(lambda port: asyncio.run(asyncio.wait_for(transfer(port), CLIENT_SECONDS)))
    same(world, source, copy)
    assert world.agreed() == {(cipher, mac)}
    assert world.opened[-1]._strict


def with_paramiko(
    source: Path, copy: Path, prepare: Callable[[Any], None]
) -> Callable[[int], None]:
    """What a thread does with paramiko."""

    def client(port: int) -> None:
        transport = paramiko.Transport(("127.0.0.1", port))
        prepare(transport)
        transport.connect(username="ann", password=PASSWORD)
        sftp = paramiko.SFTPClient.from_transport(transport)
        assert sftp is not None
        sftp.put(str(source), "/photo")
        transport.renegotiate_keys()
        sftp.get("/photo", str(copy))
        transport.close()

    return client


@every_suite
@pytest_twisted.ensureDeferred
async def test_paramiko(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, cipher: str, mac: str
) -> None:
    copy = tmp_path / "copy"

    def only(transport: Any) -> None:
        options = transport.get_security_options()
        if cipher not in options.ciphers:
            pytest.skip("this paramiko does not know it")
        options.ciphers = (cipher,)
        if mac:
            options.digests = (mac,)

    await clients.thread(with_paramiko(source, copy, only))
    same(world, source, copy)
    assert world.agreed() == {(cipher, mac)}


@pytest_twisted.ensureDeferred
async def test_paramiko_lands_on_gcm_by_itself(
    world: Spy, clients: Clients, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    known = []

    def look(transport: Any) -> None:
        known.extend(transport.get_security_options().ciphers)

    await clients.thread(with_paramiko(source, copy, look))
    same(world, source, copy)
    ((cipher, _),) = world.agreed()
    assert cipher == next(name for name in [*GCMS, *CTRS] if name in known)


@pytest.mark.parametrize("cipher", ["aes", "aesgcm", "chacha20"])
@pytest_twisted.ensureDeferred
async def test_psftp(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, host_keys: Any, cipher: str
) -> None:
    home = tmp_path / "home"
    (home / ".putty/sessions").mkdir(parents=True)
    # The session's list is the one way to choose; WARN stands before what is not to be used.
    order = [cipher, *(name for name in ("aes", "aesgcm", "chacha20") if name != cipher)]
    (home / ".putty/sessions/here").write_text(
        "Protocol=ssh\nHostName=127.0.0.1\n"
        f"Cipher={','.join(order)},WARN,3des,des,blowfish,arcfour\nRekeyBytes=512K\n"
    )
    script, copy, secret = (tmp_path / name for name in ("script", "copy", "secret"))
    script.write_text(f"put {source} /photo\nget /photo {copy}\nquit\n")
    secret.write_text(PASSWORD + "\n")
    fingerprints = [
        "SHA256:" + key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip("=")
        for key in host_keys.values()
    ]
    told = [part for fingerprint in fingerprints for part in ("-hostkey", fingerprint)]
    await run(
        *("psftp", "-load", "here", *told, "-P", str(clients.port), "-l", "ann"),
        *("-pwfile", secret, "-batch", "-b", script, "127.0.0.1"),
        HOME=str(home),
    )
    same(world, source, copy)
    assert all(name in GCMS or (name, mac) in SUITES for name, mac in world.agreed())


@pytest_twisted.ensureDeferred
async def test_curl_with_libssh2(
    world: Spy, clients: Clients, source: Path, tmp_path: Path
) -> None:
    if b"sftp" not in (await run("curl", "--version")).partition(b"Protocols:")[2]:
        pytest.skip("this curl has no sftp")
    copy, url = tmp_path / "copy", f"sftp://127.0.0.1:{clients.port}/photo"
    await run("curl", "-sSk", "-u", f"ann:{PASSWORD}", "-T", source, url)
    assert world.exchanges >= 4
    await run("curl", "-sSk", "-u", f"ann:{PASSWORD}", "-o", copy, url)
    same(world, source, copy)


@pytest.mark.skipif(not SSH2_OF_NODE, reason="the ssh2 package of Node is not in NODE_PATH")
@pytest.mark.parametrize("cipher", ["", *GCMS, *CTRS])
@pytest_twisted.ensureDeferred
async def test_ssh2_of_node(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, cipher: str
) -> None:
    copy, program = tmp_path / "copy", tmp_path / "client.js"
    wanted = f"algorithms: {{cipher: ['{cipher}']}}," if cipher else ""
    program.write_text(f"""
        const {{Client}} = require("ssh2");
        const fail = (error) => {{ if (error) {{ console.log(error); process.exit(1); }} }};
        const client = new Client();
        client.on("error", fail).on("ready", () => client.sftp((error, sftp) => {{
            fail(error);
            sftp.fastPut("{source}", "/photo", (error) => {{
                fail(error);
                sftp.fastGet("/photo", "{copy}", (error) => {{ fail(error); client.end(); }});
            }});
        }})).connect({{
            host: "127.0.0.1", port: {clients.port}, username: "ann", {wanted}
            password: "{PASSWORD}",
        }});
    """)
    await run("node", program, NODE_PATH=os.environ["NODE_PATH"])
    same(world, source, copy)
    assert {name for name, _ in world.agreed()} == {cipher or GCMS[0]}


@pytest.mark.parametrize("cipher", CTRS)
@pytest_twisted.ensureDeferred
async def test_jsch(
    world: Spy, clients: Clients, source: Path, tmp_path: Path, cipher: str
) -> None:
    mac = "hmac-sha2-256"  # the one of ours that Debian's JSch has
    if not JSCH.exists():
        pytest.skip("libjsch-java is not installed")
    copy, program = tmp_path / "copy", tmp_path / "Both.java"
    program.write_text(f"""
        import com.jcraft.jsch.*;
        public class Both {{
            public static void main(String[] arguments) throws Exception {{
                Session session = new JSch().getSession("ann", "127.0.0.1", {clients.port});
                session.setPassword("{PASSWORD}");
                session.setConfig("StrictHostKeyChecking", "no");
                session.setConfig("cipher.c2s", "{cipher}");
                session.setConfig("cipher.s2c", "{cipher}");
                session.setConfig("mac.c2s", "{mac}");
                session.setConfig("mac.s2c", "{mac}");
                session.connect(20000);
                ChannelSftp there = (ChannelSftp) session.openChannel("sftp");
                there.connect(20000);
                there.put("{source}", "/photo");
                there.get("/photo", "{copy}");
                there.disconnect();
                session.disconnect();
            }}
        }}
    """)
    await run("java", "-XX:TieredStopAtLevel=1", "-cp", JSCH, program)
    same(world, source, copy)
    assert world.agreed() == {(cipher, mac)}
