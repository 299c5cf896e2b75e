"""`python -m tests.fuzz.record` records sessions of the real clients that are installed.

A server in this process, with files in memory, notes what it reads behind the decryption.  The
files in `corpus/` were made by it; a new client is one more line in `_CLIENTS`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import asyncssh
import paramiko
from ssh_server import PASSWORD, World
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from immich_conch.ssh.hostkeys import load_host_keys
from immich_conch.ssh.packets import PacketReader
from immich_conch.ssh.transport import Transport
from immich_conch.ssh.wire import string

from . import corpus

SECONDS = "10"


class _Reader(PacketReader):
    """Notes what it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []

    def next(self) -> bytes | None:
        plain = super().next()
        if plain is not None:
            self.messages.append(plain[self.start : self.end])
        return plain


class _Noting(Transport):
    def __init__(self) -> None:
        super().__init__()
        self._reader = _Reader()

    @property
    def said(self) -> list[bytes]:
        return [self.otherVersionString, *self._reader.messages]


async def _run(place: Path, *command: str, **environment: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        print("  is not installed")
        return
    out, err, status = await getProcessOutputAndValue(
        shutil.which("timeout"),
        [SECONDS, program, *command[1:]],
        env={"PATH": os.environ["PATH"], "HOME": str(place), **environment},
        path=str(place),
    )
    print(f"  status {status}", (err or out)[-200:] if status else "")


def _openssh(*before: str, commands: str = "") -> Callable[[int, Path], Any]:
    async def run(port: int, place: Path) -> None:
        (place / "ask").write_text('#!/bin/sh\necho "$WORD"\n')
        (place / "ask").chmod(0o700)
        (place / "batch").write_text(commands)
        options = [
            *("-F/dev/null", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"),
            *("-oPubkeyAuthentication=no", "-oBatchMode=no", f"-oPort={port}"),
        ]
        if commands:
            command = ["sftp", *options, *before, "-b", "batch", "ann@127.0.0.1"]
        else:
            forward = [part for part in before if part.startswith("-")]
            rest = [part for part in before if not part.startswith("-")]
            command = ["ssh", *options, *forward, "ann@127.0.0.1", *rest]
        await _run(place, *command, SSH_ASKPASS="./ask", SSH_ASKPASS_REQUIRE="force", WORD=PASSWORD)

    return run


def _paramiko(port: int, place: Path) -> None:
    transport = paramiko.Transport(("127.0.0.1", port))
    transport.connect(username="ann", password=PASSWORD)
    sftp = paramiko.SFTPClient.from_transport(transport)
    assert sftp is not None
    sftp.mkdir("/album")
    with sftp.open("/photo", "wb") as file:
        file.write(b"x" * 500)
        file.chmod(0o600)
    with sftp.open("/photo", "rb") as file:
        file.prefetch()
        file.read()
    sftp.utime("/photo", (1, 2))
    sftp.posix_rename("/photo", "/picture")
    sftp.listdir_attr("/")
    sftp.remove("/picture")
    sftp.rmdir("/album")
    transport.close()


def _asyncssh(port: int, place: Path) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"known_hosts": None, "client_keys": None, "config": None}
        async with asyncssh.connect(
            "127.0.0.1", port, username="ann", password=PASSWORD, **options
        ) as connection:
            one, two = [await connection.start_sftp_client() for _ in range(2)]
            async with one.open("/photo", "wb") as file:
                await file.write(b"x" * 500)
            async with two.open("/photo", "rb") as file:
                await file.read()
            await two.glob("/*")
            await connection.run("sha1sum /photo")

    asyncio.run(asyncio.wait_for(run(), float(SECONDS)))


def _in_thread(client: Callable[[int, Path], None]) -> Callable[[int, Path], Any]:
    return lambda port, place: deferToThread(client, port, place)


async def _psftp(port: int, place: Path) -> None:
    (place / "batch").write_text("put source photo\nget photo copy\nls\nren photo x\ndel x\nbye\n")
    await _run(
        place, "psftp", "-batch", "-P", str(port), "-pw", PASSWORD, "-hostkey",
        (place / "fingerprint").read_text(), "-b", "batch", "ann@127.0.0.1",
    )  # fmt: skip


async def _lftp(port: int, place: Path) -> None:
    ssh = "ssh -a -x -F/dev/null -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null"
    script = (
        f"set sftp:connect-program '{ssh}'; open -p {port} -u ann,'{PASSWORD}' sftp://127.0.0.1; "
        "put source -o photo; ls; mv photo picture; get picture -o copy2; rm picture; bye"
    )
    await _run(place, "lftp", "-c", script)


async def _rclone(port: int, place: Path) -> None:
    remote = f":sftp,host=127.0.0.1,port={port},user=ann,pass=$P,shell_type=none:"
    script = (
        f'P=$(rclone obscure "{PASSWORD}"); rclone copyto source "{remote}photo"; '
        f'rclone copyto "{remote}photo" copy3; rclone deletefile "{remote}photo"'
    )
    await _run(place, "sh", "-c", script)


async def _curl(port: int, place: Path) -> None:
    url = f"sftp://ann:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/photo"
    await _run(place, "curl", "-sk", "-T", "source", url)


_BATCH = """\
-mkdir /album
put -p source /photo
-chmod 600 /photo
-ls -l /
-get -p /photo copy
-df /
-rename /photo /album/photo
-ln /photo /other
-symlink /photo /link
-rm /photo
-rmdir /album
-copy /photo /copy
"""

_CLIENTS: dict[str, Callable[[int, Path], Any]] = {
    "openssh": _openssh(commands=_BATCH),
    "openssh-old": _openssh(
        *("-oKexAlgorithms=curve25519-sha256", "-oCiphers=aes256-ctr", "-oRekeyLimit=1K"),
        commands="put source /photo\nget /photo copy\n",
    ),
    "openssh-gex": _openssh(
        "-oKexAlgorithms=diffie-hellman-group-exchange-sha256", commands="ls\n"
    ),
    "openssh-nist": _openssh("-oKexAlgorithms=ecdh-sha2-nistp256", commands="ls\n"),
    "openssh-exec": _openssh("sha1sum", "/photo"),
    "openssh-forwarding": _openssh("-R0:localhost:9", "true"),
    "paramiko": _in_thread(_paramiko),
    "asyncssh": _in_thread(_asyncssh),
    "psftp": _psftp,
    "lftp": _lftp,
    "rclone": _rclone,
    "curl": _curl,
}


async def _record(place: Path) -> None:
    keys = load_host_keys(place / "keys")
    (place / "source").write_bytes(b"\xff\xd8" + bytes(500))
    blob = sha256(keys[b"ssh-ed25519"].public().blob()).digest()
    (place / "fingerprint").write_text("SHA256:" + b64encode(blob).decode().rstrip("="))
    for name, client in _CLIENTS.items():
        print(name)
        world = World()
        factory = world.factory(keys, failure_delay=0.01)
        factory.protocol = _Noting
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        await client(port.getHost().port, place)
        await deferLater(reactor, 0.2)
        for number, transport in enumerate(world.opened):
            transport.transport.abortConnection()
            if len(transport.said) > 5:
                corpus.write(name if not number else f"{name}-{number}", transport.said)
        await port.stopListening()


def _with_keys() -> list[bytes]:
    """A log-in by keys, certificates and answers to a prompt, which no client sends all of."""
    head = b"\x32" + string(b"ann") + string(b"ssh-connection")
    messages = [b"SSH-2.0-made", b"\x05" + string(b"ssh-userauth")]
    authority = asyncssh.generate_private_key("ssh-ed25519")
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"):
        key = asyncssh.generate_private_key(kind)
        certificate = authority.generate_user_certificate(key, "id", principals=["ann"])
        name = kind.replace("ssh-rsa", "rsa-sha2-512").encode()
        signature = string(key.sign(b"something else", name))
        for blob in (key.public_data, certificate.public_data):
            kind_of_blob = name
            if blob is certificate.public_data:
                kind_of_blob = name.replace(b"ssh-ed25519", b"ssh-ed25519-cert-v01@openssh.com")
                if kind_of_blob == name:
                    kind_of_blob = name + b"-cert-v01@openssh.com"
            parts = string(b"publickey"), string(kind_of_blob) + string(blob)
            messages.append(head + parts[0] + b"\0" + parts[1])
            if kind == "ssh-ed25519":
                messages.append(head + parts[0] + b"\1" + parts[1] + signature)
    messages.append(head + string(b"keyboard-interactive") + string(b"") * 2)
    messages.append(b"\x3d" + struct.pack("!L", 1) + string(PASSWORD.encode()))
    return messages


def _main() -> None:
    corpus.write("made-keys", _with_keys())
    with tempfile.TemporaryDirectory() as place:
        react(lambda _: ensureDeferred(_record(Path(place))))


if __name__ == "__main__":
    _main()
