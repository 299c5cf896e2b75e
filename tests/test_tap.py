"""`twistd immich-sftp`: options, what stops the start, and an orderly start and end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import until
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import ClientCreator, Protocol

from immich_conch.settings import fields, option_name
from immich_conch.tap import Options, makeService


def options(tmp_path: Path, *arguments: str, **environment: str) -> Options:
    """Options for a service whose files lie in tmp_path."""
    parsed = Options(environment)
    parsed.parseOptions(
        [
            f"--host-key-dir={tmp_path / 'keys'}",
            f"--spool-dir={tmp_path / 'spool'}",
            "--endpoint=tcp:0:interface=127.0.0.1",
            *arguments,
        ]
    )
    return parsed


def test_every_setting_is_an_option(tmp_path: Path) -> None:
    help_text = Options({}).getUsage()
    for field in fields():
        assert f"--{option_name(field.name)}" in help_text


def test_options_and_environment_are_joined(tmp_path: Path) -> None:
    found = options(
        tmp_path, "--read-only", "--endpoint=tcp:1", IMMICH_HOST="http://immich", TZ="UTC"
    ).settings
    assert found.read_only
    assert found.immich_host == "http://immich"
    assert found.endpoint == ("tcp:0:interface=127.0.0.1", "tcp:1")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--settle=soon"], "--settle: must be a number of seconds"),
        (["--nonsense"], "nonsense"),
        (["stray"], "stray: there are only options"),
        ([], "--immich-host: missing"),
        (["--config=/nowhere/conch.toml"], "/nowhere/conch.toml: cannot be read"),
    ],
)
def test_a_wrong_option_is_one_line_and_no_page_of_help(
    tmp_path: Path, arguments: list[str], text: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        options(tmp_path, *arguments)
    line = str(caught.value.code)
    assert line.startswith("immich-sftp: ")
    assert text in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--endpoint=nonsense"], "--endpoint"),
        (["--endpoint=nonsense:1"], "--endpoint"),
        (["--endpoint=tcp:http"], "--endpoint"),
        (["--endpoint=systemd:domain=INET:index=7"], "--endpoint"),
        (["--endpoint=systemd:domain=INET:name=sftp"], "--endpoint"),
        (["--endpoint=systemd:domain=DECNET2:index=0"], "--endpoint"),
        (["--immich-ca-file=/nowhere.pem"], "--immich-ca-file"),
        (["--spool-dir=/proc/none"], "--spool-dir"),
        (["--host-key-dir=/proc/none"], "--host-key-dir"),
    ],
)
def test_what_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, arguments: list[str], text: str
) -> None:
    parsed = options(tmp_path, "--immich-host=http://127.0.0.1:1", *arguments)
    with pytest.raises(SystemExit) as caught:
        makeService(parsed, reactor)
    line = str(caught.value.code)
    assert line.startswith(f"immich-sftp: {text}")
    assert "\n" not in line


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_stops_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        parsed = options(
            tmp_path,
            "--immich-host=http://127.0.0.1:1",
            f"--endpoint=tcp:{port}:interface=127.0.0.1",
        )
        service = makeService(parsed, reactor)
        with pytest.raises(SystemExit, match=f"--endpoint tcp:{port}.*cannot listen"):
            service.privilegedStartService()
        await maybeDeferred(service.stopService)


class Greeting(Protocol):
    """Keeps what the server says first."""

    def __init__(self) -> None:
        self.heard = b""
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)


@pytest_twisted.ensureDeferred
async def test_the_demo_starts_greets_and_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = makeService(options(tmp_path, "--demo"), reactor)
    assert IService.providedBy(service)
    service.privilegedStartService()
    service.startService()
    (listener,) = (s for s in service if hasattr(s, "endpoint"))
    port = listener._waitingForPort.result.getHost().port
    client = await ClientCreator(reactor, Greeting).connectTCP("127.0.0.1", port)
    await until(lambda: b"\n" in client.heard)
    assert client.heard.startswith(b"SSH-2.0-")
    await maybeDeferred(service.stopService)
    await client.gone
    left = [
        path for path in (tmp_path / "spool").iterdir() if path.name not in (".lock", "control")
    ]
    assert left == []
    assert "sftp -P" in capsys.readouterr().out
