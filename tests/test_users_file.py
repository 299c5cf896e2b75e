"""The file of users with SSH keys: what is in it, what is wrong with it, when it is read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from ssh_keys import SK_ED25519, Signer, certificate, signer
from test_ssh_transport import lines
from twisted.internet.task import Clock

from immich_conch.authorized import KeyRefused, Users
from immich_conch.errors import SettingsError
from immich_conch.ssh.authorized_keys import AuthorizedKey
from immich_conch.ssh.publickey import ALGORITHMS, fingerprint
from immich_conch.users_file import LOOK_SECONDS, MAX_BYTES, UsersFile

__all__ = ["lines"]

KEY, OTHER, AUTHORITY = signer(), signer(), signer()
SECRET = "Q" * 43
NOW = 1_700_000_000.0
ANN = f'[users."ann@example.com"]\napi_key = "{SECRET}"\n'


@frozen
class Asked:
    """An attempt as the checker sees it."""

    username: bytes
    algorithm: Any
    blob: bytes
    address: str = "192.0.2.7"
    asks: bool = True


def attempt(key: Signer | bytes, user: str = "ann@example.com", **more: Any) -> Any:
    """Somebody asks about a key, or about a certificate's bytes."""
    if isinstance(key, Signer):
        return Asked(user.encode(), ALGORITHMS[key.algorithm], key.blob, **more)
    return Asked(user.encode(), ALGORITHMS[b"ssh-ed25519-cert-v01@openssh.com"], key, **more)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Another file in its place, as careful editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
    return path


def users(tmp_path: Path, text: str) -> Users:
    """What a file holds."""
    return UsersFile.open(str(write(tmp_path / "users.toml", text)), Clock()).users()


def refused(found: Users, *arguments: Any, **more: Any) -> str:
    with pytest.raises(KeyRefused) as caught:
        found.grant(attempt(*arguments, **more), NOW)
    return str(caught.value)


# -- what is in it


def test_a_user_comes_by_e_mail_or_by_a_name_in_any_case(tmp_path: Path) -> None:
    found = users(tmp_path, ANN + f'names = ["Ann"]\nkeys = ["{KEY.line}"]\n')
    for name in ("ann@example.com", "ANN@Example.com", "ann", " Ann "):
        grant = found.grant(attempt(KEY, name), NOW)
        assert (grant.user.email, grant.user.api_key) == ("ann@example.com", SECRET)
        assert grant.means == f"the SSH key {fingerprint(KEY.blob)}"
    assert "none of the user's" in refused(found, OTHER)
    # To somebody who knows no key a user who is not there looks like one who is.
    assert refused(found, KEY, "bob") == refused(found, OTHER, "ann")


def test_a_user_may_have_no_key_and_a_file_no_user(tmp_path: Path) -> None:
    assert "none of the user's" in refused(users(tmp_path, ANN), KEY)
    assert "none of the user's" in refused(users(tmp_path, ""), KEY)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_api_key_may_have_a_file_of_its_own(tmp_path: Path, absolute: bool) -> None:
    write(tmp_path / "ann.key", SECRET + "\n")
    name = str(tmp_path / "ann.key") if absolute else "ann.key"
    text = f'[users."ann@example.com"]\napi_key_file = "{name}"\nkeys = ["{KEY.line}"]'
    assert users(tmp_path, text).grant(attempt(KEY), NOW).user.api_key == SECRET


def test_no_repr_holds_an_api_key(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", ANN + f'keys = ["{KEY.line}"]')
    file = UsersFile.open(str(path), Clock())
    grant = file.users().grant(attempt(KEY), NOW)
    for thing in (file, file.users(), grant, grant.user):
        assert SECRET not in repr(thing)


def test_an_authority_vouches_for_the_principals_of_its_certificates(tmp_path: Path) -> None:
    text = f'authorities = ["{AUTHORITY.line}"]\n' + ANN + 'names = ["ann"]\n'
    found = users(tmp_path, text)
    for principal in (b"ann", b"ANN@example.com"):
        cert = certificate(KEY, AUTHORITY, principals=(b"bob", principal))
        grant = found.grant(attempt(cert, "ann"), NOW)
        assert grant.key.blob == KEY.blob
        for part in (fingerprint(KEY.blob), "serial 17", fingerprint(AUTHORITY.blob), "laptop"):
            assert part in grant.means
        # The name alone is not enough: there is no API key for Bob.
        assert "for other names" in refused(found, cert, "bob")
    assert "other names" in refused(found, certificate(KEY, AUTHORITY, principals=(b"bob",)))
    # ssh-keygen without -n; OpenSSH takes it for everybody's in some places.
    assert "other names" in refused(found, certificate(KEY, AUTHORITY, principals=()))
    assert "authority is not known" in refused(found, certificate(KEY, OTHER))
    late = certificate(KEY, AUTHORITY, principals=(b"ann",), before=int(NOW))
    assert "expired" in refused(found, late)
    # The authority's own key, and the certified key without its certificate.
    assert "none of the user's" in refused(found, AUTHORITY)
    assert "none of the user's" in refused(found, KEY)


def test_a_users_own_authority_is_for_that_user(tmp_path: Path) -> None:
    bob = f'[users."bob@example.com"]\napi_key = "{SECRET}"\n'
    line = f'cert-authority,principals=\\"ops,ann-backup\\" {AUTHORITY.line}'
    found = users(tmp_path, f'{ANN}keys = ["{line}"]\n{bob}')
    cert = certificate(KEY, AUTHORITY, principals=(b"ann-backup",))
    assert found.grant(attempt(cert), NOW).user.email == "ann@example.com"
    assert "not known" in refused(found, cert, "bob@example.com")
    # With a list of principals the user's own names do not count.
    own = certificate(KEY, AUTHORITY, principals=(b"ann@example.com",))
    assert "other names" in refused(found, own)


def test_a_certificate_for_some_addresses_is_refused_from_others(tmp_path: Path) -> None:
    found = users(tmp_path, f'authorities = ["{AUTHORITY.line}"]\n{ANN}')
    principals = (b"ann@example.com",)
    cert = certificate(
        KEY, AUTHORITY, principals=principals, options={b"source-address": b"192.0.2.0/24"}
    )
    found.grant(attempt(cert), NOW)
    assert "from there" in refused(found, cert, address="198.51.100.1")


def test_a_key_may_be_for_some_addresses_and_a_time(tmp_path: Path) -> None:
    line = f'from=\\"192.0.2.0/24,::1\\",no-pty,expiry-time=\\"20231114221320Z\\" {KEY.line}'
    found = users(tmp_path, f'{ANN}keys = ["{line}"]')
    assert NOW == 1_700_000_000  # that is this time
    found.grant(attempt(KEY), NOW - 1)
    found.grant(attempt(KEY, address="::1"), NOW - 1)
    assert "expired" in refused(found, KEY)
    with pytest.raises(KeyRefused, match="from there"):
        found.grant(attempt(KEY, address="192.0.3.1"), NOW - 1)


def test_a_second_line_for_a_key_counts_where_the_first_does_not(tmp_path: Path) -> None:
    first = f'from=\\"192.0.2.0/24\\" {KEY.line}'
    second = f'from=\\"198.51.100.0/24\\" {KEY.line}'
    found = users(tmp_path, f'{ANN}keys = ["{first}", "{second}"]')
    for address in ("192.0.2.1", "198.51.100.1"):
        found.grant(attempt(KEY, address=address), NOW)
    assert "from there" in refused(found, KEY, address="203.0.113.1")


@pytest.mark.parametrize("what", ["serial", "key", "authority", "certificate"])
def test_what_is_revoked_is_refused(tmp_path: Path, what: str) -> None:
    cert = certificate(KEY, AUTHORITY, principals=(b"ann@example.com",))
    blobs = {"key": KEY.blob, "authority": AUTHORITY.blob, "certificate": cert}
    revoked = "17" if what == "serial" else f'"{fingerprint(blobs[what])}"'
    text = f'authorities = ["{AUTHORITY.line}"]\n{ANN}keys = ["{KEY.line}"]\n'
    found = users(tmp_path, text)
    found.grant(attempt(cert), NOW)
    found = users(tmp_path, f"revoked = [16, {revoked}]\n{text}")
    assert "revoked" in refused(found, cert)
    if what == "key":
        assert "revoked" in refused(found, KEY)
    else:
        found.grant(attempt(KEY), NOW)


def test_a_security_key_may_have_to_ask_for_its_pin(tmp_path: Path) -> None:
    key = signer(SK_ED25519)
    found = users(tmp_path, f'{ANN}keys = ["verify-required {key.line}"]')
    assert found.grant(attempt(key), NOW).user_verified
    assert not users(tmp_path, f'{ANN}keys = ["{key.line}"]').grant(attempt(key), NOW).user_verified


def test_a_line_may_have_blanks_in_its_options_and_none_behind_its_key() -> None:
    bare = " ".join(KEY.line.split()[:2])
    assert AuthorizedKey.parse(bare).key.blob == KEY.blob
    found = AuthorizedKey.parse(
        f'principals="a b, c\\"d" ,cert-authority {bare}'.replace(" ,", ",")
    )
    assert found.principals == {"a b", 'c"d'} and found.authority
    assert AuthorizedKey.parse(f"restrict,no-X11-forwarding\t{bare}").networks is None


# -- what is wrong with it


WRONG = [
    ("users = 5", "users: must be tables"),
    ("[user]\nx = 1", "user: there is no such thing; there are authorities, revoked, users"),
    ("users", "is no TOML"),
    ("[users]\nx = 5", 'users."x": is no e-mail'),
    ('[users]\n"a@b" = 5', 'users."a@b": must be a table'),
    ('[users."ann"]\napi_key = "x"', 'users."ann": is no e-mail address'),
    ('[users." ann@example.com"]\napi_key = "x"', "is no e-mail address"),
    ('[users."a@b"]', 'users."a@b": must have one of api_key and api_key_file'),
    (ANN + 'api_key_file = "x"', "must have one of api_key and api_key_file"),
    ('[users."a\\nb@c"]\napi_key = "x"', 'users."a\\nb@c": is no e-mail address'),
    (ANN + '"a\\nb" = "x"', 'users."ann@example.com"."a\\nb": there is no such thing'),
    (f'[users."a@b"]\napi_key = "{SECRET}', "is no TOML"),
    (f'[users."a@b"]\napi_key = {SECRET}', "is no TOML"),
    (f'[users."a@b"]\napi_key = "{SECRET}"\napi_key = "{SECRET}"', "is no TOML"),
    (ANN + 'password = "x"', 'users."ann@example.com".password: there is no such thing'),
    ('[users."a@b"]\napi_key = 5', 'users."a@b".api_key: must be a text'),
    ('[users."a@b"]\napi_key = ""', 'users."a@b".api_key: is no API key'),
    ('[users."a@b"]\napi_key = "x y"', 'users."a@b".api_key: is no API key'),
    ('[users."a@b"]\napi_key = "ü"', 'users."a@b".api_key: is no API key'),
    ('[users."a@b"]\napi_key_file = 5', 'users."a@b".api_key_file: must be a text'),
    ('[users."a@b"]\napi_key_file = "none"', "cannot be read: No such file"),
    ('[users."a@b"]\napi_key_file = "."', "cannot be read: Is a directory"),
    (ANN + "names = 5", 'users."ann@example.com".names: must be a list of texts'),
    (ANN + "names = [5]", 'users."ann@example.com".names: must be a list of texts'),
    (ANN + 'names = [" "]', 'users."ann@example.com".names: holds an empty name'),
    (
        ANN + 'names = ["x"]\n[users."b@example.com"]\napi_key = "x"\nnames = ["X"]',
        "users.\"b@example.com\": 'x' is the name of ann@example.com, too",
    ),
    (
        ANN + '[users."ANN@example.com"]\napi_key = "x"',
        "'ann@example.com' is the name of ann@example.com, too",
    ),
    (ANN + f'keys = "{KEY.line}"', 'users."ann@example.com".keys: must be a list of texts'),
    ("authorities = 5", "authorities: must be a list of texts"),
    ('authorities = ["x"]', "authorities[0]: begins with something"),
    (
        f"authorities = ['principals=\"x\" {AUTHORITY.line}']",
        "authorities[0]: has principals; these belong into a user's keys",
    ),
    ("revoked = 5", "revoked: must be a list"),
    ("revoked = [0]", "revoked[0]: must be a fingerprint"),
    ("revoked = [1, true]", "revoked[1]: must be a fingerprint"),
    ("revoked = [18446744073709551616]", "revoked[0]: must be a fingerprint"),
    ('revoked = ["MD5:x"]', "revoked[0]: must be a fingerprint"),
    ("revoked = [1.5]", "revoked[0]: must be a fingerprint"),
]


@pytest.mark.parametrize(("text", "place"), WRONG, ids=[place for _, place in WRONG])
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        users(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'users.toml'}: ") and place in line
    assert "\n" not in line and SECRET not in line


#: Keys are others in each process, so that they cannot be in the names of tests.
WRONG_LINES = [
    ("", "holds no public key"),
    ("ssh-ed25519", "holds no public key"),
    ("ssh-ed25519 AAAA!", "its base64 is wrong"),
    ("ssh-ed25519 AAAA", "no whole public key"),
    (KEY.line.replace("ssh-ed25519", "ssh-rsa", 1), "says ssh-rsa, and its key"),
    ("ssh-dss AAAA", "the kind ssh-dss, which is not taken"),
    ("ssh-ed25519-cert-v01@openssh.com AAAA", "which is not taken here"),
    ("sk-ssh-x@openssh.com AAAA", "which is not taken here"),
    (f'command="ls" {KEY.line}', "an option command that is not known"),
    (f'environment="A=b" {KEY.line}', "an option environment that"),
    (f"no-touch-required {KEY.line}", "an option no-touch-required that"),
    (f'no-pty="x" {KEY.line}', "an option no-pty that"),
    (f"{SECRET} {KEY.line}", "an option that is not known"),
    (f"{SECRET}= {KEY.line}", "neither an option nor"),
    (f"from {KEY.line}", "the option from without a value"),
    (f'from="" {KEY.line}', "the option from without a value"),
    (f'from="*.example.com" {KEY.line}', "'*.example.com' is no network"),
    (f'from="192.0.2.1,!192.0.2.2" {KEY.line}', "'!192.0.2.2' is no network"),
    (f'from="192.0.2.1/24" {KEY.line}', "is no network"),
    (f'from="::1",from="::2" {KEY.line}', "the option from twice"),
    (f'from="::1 {KEY.line}', "neither an option nor"),
    (f"FROM=::1 {KEY.line}", "neither an option nor"),
    (f'cert-authority="x" {KEY.line}', "a value for the option cert-authority"),
    (f'principals="ann" {KEY.line}', "without cert-authority"),
    (f'cert-authority,principals="ann," {KEY.line}', "an empty name"),
    (f'expiry-time="20260101" {KEY.line}', "in UTC"),
    (f'expiry-time="20261301Z" {KEY.line}', "in UTC"),
    (f'expiry-time="tomorrow" {KEY.line}', "in UTC"),
    (f"verify-required {KEY.line}", "no security key"),
    (f"cert-authority {signer(SK_ED25519).line}", "a security key as an authority"),
    (f"{signer(b'rsa-sha2-512', bits=1024).line}", "an RSA key of 1024 bits"),
]


@pytest.mark.parametrize(("line", "reason"), WRONG_LINES, ids=[reason for _, reason in WRONG_LINES])
def test_a_line_that_is_wrong_says_so_in_its_place(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        users(tmp_path, f"{ANN}keys = ['{KEY.line}', '{line}']")
    text = str(caught.value)
    assert 'users."ann@example.com".keys[1]: ' in text and reason in text
    assert "\n" not in text and SECRET not in text


@given(st.one_of(st.text(max_size=80), st.text("abc-,=\" \\'ssh", max_size=40)))
@examples(max_examples=300, deadline=None)
def test_any_line_is_a_key_or_wrong(text: str) -> None:
    for line in (text, f"{text} {KEY.line}"):
        try:
            found = AuthorizedKey.parse(line)
        except ValueError as error:
            assert str(error)
        else:
            assert found.key.blob == KEY.blob


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602, 0o601])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "users.toml", ANN, mode)
    with pytest.raises(SettingsError, match=rf"open to others \(mode {mode:04o}\); make it 0600"):
        UsersFile.open(str(path), Clock())
    write(tmp_path / "ann.key", SECRET, mode)
    with pytest.raises(SettingsError, match=r"api_key_file: .*ann\.key: is open to others"):
        users(tmp_path, '[users."a@b"]\napi_key_file = "ann.key"')


def test_a_file_that_nobody_may_write_is_fine(tmp_path: Path) -> None:
    UsersFile.open(str(write(tmp_path / "users.toml", ANN, 0o400)), Clock())


def test_a_file_of_another_user_is_refused_but_for_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "users.toml", ANN)
    owner = path.stat().st_uid
    for me, fine in ((owner, True), (owner + 1, owner == 0), (0, True)):
        monkeypatch.setattr(os, "geteuid", lambda me=me: me)
        if fine:
            UsersFile.open(str(path), Clock())
        else:
            with pytest.raises(SettingsError, match="belongs to another user"):
                UsersFile.open(str(path), Clock())


def test_another_users_file_is_refused_even_where_root_owns_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "users.toml", ANN)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(SettingsError, match="belongs to another user"):
        UsersFile.open(str(path), Clock())


def test_what_is_no_file_or_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    for name in ("bytes", "large"):
        (tmp_path / name).chmod(0o600)
    for name, reason in (
        ("none", "cannot be read"),
        (".", "cannot be read"),
        ("fifo", "is no file"),
        ("bytes", "is not UTF-8"),
        ("large", "has more than"),
    ):
        with pytest.raises(SettingsError, match=reason):
            UsersFile.open(str(tmp_path / name), Clock())


# -- when it changes


def test_a_change_counts_within_a_second(tmp_path: Path, lines: list[Any]) -> None:
    path = write(tmp_path / "users.toml", ANN)
    clock = Clock()
    file = UsersFile.open(str(path), clock)
    write(path, f'{ANN}keys = ["{KEY.line}"]')
    assert "none of the user's" in refused(file.users(), KEY)
    clock.advance(LOOK_SECONDS)
    file.users().grant(attempt(KEY), NOW)
    assert len(lines) == 1 and lines[0]["count"] == 1
    write(path, "")
    clock.advance(LOOK_SECONDS)
    assert "none of the user's" in refused(file.users(), KEY)


def test_a_change_of_an_api_keys_file_counts_too(tmp_path: Path) -> None:
    write(tmp_path / "ann.key", "old-key")
    text = f'[users."ann@example.com"]\napi_key_file = "ann.key"\nkeys = ["{KEY.line}"]'
    clock = Clock()
    file = UsersFile.open(str(write(tmp_path / "users.toml", text)), clock)
    write(tmp_path / "ann.key", "new-key")
    clock.advance(LOOK_SECONDS)
    assert file.users().grant(attempt(KEY), NOW).user.api_key == "new-key"


@pytest.mark.parametrize("how", ["nonsense", "open", "gone", "secret gone"])
def test_a_broken_version_keeps_the_one_before_and_is_one_line(
    tmp_path: Path, lines: list[Any], how: str
) -> None:
    secret = write(tmp_path / "ann.key", SECRET)
    text = f'[users."ann@example.com"]\napi_key_file = "ann.key"\nkeys = ["{KEY.line}"]'
    path = write(tmp_path / "users.toml", text)
    clock = Clock()
    file = UsersFile.open(str(path), clock)
    if how == "nonsense":
        write(path, "users = 5")
    elif how == "open":
        path.chmod(0o644)
    elif how == "gone":
        path.unlink()
    else:
        secret.unlink()
    for _ in range(5):
        clock.advance(LOOK_SECONDS)
        file.users().grant(attempt(KEY), NOW)
    assert len(lines) == 1 and "still counts" in lines[0]["log_format"]
    write(path, text.replace("ann@", "bob@"))
    write(secret, SECRET)
    clock.advance(LOOK_SECONDS)
    file.users().grant(attempt(KEY, "bob@example.com"), NOW)
    assert "none of the user's" in refused(file.users(), KEY)
    assert len(lines) == 2
