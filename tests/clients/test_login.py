"""Who gets in, who does not, and what is left behind at Immich."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from harness import User, World, eventually, free_port
from openssh import OpenSSH


def test_a_wrong_password_is_refused(openssh: OpenSSH, world: World, user: User) -> None:
    done = openssh.sftp(world.later, user, "ls", check=False, password="wrong")
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
    world.later.wait_for(
        rf"refused by way of 127.0.0.1 port \d+: bad-password, user '{user.email}'"
    )
    openssh.sftp(world.later, user, "ls")


def test_an_unknown_user_is_refused(openssh: OpenSSH, world: World) -> None:
    for email in ("nobody@example.com", "root", "", "apikey"):
        done = openssh.sftp(world.later, User(world, email, "x"), "ls", check=False)
        assert done.returncode != 0


def test_the_email_is_taken_in_any_case(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Album")
    shouting = evolve(user, email=user.email.upper())
    assert "Album" in openssh.sftp(world.later, shouting, "ls").stdout


def test_a_password_may_have_spaces_and_umlauts(openssh: OpenSSH, world: World) -> None:
    user = world.user(password='Größe \'n "quotes" ☂ $HOME')
    user.album("Album")
    assert "Album" in openssh.sftp(world.later, user, "ls").stdout


def test_an_api_key_is_a_password(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album")
    key = user.key()
    (tmp_path / "a.jpg").write_bytes(b"a photo")
    for name in (user.email, "apikey", "APIKEY"):
        holder = User(world, name, key)
        assert "Album" in openssh.sftp(world.later, holder, "ls").stdout
    openssh.sftp(world.later, User(world, "apikey", key), "put -p a.jpg Album/")
    assert user.names("Album") == ["a.jpg"]


def test_somebody_elses_api_key_is_refused(openssh: OpenSSH, world: World, user: User) -> None:
    other = world.user()
    done = openssh.sftp(world.later, User(world, user.email, other.key()), "ls", check=False)
    assert done.returncode != 0


def test_a_key_without_a_permission_may_do_the_rest(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album", [user.asset("a.jpg", b"content")])
    key = user.key("user.read", "album.read", "asset.read", "asset.view", "asset.download")
    reader = User(world, user.email, key)
    (tmp_path / "b.jpg").write_bytes(b"other content")
    openssh.sftp(world.later, reader, "get Album/a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == b"content"
    for command in ("put b.jpg Album/", "rm Album/a.jpg", "mkdir New"):
        done = openssh.sftp(world.later, reader, command, check=False)
        assert done.returncode == 1, command
        assert "ermission denied" in done.stderr, command
    world.later.wait_for(r"asset\.upload")
    assert user.names("Album") == ["a.jpg"]


def test_sessions_are_logged_out_at_the_end(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(b"a photo")
    openssh.sftp(world.soon, user, "put a.jpg Album/")
    user.uploaded("Album", "a.jpg", b"a photo")
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")


@pytest.fixture
def without_immich(tmp_path: Path) -> Iterator[World]:
    """A service whose Immich is not there."""
    world = World("3.1.0", tmp_path / "world", tmp_path / "host-keys")
    world.service("lost", "--settle", "1", url=f"http://127.0.0.1:{free_port()}")
    yield world
    complaints = world.complaints()
    world.close()
    assert not complaints, "\n".join(complaints)


def test_log_in_while_immich_is_down_is_refused_with_a_line_of_its_own(
    openssh: OpenSSH, without_immich: World
) -> None:
    service = without_immich.service("lost")
    user = without_immich.user()
    service.wait_for("cannot be used yet")
    done = openssh.sftp(service, user, "ls", check=False)
    assert done.returncode != 0
    service.wait_for("could not be checked")
    assert "bad-password" not in service.text()


def test_a_revoked_session_ends_the_connection(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Album", user.assets(["a.jpg"]))
    openssh.sftp(world.later, user, "ls Album")
    world.demo.fault("revoked", method="POST", route="/albums")
    done = openssh.sftp(world.later, user, "-mkdir New\nls", check=False, limit=20)
    assert done.returncode != 0
    world.later.wait_for("has ended; closing the connection")


def test_an_immich_that_fails_during_a_listing_is_an_error_and_no_empty_folder(
    openssh: OpenSSH, world: World, user: User
) -> None:
    user.album("Album", user.assets(["a.jpg"]))
    for method, route in (("GET", "/albums"), ("POST", "/sync/stream")):
        world.demo.fault("status", method=method, route=route, status=500, count=None)
    done = openssh.sftp(world.later, user, "ls", check=False)
    world.demo.clear_faults()
    # sftp says so, though its exit status is 0.
    assert "Failure" in done.stderr
    assert "Album" in openssh.sftp(world.later, user, "ls").stdout
