"""The demo as a process of its own, as tests of real SFTP clients and a curious person start it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from immich_conch.demo.library import EMAIL, PASSWORD


@contextmanager
def running(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "immich_conch.demo", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()


def ask(url: str, data: Any = None, **headers: str) -> Any:
    body = None if data is None else json.dumps(data).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json", **headers})) as answer:
        return json.load(answer)


def test_a_process_serves_the_demo_library_and_keeps_it(tmp_path: Path) -> None:
    credentials = {"email": EMAIL, "password": PASSWORD}
    with running("--version", "2.5.6", "--dir", str(tmp_path)) as url:
        assert ask(f"{url}/api/server/version") == {"major": 2, "minor": 5, "patch": 6}
        token = ask(f"{url}/api/auth/login", credentials)["accessToken"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert len(ask(f"{url}/api/albums", **bearer)) == 4
        ask(f"{url}/api/albums", {"albumName": "Mine"}, **bearer)
        with pytest.raises(HTTPError, match="404"):
            ask(f"{url}/control/state")
    with running("--dir", str(tmp_path)) as url:
        assert ask(f"{url}/api/server/version")["major"] == 3
        names = {album["albumName"] for album in ask(f"{url}/api/albums", **bearer)}
        assert "Mine" in names
        assert len(names) == 5, "the library is not put in twice"


def test_a_process_is_controlled_from_another_one() -> None:
    with running("--empty", "--control") as url:
        assert ask(f"{url}/control/state")["albums"] == []
        ask(f"{url}/control/users", {"email": "eve@example.com", "password": "pw"})
        secret = ask(f"{url}/control/keys", {"email": "eve@example.com"})["secret"]
        assert ask(f"{url}/api/users/me", **{"x-api-key": secret})["email"] == "eve@example.com"
        ask(f"{url}/control/faults", {"kind": "status", "status": 500})
        with pytest.raises(HTTPError, match="500"):
            ask(f"{url}/api/server/ping")
        state = ask(f"{url}/control/state")
        assert state["requests"] == {"GET /users/me": 1, "GET /server/ping": 1}
        assert state["faults"] == 0
