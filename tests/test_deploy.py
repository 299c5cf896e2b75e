"""The units for systemd: what they allow, that they fit the settings, and their sockets."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from immich_conch import settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SERVICE = DEPLOY / "immich-conch.service"
SOCKET = DEPLOY / "immich-conch.socket"
DROP_INS = sorted((DEPLOY / "immich-conch.service.d").glob("*.conf"))
#: What systemd calls "OK" begins below 5; a service that is careful is below this.
EXPOSURE = 2.0
#: Takes the sockets and further options, gives the log.
Start = Callable[..., Path]
#: Seconds for a process to be ready or to end.
READY = 60.0


def lines(unit: Path) -> list[tuple[str, str, str]]:
    """Section, key and value of each line of a unit."""
    section, found = "", []
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, _, value = line.partition("=")
        found.append((section, key, value))
    return found


def values(unit: Path, key: str) -> list[str]:
    return [value for _, name, value in lines(unit) if name == key]


def installed(place: Path, *drop_ins: Path) -> Path:
    """The service with some of its drop-ins, alone in a directory as systemd would have it."""
    for unit in (SERVICE, SOCKET):
        shutil.copy(unit, place)
    for drop_in in drop_ins:
        target = place / "immich-conch.service.d"
        target.mkdir(exist_ok=True)
        shutil.copy(drop_in, target)
    return place / SERVICE.name


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path and path.stem)
def test_systemd_finds_the_service_well_locked_up(tmp_path: Path, drop_in: Path | None) -> None:
    unit = installed(tmp_path, *([drop_in] if drop_in else []))
    done = systemd_analyze("security", "--offline=true", "--no-pager", unit)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+) ", done.stdout)
    assert match is not None, done.stdout + done.stderr
    assert float(match[1]) < EXPOSURE, done.stdout


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path and path.stem)
def test_systemd_understands_every_line(tmp_path: Path, drop_in: Path | None) -> None:
    unit = installed(tmp_path, *([drop_in] if drop_in else []))
    done = systemd_analyze("verify", unit, tmp_path / SOCKET.name)
    told = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        # The program is not installed on this machine, nor are other units in a container.
        if "immich-conch" in line and "is not executable" not in line
    ]
    assert told == []


def test_the_units_set_variables_that_exist_to_places_that_are_kept() -> None:
    found: dict[str, str] = {}
    for unit in (SERVICE, *DROP_INS):
        for value in values(unit, "Environment"):
            name, _, text = value.partition("=")
            if name.startswith("IMMICH"):
                found[name] = text
    known = {settings.environment_name(field) for field in settings.fields()}
    assert set(found) <= known
    [state] = values(SERVICE, "StateDirectory")
    for name in ("IMMICH_CONCH_HOST_KEY_DIR", "IMMICH_CONCH_SPOOL_DIR"):
        assert found[name].startswith(f"%S/{state}/")
    # Commented, for who wants it: the twin that names a file.
    twins = re.findall(r"^#Environment=(\w+)_FILE=%d/", SERVICE.read_text(), re.MULTILINE)
    assert twins and set(twins) <= known


def test_a_stopped_service_has_time_to_bring_uploads_in() -> None:
    [patience] = values(SERVICE, "TimeoutStopSec")
    assert int(patience) > settings.Settings().stop_timeout


def test_the_service_is_nobody_and_has_no_capability() -> None:
    assert values(SERVICE, "DynamicUser") == ["yes"]
    assert values(SERVICE, "CapabilityBoundingSet") == [""]
    assert values(SERVICE, "LimitCORE") == ["0"]


# -- sockets that are handed over ----------------------------------------------------------------

#: Puts sockets where sd_listen_fds(3) has them and becomes the service.
LAUNCHER = """
import os, sys
handed = [int(text) for text in sys.argv[1].split(",")]
# Out of the way first: one of them may lie where another one belongs.
copies = [os.dup(os.dup(os.dup(number))) for number in handed]
for place, number in enumerate(copies, 3):
    os.dup2(number, place, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(handed))
os.environ["LISTEN_FDNAMES"] = ":".join(["immich-conch.socket"] * len(handed))
start = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
os.execv(sys.executable, [sys.executable, "-c", start, *sys.argv[2:]])
"""


def listening(family: socket.AddressFamily, host: str, port: int = 0) -> socket.socket:
    made = socket.socket(family)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
    made.bind((host, port))
    made.listen()
    return made


def ipv6() -> bool:
    try:
        listening(socket.AF_INET6, "::1").close()
    except OSError:
        return False
    return True


def endpoints() -> list[str]:
    """What the drop-in for socket activation tells the service."""
    command = shlex.split(values(DEPLOY / "immich-conch.service.d" / "socket.conf", "ExecStart")[1])
    assert command[1:4] == ["-n", "--pidfile=", "immich-sftp"]
    return command[4:]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the service with sockets and further options; ends it."""
    started: list[subprocess.Popen[bytes]] = []

    def run(handed: list[socket.socket], *options: str) -> Path:
        log = tmp_path / "log"
        numbers = [one.fileno() for one in handed]
        environment = {key: text for key, text in os.environ.items() if "IMMICH" not in key}
        with log.open("wb") as output:
            started.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-c", LAUNCHER, ",".join(map(str, numbers))),
                        *("-n", "--pidfile=", "immich-sftp", "--demo"),
                        *("--host-key-dir", str(tmp_path / "keys")),
                        *("--spool-dir", str(tmp_path / "spool"), *options),
                    ],
                    cwd=tmp_path,
                    env={**environment, "PYTHONPATH": str(ROOT)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=numbers,
                )
            )
        return log

    yield run
    for process in started:
        process.terminate()
        # twistd stops in order and then ends by the signal that it got.
        assert process.wait(READY) == -signal.SIGTERM


def greeting(address: tuple[str, int], log: Path) -> bytes:
    """What the service says first; systemd's sockets take connections before it does."""
    with socket.create_connection(address, timeout=READY) as connection:
        heard = connection.makefile("rb").readline(256)
    assert heard, log.read_text()
    return heard


def test_the_service_answers_on_the_sockets_that_systemd_hands_over(start: Start) -> None:
    """Both families, with the options of the drop-in; who comes early waits."""
    if not ipv6():
        # A machine without IPv6 shows the half that it can.
        with listening(socket.AF_INET, "127.0.0.1") as four:
            log = start([four], *endpoints()[:2])
            assert greeting(four.getsockname(), log).startswith(b"SSH-2.0-")
        return
    four = listening(socket.AF_INET, "127.0.0.1")
    six = listening(socket.AF_INET6, "::1")
    with four, six:
        log = start([four, six], *endpoints())
        assert greeting(four.getsockname()[:2], log).startswith(b"SSH-2.0-")
        assert greeting(six.getsockname()[:2], log).startswith(b"SSH-2.0-")


def test_one_socket_for_both_families_will_do(start: Start) -> None:
    there = ipv6()
    family, host = (socket.AF_INET6, "::") if there else (socket.AF_INET, "0.0.0.0")
    with listening(family, host) as both:
        log = start([both], "--endpoint", f"systemd:domain={family.name[3:]}:index=0")
        port = both.getsockname()[1]
        for address in ("127.0.0.1", "::1") if there else ("127.0.0.1",):
            assert greeting((address, port), log).startswith(b"SSH-2.0-")


def test_the_socket_unit_listens_in_the_order_that_the_service_expects() -> None:
    streams = values(SOCKET, "ListenStream")
    families = ["INET6" if text.startswith("[") else "INET" for text in streams]
    expected: list[str] = []
    for index, family in enumerate(families):
        expected += ["--endpoint", f"systemd:domain={family}:index={index}"]
    assert endpoints() == expected
    assert values(SOCKET, "BindIPv6Only") == ["ipv6-only"]
    assert values(SOCKET, "Accept") == ["no"]


def test_without_the_sockets_the_service_says_so_and_ends(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "twisted", "immich-sftp", "--demo"),
            *("--host-key-dir", str(tmp_path / "keys"), "--spool-dir", str(tmp_path / "spool")),
            *endpoints()[:2],
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=READY,
        check=False,
    )
    assert done.returncode == 1
    assert "no such socket was handed over" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < READY
