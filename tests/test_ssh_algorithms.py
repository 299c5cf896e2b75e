"""Which algorithms are offered: the options, and what ssh-audit says of a real service."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ssh_server import World, host_keys
from test_ssh_transport import Link
from test_tap import options

from immich_conch.ssh.algorithms import AlgorithmError, Algorithms
from immich_conch.tap import makeService

__all__ = ["host_keys"]

ROOT = Path(__file__).parent.parent
FORMATS = (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ssh-rsa")
STRICT_KEX = b"mlkem768x25519-sha256"
HYBRID = STRICT_KEX in Algorithms.of(FORMATS).key_exchanges


# -- the options


def test_without_options_everything_good_is_offered() -> None:
    assert Algorithms.chosen(FORMATS) == Algorithms.of(FORMATS)
    assert Algorithms.chosen(FORMATS, False, {"kex": ()}) == Algorithms.of(FORMATS)


@pytest.mark.skipif(not HYBRID, reason="ML-KEM comes with cryptography 48")
def test_strict_leaves_what_nobody_has_a_word_against() -> None:
    strict = Algorithms.chosen(FORMATS, strict=True)
    assert strict.key_exchanges == (STRICT_KEX,)
    assert strict.host_keys == (b"ssh-ed25519", b"rsa-sha2-512", b"rsa-sha2-256")
    assert all(name.endswith(b"-etm@openssh.com") for name in strict.macs)
    assert strict.ciphers == Algorithms.of(FORMATS).ciphers


def test_strict_without_the_means_for_it_is_refused() -> None:
    with pytest.raises(AlgorithmError, match=r"^algorithms: strict needs one of"):
        Algorithms.chosen([b"ecdsa-sha2-nistp256"], True, {"kex": ["curve25519-sha256"]})


def test_a_list_of_ones_own_wins_and_keeps_its_order() -> None:
    names = {"kex": ["ecdh-sha2-nistp521", "curve25519-sha256"], "ciphers": ["aes256-ctr"]}
    chosen = Algorithms.chosen(FORMATS, True, names)
    assert chosen.key_exchanges == (b"ecdh-sha2-nistp521", b"curve25519-sha256")
    assert chosen.ciphers == (b"aes256-ctr",)
    assert len(chosen.macs) == 2


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--kex=diffie-hellman-group14-sha1", "--kex: diffie-hellman-group14-sha1 is not among"),
        ("--kex=", "--kex: must name at least one"),
        ("--kex=curve25519-sha256,x", "--kex: x is not among what can be offered here: "),
        ("--ciphers=aes128-cbc", "--ciphers: aes128-cbc is not among"),
        ("--ciphers=größe", "--ciphers: gr??e is not among"),
        ("--macs= , ", "--macs: must name at least one"),
        ("--macs=hmac-md5", "--macs: hmac-md5 is not among"),
        ("--host-key-algorithms=ssh-rsa", "--host-key-algorithms: ssh-rsa is not among"),
        ("--algorithms=paranoid", "--algorithms: must be default or strict"),
    ],
)
def test_what_cannot_be_offered_is_one_line_at_the_start(
    tmp_path: Path, argument: str, text: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        makeService(options(tmp_path, argument, "--immich-host=http://immich.invalid"))
    line = str(caught.value.code)
    assert line.startswith(f"immich-sftp: {text}") and "\n" not in line


def test_the_lists_reach_the_client(host_keys: Any) -> None:
    names = {"ciphers": ["aes256-ctr"], "macs": ["hmac-sha2-512"]}
    link = Link(World(), host_keys, algorithms=Algorithms.chosen(host_keys, False, names))
    link.secure()
    agreed = link.server._agreed
    assert (agreed.suite_in.cipher, agreed.suite_in.mac) == (b"aes256-ctr", b"hmac-sha2-512")


# -- ssh-audit


def ssh_audit() -> str:
    """The program, beside this Python or in the path."""
    beside = Path(sys.executable).with_name("ssh-audit")
    program = str(beside) if beside.exists() else shutil.which("ssh-audit")
    if program is None:
        pytest.skip("ssh-audit is not installed")
    return program


@pytest.fixture
def findings(tmp_path: Path) -> Iterator[Any]:
    """Starts a service with some options, audits it, and gives name -> worst finding."""
    services = []

    def run(*arguments: str) -> dict[str, str]:
        program = ssh_audit()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "twisted", "immich-sftp", "--demo", *arguments]
        command.append(f"--endpoint=tcp:{port}:interface=127.0.0.1")
        with (tmp_path / "log").open("wb") as log:
            services.append(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=log,
                    stderr=log,
                )
            )
        end = time.monotonic() + 60
        while b"demo library is ready" not in (tmp_path / "log").read_bytes():
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        done = subprocess.run(
            [program, "-j", "--skip-rate-test", "-t", "30", "-p", str(port), "127.0.0.1"],
            capture_output=True,
            timeout=100,
            check=False,
        )
        report = json.loads(done.stdout)
        assert report["banner"]["raw"] == "SSH-2.0-immich-conch" and not report["cves"]
        found = {}
        for kind in ("kex", "key", "enc", "mac"):
            assert report[kind]
            for one in report[kind]:
                for worst in ("fail", "warn"):
                    if worst in one["notes"]:
                        found[one["algorithm"]] = worst
                        break
        assert "Traceback" not in (tmp_path / "log").read_text()
        return found

    yield run
    for service in services:
        service.terminate()
        service.wait(30)


@pytest.mark.skipif(not HYBRID, reason="ML-KEM comes with cryptography 48")
@pytest.mark.slow
def test_ssh_audit_has_nothing_to_say_against_strict(findings: Any) -> None:
    assert findings("--algorithms=strict") == {}


@pytest.mark.slow
def test_each_finding_of_ssh_audit_is_there_for_a_client_that_is_named(findings: Any) -> None:
    text = (ROOT / "docs" / "algorithms.rst").read_text()
    told = dict(re.findall(r"^``(\S+)`` +(warn|fail) +\S", text, re.MULTILINE))
    assert findings() == told
