"""The container's health check: healthy is who greets as an SSH server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from immich_conch import healthcheck, settings
from immich_conch.loading import load


@pytest.mark.parametrize(
    ("endpoint", "host", "port"),
    [
        ("tcp:22", "127.0.0.1", 22),
        ("tcp:port=2222", "127.0.0.1", 2222),
        ("tcp:2222:interface=0.0.0.0", "127.0.0.1", 2222),
        ("tcp:2222:backlog=9:interface=192.0.2.7", "192.0.2.7", 2222),
        ("tcp6:2222", "::1", 2222),
        (r"tcp6:2222:interface=\:\:", "::1", 2222),
        ("haproxy:tcp:2222", "127.0.0.1", 2222),
        (r"tcp:2222:interface=2001\:db8\:\:7", "2001:db8::7", 2222),
    ],
)
def test_an_endpoint_is_asked_where_it_answers(endpoint: str, host: str, port: int) -> None:
    assert healthcheck.address(endpoint) == (host, port)


@pytest.mark.parametrize("endpoint", ["", "2222", "unix:/run/sftp", "tcp:ssh", "ssl:22"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="no tcp: or tcp6:"):
        healthcheck.address(endpoint)


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Says some bytes to one client; gives the endpoint."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(greeting: bytes) -> str:
        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return f"tcp:{listener.getsockname()[1]}:interface=127.0.0.1"

    yield start
    for thread in threads:
        thread.join(5)
    listener.close()


def test_a_service_that_greets_is_healthy(
    serve: Callable[[bytes], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(healthcheck.VARIABLE, serve(b"SSH-2.0-immich-conch\r\n"))
    assert healthcheck.main([]) == 0
    assert capsys.readouterr().out == "SSH-2.0-immich-conch\n"


def test_an_endpoint_that_lies_in_a_file_is_asked(
    serve: Callable[[bytes], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    place = tmp_path / "endpoint"
    place.write_text(serve(b"SSH-2.0-immich-conch\r\n") + "\ntcp6:2222\n")
    monkeypatch.delenv(healthcheck.VARIABLE, raising=False)
    monkeypatch.setenv(healthcheck.VARIABLE + "_FILE", str(place))
    assert healthcheck.main([]) == 0
    monkeypatch.setenv(healthcheck.VARIABLE + "_FILE", str(tmp_path / "none"))
    assert healthcheck.main([]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n"])
def test_a_service_that_does_not_greet_is_not(
    greeting: bytes, serve: Callable[[bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert healthcheck.main([serve(greeting)]) == 1
    assert "not healthy" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert healthcheck.main([f"tcp:{port}"]) == 1
    assert "not healthy" in capsys.readouterr().err


def test_the_variable_is_the_one_of_the_settings() -> None:
    [endpoint] = [field for field in settings.fields() if field.name == "endpoint"]
    assert settings.environment_name(endpoint) == healthcheck.VARIABLE
    assert load({"immich_host": "http://immich"}, {}).endpoint == (healthcheck.DEFAULT,)
