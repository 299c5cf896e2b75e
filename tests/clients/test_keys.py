"""SSH keys, certificates and prompts, as real clients use them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest
from attrs import frozen
from harness import CLIENT, Service, User, World, run
from openssh import OpenSSH

KINDS = ("ed25519", "ecdsa", "rsa")
NOTHING = (
    *("-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "ConnectTimeout=20", "-o", "IdentityAgent=none", "-o", "NumberOfPasswordPrompts=1"),
)
KEYS_ONLY = ("-o", "PreferredAuthentications=publickey", "-o", "IdentitiesOnly=yes")


@frozen
class Keyring:
    """Keys of one user, and the services that know them."""

    place: Path
    user: User
    service: Service
    #: Takes no passwords.
    strict: Service

    def key(self, name: str) -> Path:
        """A private key; its public half has `.pub` behind."""
        return self.place / name

    def sftp(
        self, service: Service, *options: str, commands: str = "ls", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """OpenSSH's sftp, which asks nobody."""
        (self.place / "batch").write_text(commands + "\n")
        return run(
            [
                *("sftp", *options, *NOTHING, "-b", str(self.place / "batch")),
                *("-P", str(service.port), "-o", f"User={self.user.email}", "127.0.0.1"),
            ],
            cwd=self.place,
            env={"SSH_AUTH_SOCK": ""},
            check=check,
        )


def _make(place: Path, name: str, *options: str) -> str:
    """A key by ssh-keygen; its public line."""
    file = place / name
    run(["ssh-keygen", "-q", "-N", "", "-C", name, *options, "-f", file], cwd=place)
    return file.with_name(name + ".pub").read_text().strip()


def _certify(place: Path, name: str, *options: str) -> None:
    arguments = ("-s", place / "ca", "-I", "a laptop", "-z", "42", *options)
    run(["ssh-keygen", "-q", *arguments, place / f"{name}.pub"], cwd=place)


@pytest.fixture(scope="session")
def keyrings() -> dict[str, Keyring]:
    return {}


@pytest.fixture
def keyring(modern: World, tool: Callable[[str], str], keyrings: dict[str, Keyring]) -> Keyring:
    """Made once: the file is read before the first test."""
    for name in ("ssh-keygen", "sftp"):
        tool(name)
    if "one" not in keyrings:
        place = modern.directory / "keyring"
        place.mkdir()
        user = modern.user()
        user.album("Album", user.assets(["a.jpg"]))
        lines = [
            _make(place, "ed25519", "-t", "ed25519"),
            _make(place, "ecdsa", "-t", "ecdsa", "-b", "384"),
            _make(place, "rsa", "-t", "rsa", "-b", "3072"),
            'from="192.0.2.0/24" ' + _make(place, "elsewhere", "-t", "ed25519"),
            'from="127.0.0.0/8" ' + _make(place, "here", "-t", "ed25519"),
        ]
        for number in range(7):
            _make(place, f"unknown{number}", "-t", "ed25519")
        authority = _make(place, "ca", "-t", "ecdsa", "-b", "256")
        for kind in KINDS:
            _make(place, f"certified-{kind}", "-t", kind)
            _certify(place, f"certified-{kind}", "-n", f"somebody,{user.email}", "-V", "-1h:+1h")
        for name, options in {
            "expired": ("-n", user.email, "-V", "-2h:-1h"),
            "somebodys": ("-n", "somebody@example.com"),
            "forced": ("-n", user.email, "-O", "force-command=ls"),
            "away": ("-n", user.email, "-O", "source-address=192.0.2.0/24"),
            "at-home": ("-n", user.email, "-O", "source-address=127.0.0.0/8"),
            "revoked": ("-n", user.email, "-z", "666"),
        }.items():
            _make(place, name, "-t", "ed25519")
            _certify(place, name, *options)
        file = place / "users.toml"
        quoted = ", ".join(f"'{line}'" for line in lines)
        file.write_text(
            f"authorities = ['{authority}']\nrevoked = [666]\n"
            f'[users."{user.email}"]\napi_key_file = "api-key"\nkeys = [{quoted}]\n'
        )
        (place / "api-key").write_text(user.key() + "\n")
        for secret in (file, place / "api-key"):
            secret.chmod(0o600)
        keyrings["one"] = Keyring(
            place,
            user,
            modern.service("keys", "--users-file", str(file)),
            modern.service("strict", "--users-file", str(file), "--password-login", "off"),
        )
    return keyrings["one"]


# -- OpenSSH


@pytest.mark.parametrize("kind", KINDS)
def test_openssh_with_a_key(keyring: Keyring, kind: str, tmp_path: Path) -> None:
    (tmp_path / f"{kind}.jpg").write_bytes(kind.encode())
    options = (*KEYS_ONLY, "-i", str(keyring.key(kind)))
    keyring.sftp(keyring.service, *options, commands=f"put -p {tmp_path}/{kind}.jpg Album/")
    keyring.user.uploaded("Album", f"{kind}.jpg", kind.encode())


def test_openssh_signs_with_sha_2_alone(keyring: Keyring) -> None:
    options = (*KEYS_ONLY, "-i", str(keyring.key("rsa")), "-o", "LogLevel=DEBUG1")
    for name in ("rsa-sha2-256", "rsa-sha2-512"):
        done = keyring.sftp(keyring.service, *options, "-o", f"PubkeyAcceptedAlgorithms={name}")
        assert "server-sig-algs=<ssh-ed25519," in done.stderr
    old = ("-o", "PubkeyAcceptedAlgorithms=ssh-rsa")
    assert keyring.sftp(keyring.service, *options, *old, check=False).returncode == 255


@pytest.mark.parametrize("name", [*(f"certified-{kind}" for kind in KINDS), "at-home"])
def test_openssh_with_a_certificate(keyring: Keyring, name: str) -> None:
    options = (*KEYS_ONLY, "-i", str(keyring.key(name)))
    assert "Album" in keyring.sftp(keyring.service, *options).stdout
    keyring.service.wait_for(
        r"logged in with the SSH key SHA256:\S+, certificate 'a laptop' serial"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired", "it has expired"),
        ("somebodys", "is for other names"),
        ("forced", "its critical option force-command is not known here"),
        ("away", "is not for use from there"),
        ("revoked", "serial 666 is revoked"),
    ],
)
def test_a_certificate_that_is_not_good_here_is_refused(
    keyring: Keyring, name: str, reason: str
) -> None:
    options = (*KEYS_ONLY, "-i", str(keyring.key(name)))
    assert keyring.sftp(keyring.service, *options, check=False).returncode == 255
    keyring.service.wait_for(f"log-in of '{keyring.user.email}' refused: .*{reason}")


def test_a_key_is_good_from_where_it_may_be_used(keyring: Keyring) -> None:
    here, elsewhere = (str(keyring.key(name)) for name in ("here", "elsewhere"))
    keyring.sftp(keyring.service, *KEYS_ONLY, "-i", here)
    done = keyring.sftp(keyring.service, *KEYS_ONLY, "-i", elsewhere, check=False)
    assert done.returncode == 255


def test_a_key_is_nobody_elses(keyring: Keyring, modern: World) -> None:
    other = modern.user()
    for email in (other.email, "nobody@example.com"):
        # The first value counts.
        options = (*KEYS_ONLY, "-i", str(keyring.key("ed25519")), "-o", f"User={email}")
        assert keyring.sftp(keyring.service, *options, check=False).returncode == 255


def test_after_five_keys_in_vain_there_is_a_last_attempt_and_no_more(keyring: Keyring) -> None:
    unknown = [part for number in range(7) for part in ("-i", str(keyring.key(f"unknown{number}")))]
    own = ("-i", str(keyring.key("ed25519")))
    keyring.sftp(keyring.service, *KEYS_ONLY, *unknown[: 2 * 5], *own)
    done = keyring.sftp(keyring.service, *KEYS_ONLY, *unknown[: 2 * 6], *own, check=False)
    assert done.returncode == 255 and "too many failed log-ins" in done.stderr


def test_a_password_works_after_a_key_in_vain(
    keyring: Keyring, openssh: OpenSSH, modern_user: User
) -> None:
    modern_user.album("Mine")
    unknown = ("-i", str(keyring.key("unknown0")))
    methods = ("-o", "PreferredAuthentications=publickey,password")
    done = openssh.sftp(keyring.service, modern_user, "ls", *unknown, *methods)
    assert "Mine" in done.stdout


def test_openssh_is_asked_for_the_password(openssh: OpenSSH, modern: World) -> None:
    user = modern.user()
    user.album("Mine")
    method = ("-o", "PreferredAuthentications=keyboard-interactive")
    assert "Mine" in openssh.sftp(modern.later, user, "ls", *method).stdout
    done = openssh.sftp(modern.later, user, "ls", *method, check=False, password="wrong")
    assert done.returncode == 255 and "Permission denied" in done.stderr


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_where_passwords_are_off_only_keys_open(
    keyring: Keyring, openssh: OpenSSH, method: str
) -> None:
    options = ("-o", f"PreferredAuthentications={method}")
    done = openssh.sftp(keyring.strict, keyring.user, "ls", *options, check=False)
    assert done.returncode == 255 and "Permission denied (publickey)" in done.stderr
    assert "Album" in keyring.sftp(keyring.strict, "-i", str(keyring.key("ed25519"))).stdout


def test_who_guesses_passwords_behind_a_gateway_keeps_no_key_away(
    keyring: Keyring, openssh: OpenSSH, modern: World
) -> None:
    hidden = ("--addresses", "hidden", "--ban-threshold", "20", "--login-delay", "0")
    users = ("--users-file", str(keyring.place / "users.toml"))
    service = modern.service("gateway", *hidden, *users)
    method = ("-o", "PreferredAuthentications=password")
    for password in ("wrong", "worse", "worst", keyring.user.password):
        done = openssh.sftp(service, keyring.user, "ls", *method, check=False, password=password)
        assert done.returncode == 255 and "Permission denied" in done.stderr
    service.wait_for(f"banned user '{keyring.user.email}'")
    key = (*KEYS_ONLY, "-i", str(keyring.key("ed25519")))
    assert "Album" in keyring.sftp(service, *key).stdout


# -- others


@pytest.mark.parametrize("kind", KINDS)
def test_psftp_with_a_key(keyring: Keyring, tool: Callable[[str], str], kind: str) -> None:
    ppk = keyring.place / f"{kind}.ppk"
    run([tool("puttygen"), keyring.key(kind), "-O", "private", "-o", ppk], cwd=keyring.place)
    (keyring.place / "script").write_text("ls\nquit\n")
    hosts = [part for key in keyring.service.fingerprints() for part in ("-hostkey", key)]
    who = ("-P", str(keyring.service.port), "-l", keyring.user.email, "-i", str(ppk), "-noagent")
    command = [tool("psftp"), *hosts, *who, "-batch", "-b", "script", "127.0.0.1"]
    assert "Album" in run(command, cwd=keyring.place).stdout


def test_psftp_is_asked_for_the_password(
    tool: Callable[[str], str], modern: World, modern_user: User, tmp_path: Path
) -> None:
    """It prefers to be asked, unless it is told not to."""
    modern_user.album("Mine")
    (tmp_path / "script").write_text("ls\nquit\n")
    (tmp_path / "password").write_text(modern_user.password + "\n")
    hosts = [part for key in modern.later.fingerprints() for part in ("-hostkey", key)]
    who = ("-P", str(modern.later.port), "-l", modern_user.email, "-pwfile", "password")
    command = [tool("psftp"), *hosts, *who, "-v", "-batch", "-b", "script", "127.0.0.1"]
    done = run(command, cwd=tmp_path)
    assert "Mine" in done.stdout and "eyboard-interactive" in done.stdout + done.stderr


@pytest.mark.parametrize("name", [*KINDS, *(f"certified-{kind}" for kind in KINDS)])
def test_paramiko_with_a_key(keyring: Keyring, name: str) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
        client.connect(
            "127.0.0.1",
            keyring.service.port,
            keyring.user.email,
            key_filename=str(keyring.key(name)),
            allow_agent=False,
            look_for_keys=False,
        )
        assert "Album" in client.open_sftp().listdir("/")


def test_paramiko_is_asked_for_the_password(modern: World, modern_user: User) -> None:
    modern_user.album("Mine")
    asked = []

    def answer(title: str, text: str, prompts: list[tuple[str, bool]]) -> list[str]:
        asked.append((title, text, prompts))
        return [modern_user.password for _ in prompts]

    transport = paramiko.Transport(("127.0.0.1", modern.later.port))
    try:
        transport.start_client(timeout=CLIENT)
        transport.auth_interactive(modern_user.email, answer)
        sftp = paramiko.SFTPClient.from_transport(transport)
        assert sftp is not None and "Mine" in sftp.listdir("/")
    finally:
        transport.close()
    assert asked == [("", "", [("Password: ", False)])]


@pytest.mark.parametrize("name", [*KINDS, *(f"certified-{kind}" for kind in KINDS)])
def test_asyncssh_with_a_key(keyring: Keyring, name: str) -> None:
    async def work() -> list[str]:
        async with (
            asyncssh.connect(
                "127.0.0.1",
                keyring.service.port,
                username=keyring.user.email,
                client_keys=[str(keyring.key(name))],
                known_hosts=None,
                agent_path=None,
                config=None,
            ) as connection,
            connection.start_sftp_client() as client,
        ):
            return [str(found) for found in await client.listdir("/")]

    assert "Album" in asyncio.run(asyncio.wait_for(work(), CLIENT))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_curl_with_a_key(keyring: Keyring, tool: Callable[[str], str], kind: str) -> None:
    """With libssh2; only from 1.11 on it signs with RSA and SHA-2."""
    program = tool("curl")
    if "sftp" not in run([program, "--version"], cwd=keyring.place).stdout:
        pytest.skip("curl is built without SFTP")
    key = str(keyring.key(kind))
    done = run(
        [
            *(
                program,
                "-sS",
                "--insecure",
                "--max-time",
                "50",
                "--key",
                key,
                "--pubkey",
                f"{key}.pub",
            ),
            *("--user", f"{keyring.user.email}:", f"sftp://127.0.0.1:{keyring.service.port}/"),
        ],
        cwd=keyring.place,
    )
    assert "Album" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_rclone_with_a_key(
    keyring: Keyring, programs: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "rclone.conf").write_text(
        f"[there]\ntype = sftp\nhost = 127.0.0.1\nport = {keyring.service.port}\n"
        f"user = {keyring.user.email}\nkey_file = {keyring.key(kind)}\n"
    )
    program = programs("installed")
    done = run([program, "--config", "rclone.conf", "lsf", "there:"], cwd=tmp_path)
    assert "Album/" in done.stdout.splitlines()


def test_lftp_with_a_key(keyring: Keyring, tool: Callable[[str], str]) -> None:
    options = " ".join((*NOTHING[:6], *KEYS_ONLY, "-i", str(keyring.key("ed25519"))))
    (keyring.place / "script.lftp").write_text(
        f'set sftp:connect-program "ssh -a -x {options}"\n'
        "set sftp:auto-confirm yes\nset net:max-retries 1\nset net:timeout 20\n"
        "set cmd:fail-exit yes\n"
        f'open -u "{keyring.user.email}," sftp://127.0.0.1:{keyring.service.port}\ncls\n'
    )
    assert "Album" in run([tool("lftp"), "-f", "script.lftp"], cwd=keyring.place).stdout


@pytest.fixture(autouse=True)
def no_secrets(keyrings: dict[str, Keyring]) -> Iterator[None]:
    """The API key that stands behind the keys is in no log."""
    yield
    for keyring in keyrings.values():
        secret = (keyring.place / "api-key").read_text().strip()
        for service in (keyring.service, keyring.strict):
            assert secret not in service.text()
