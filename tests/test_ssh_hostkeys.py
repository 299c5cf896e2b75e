"""Host keys: made once, kept for ever, refused with a reason that names the place."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from twisted.conch.ssh.keys import Key

from immich_conch.ssh.hostkeys import RSA_BITS, HostKeyError, fingerprints, load_host_keys

FILES = ["ssh_host_ecdsa_key", "ssh_host_ed25519_key", "ssh_host_rsa_key"]


def test_the_first_start_makes_three_keys_and_the_next_finds_them(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there"
    first = load_host_keys(place)
    assert list(first) == [b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ssh-rsa"]
    assert first[b"ssh-rsa"].size() == RSA_BITS
    assert sorted(path.name for path in place.iterdir()) == FILES
    for path in place.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    second = load_host_keys(place)
    assert fingerprints(first) == fingerprints(second)
    assert all(line.split()[1].startswith("SHA256:") for line in fingerprints(first))


def test_a_key_of_ssh_keygen_is_taken_and_shown_as_it_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "ssh_host_ed25519_key"
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=30
        )
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", path], check=True, timeout=30, capture_output=True, text=True
    ).stdout.split()[1]
    assert fingerprints(load_host_keys(tmp_path))[0] == f"ssh-ed25519 {shown}"


def test_a_key_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    load_host_keys(tmp_path)
    path = tmp_path / FILES[0]
    path.chmod(0o644)
    load_host_keys(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_broken_key_is_an_error_and_stays(tmp_path: Path, content: bytes | None) -> None:
    load_host_keys(tmp_path)
    path = tmp_path / "ssh_host_rsa_key"
    if content is None:  # a key, but of another kind
        content = (tmp_path / "ssh_host_ed25519_key").read_bytes()
    path.write_bytes(content)
    with pytest.raises(HostKeyError) as caught:
        load_host_keys(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_key_behind_a_passphrase_is_an_error(tmp_path: Path) -> None:
    key: Key = load_host_keys(tmp_path)[b"ssh-ed25519"]
    (tmp_path / "ssh_host_ed25519_key").write_bytes(
        key.toString("OPENSSH", subtype="v1", passphrase=b"secret")
    )
    with pytest.raises(HostKeyError, match="no usable private key"):
        load_host_keys(tmp_path)


def test_a_place_that_is_no_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"")
    with pytest.raises(HostKeyError) as caught:
        load_host_keys(place)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal is played.
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(HostKeyError) as caught:
        load_host_keys(tmp_path)
    assert str(tmp_path) in str(caught.value) and "Permission denied" in str(caught.value)


def test_a_crash_while_a_key_is_made_leaves_no_half_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(HostKeyError, match="No space left"):
            load_host_keys(tmp_path)
    assert list(tmp_path.iterdir()) == []
    load_host_keys(tmp_path)
