"""Nothing that a client sends reaches the local file system as a name.

Every call of this process that names a file is recorded, by Python's own audit events and, for
those of `os` that have none, by taking their place, while names that other servers have fallen for
go through every operation of SFTP and through everything else that a client may name.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest
import pytest_twisted
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paramiko import sftp
from paramiko.sftp_attr import SFTPAttributes
from whole_service import EMAIL, Client, Served, serving, string

from immich_conch.sftp.extensions import ANNOUNCED, COPY_DATA

ROOT = Path(__file__).parent.parent
#: In every name that the client sends; nothing on this machine has it in its name.
MARK = "zq7Hostile"
PASSWORD = "correct horse"

#: Audit events of Python whose first arguments are paths (docs.python.org, "Audit events table").
EVENTS = {
    "open": 1,
    "os.chdir": 1,
    "os.chflags": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.exec": 1,
    "os.getxattr": 1,
    "os.link": 2,
    "os.listdir": 1,
    "os.listxattr": 1,
    "os.mkdir": 1,
    "os.posix_spawn": 1,
    "os.remove": 1,
    "os.removexattr": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.scandir": 1,
    "os.setxattr": 1,
    "os.symlink": 2,
    "os.system": 1,
    "os.truncate": 1,
    "os.utime": 1,
    "ctypes.dlopen": 1,
    "glob.glob": 1,
    "shutil.rmtree": 1,
    "sqlite3.connect": 1,
    "subprocess.Popen": 2,
    "tempfile.mkdtemp": 1,
    "tempfile.mkstemp": 1,
}
#: Calls that look at a name without an event.
SILENT = ("stat", "lstat", "access", "readlink", "statvfs", "mkfifo", "mknod", "pathconf")


@define(eq=False)
class Recorder:
    """The names that this process gives to its operating system, while it is asked to look."""

    names: list[tuple[str, str]] = field(factory=list)
    looking: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; there is no way to take one out again."""
        if self.looking and event in EVENTS:
            for argument in arguments[: EVENTS[event]]:
                self.note(event, argument)

    def note(self, event: str, argument: Any) -> None:
        """Keep what is a name; numbers are files that are open already."""
        if isinstance(argument, (list, tuple)):
            for one in argument:
                self.note(event, one)
        elif isinstance(argument, (str, bytes, os.PathLike)) and not _client():
            self.names.append((event, os.fsdecode(argument)))


def _client() -> bool:
    """Whether this is a thread of the client, whose business is its own."""
    thread = threading.current_thread()
    return thread.name == "client" or isinstance(thread, paramiko.Transport)


RECORDER = Recorder()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Records from when the test lets it look to the end of the test."""
    if not getattr(sys, "_recorded_by_test_local_paths", False):
        sys.addaudithook(RECORDER.hook)
        monkeypatch.setattr(sys, "_recorded_by_test_local_paths", True, raising=False)

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if RECORDER.looking:
                RECORDER.note(f"os.{name}", path)
            return real(path, *arguments, **options)

        return call

    for name in SILENT:
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    RECORDER.names.clear()
    yield RECORDER
    RECORDER.looking = False


def allowed(tmp_path: Path) -> tuple[str, ...]:
    """Where the service has files, and where Python's own lie, which are loaded when needed."""
    own = [tmp_path / name for name in ("spool", "keys", "demo")]
    python = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sys.base_prefix]
    # The host's addresses are looked up by the client and by getaddrinfo's Python half.
    return tuple(map(str, [*own, *python, ROOT]))


def strays(names: Sequence[tuple[str, str]], tmp_path: Path) -> list[tuple[str, str]]:
    """Names of another place, or with anything of the client's in them."""
    places = allowed(tmp_path)
    return [
        (event, name)
        for event, name in names
        if MARK.lower() in name.lower()
        or not any(
            os.path.abspath(name) == place or os.path.abspath(name).startswith(place + os.sep)
            for place in places
        )
    ]


# -- names ----------------------------------------------------------------------------------------

HOSTILE = [
    f"../../../../etc/{MARK}",
    f"/etc/{MARK}",
    f"//etc//{MARK}",
    f"/Rome/../../../../../etc/{MARK}.jpg",
    f"..\\..\\{MARK}.jpg",
    f"C:\\{MARK}.jpg",
    f"\\\\server\\share\\{MARK}",
    f"/Rome/{MARK}.jpg",
    f"/{MARK}/a.jpg",
    f"/{MARK}",
    f"/Rome/{MARK}.jpg\0.png",
    f"\0{MARK}",
    f"/Rome/~/{MARK}.jpg",
    f"~root/{MARK}",
    f"/Rome/$HOME/{MARK}.jpg",
    f"/Rome/`touch {MARK}`.jpg",
    f"/Rome/;touch {MARK};.jpg",
    f"/Rome/%2e%2e%2f{MARK}.jpg",
    f"/Rome/..%c0%af{MARK}.jpg",
    f"/Rome/{MARK}.jpg.filepart",
    f"/Rome/.in.{MARK}.",
    f"/dev/shm/{MARK}",
    f"/proc/self/root/{MARK}",
    f"/dev/fd/../{MARK}",
    f"/Rome/{MARK}" + "x" * 300 + ".jpg",
    f"/{MARK}" + "/deep" * 200,
    f"/Rome/{MARK}" + "y" * 30_000,
    f"/Rome/\u202e{MARK}gpj.exe",
    f"/Rome/{MARK}\r\nX-Injected: 1.jpg",
    f"/@Trash/{MARK}.jpg",
    "/etc/passwd",
    "/proc/self/environ",
    "/proc/self/mem",
    "../keys/ssh_host_ed25519_key",
    "../spool/.lock",
    "/dev/zero",
    "/dev/stdin",
    "CON",
    "NUL.jpg",
    "/Rome/COM1.jpg",
    ".",
    "..",
    "/Rome/..",
    "",
]

names = st.one_of(
    st.sampled_from(HOSTILE).map(lambda text: text.encode()),
    st.sampled_from([b"\xff\xfe", b"\xc0\xae\xc0\xae/", b"\xed\xa0\x80"]).map(
        lambda data: b"/Rome/" + data + MARK.encode() + b".jpg"
    ),
    st.builds(
        lambda parts, end: b"/".join([*parts, MARK.encode() + end]),
        st.lists(st.sampled_from([b"", b".", b"..", b"Rome", b"etc", b"~", b"\x00"]), max_size=6),
        st.binary(max_size=12),
    ),
)


def every_operation(client: Client, name: bytes, other: bytes) -> None:
    """Everything of SFTP that names a file, and everything around it that takes a text."""
    empty, times = SFTPAttributes(), SFTPAttributes()
    times.st_atime = times.st_mtime = 1_500_000_000
    mode = SFTPAttributes()
    mode.st_mode, mode.st_size = 0o777, 3
    ask = client.ask
    for kind in (sftp.CMD_STAT, sftp.CMD_LSTAT, sftp.CMD_REALPATH, sftp.CMD_READLINK):
        ask(kind, name)
    client.close(ask(sftp.CMD_OPEN, name, sftp.SFTP_FLAG_READ, empty))
    client.close(ask(sftp.CMD_OPENDIR, name))
    written = sftp.SFTP_FLAG_WRITE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_TRUNC
    handle = ask(sftp.CMD_OPEN, name, written, mode)
    if handle:
        ask(sftp.CMD_WRITE, handle, sftp.int64(0), b"\xff\xd8" + name)
        ask(sftp.CMD_FSTAT, handle)
        ask(sftp.CMD_EXTENDED, COPY_DATA, copying(handle))
        ask(sftp.CMD_FSETSTAT, handle, times)
        client.close(handle)
    ask(sftp.CMD_SETSTAT, name, times)
    ask(sftp.CMD_SETSTAT, name, mode)
    ask(sftp.CMD_MKDIR, name, empty)
    for old, new in ((name, other), (other, name)):
        ask(sftp.CMD_RENAME, old, new)
        ask(sftp.CMD_SYMLINK, old, new)
    for extension in (*ANNOUNCED, name):
        for data in (string(name), string(name) + string(other), string(name) + b"\0" * 28):
            ask(sftp.CMD_EXTENDED, extension, Raw(data))
    ask(sftp.CMD_REMOVE, name)
    ask(sftp.CMD_RMDIR, name)
    # A handle is the client's to send, too.
    for kind in (sftp.CMD_READ, sftp.CMD_CLOSE, sftp.CMD_READDIR, sftp.CMD_FSTAT):
        ask(kind, name)
    if b"\0" not in name:
        quoted = b"'" + name.replace(b"'", b"'\\''") + b"'"
        for command in (b"sha1sum ", b"scp -t ", b""):
            client.run(command + quoted)


def around(served: Served, name: bytes) -> None:
    """What takes a text outside of SFTP: user, password, environment, subsystem."""
    text = name.decode(errors="replace")
    with served.transport() as transport:
        for user, password in ((text, text), (f"{text}@example.com", text), ("apikey", text)):
            with suppress(paramiko.SSHException, EOFError):
                transport.auth_password(user[:1000], password[:500], fallback=False)
    with served.client(EMAIL, PASSWORD) as client:
        for ask in (
            lambda channel: channel.invoke_subsystem(text),
            lambda channel: channel.set_environment_variable("LD_PRELOAD", text),
            lambda channel: channel.request_x11(auth_cookie="00"),
        ):
            with (
                client.transport.open_session(timeout=30) as channel,
                suppress(paramiko.SSHException),
            ):
                ask(channel)


class Raw(SFTPAttributes):
    """Fields that have their lengths already: paramiko lets attributes alone write themselves."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data

    def _pack(self, message: paramiko.Message) -> None:
        message.add_bytes(self.data)


def copying(handle: bytes) -> Raw:
    """The fields of copy-data: the first byte to behind the ninth."""
    numbers = (0).to_bytes(8, "big") + (1).to_bytes(8, "big")
    return Raw(string(handle) + numbers + string(handle) + (9).to_bytes(8, "big"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest_twisted.ensureDeferred
async def test_no_name_of_a_client_is_a_name_on_this_machine(
    tmp_path: Path, recorder: Recorder
) -> None:
    async with serving(tmp_path, "--views=all", "--settle=0.2") as served:
        rome = served.demo.add_asset(served.alice, "a.jpg", b"\xff\xd8a", 1.5e9)
        served.demo.add_album(served.alice, "Rome", [rome])
        recorder.looking = True
        examples = 0

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(names, names)
        def hostile(name: bytes, other: bytes) -> None:
            nonlocal examples
            examples += 1
            every_operation(client, name, other)

        def work() -> None:
            threading.current_thread().name = "client"
            nonlocal client
            with served.client(EMAIL, PASSWORD) as client:
                for name, other in zip(HOSTILE, reversed(HOSTILE), strict=True):
                    every_operation(client, name.encode(), other.encode())
                hostile()
            for name in HOSTILE[::11]:
                around(served, name.encode())

        client: Client
        await served.thread(work)
        assert examples >= 25
        uploads = served.demo.requests["POST /assets"]
    found = strays(recorder.names, tmp_path)
    assert not found, "\n".join(sorted({f"{event} {name!r}" for event, name in found}))
    # It did look: uploads were in the spool, their journal was written there and went.
    spool = [name for event, name in recorder.names if name.startswith(str(tmp_path / "spool"))]
    assert {event for event, name in recorder.names if name in set(spool)} >= {"open", "os.rename"}
    assert uploads >= 5


def test_a_name_that_did_come_through_would_be_seen(tmp_path: Path, recorder: Recorder) -> None:
    recorder.looking = True
    for call in (
        lambda: Path(f"/etc/{MARK}").read_bytes(),
        lambda: os.stat(f"/{MARK}"),
        lambda: os.rename(tmp_path / "spool" / "a", tmp_path / "spool" / MARK),
        lambda: os.listdir("/etc"),
        lambda: (tmp_path / "spool" / "x" / ".." / ".." / "y").exists(),
        lambda: os.system(f"true {MARK}"),
    ):
        recorder.names.clear()
        with suppress(OSError):
            call()
        assert len(strays(recorder.names, tmp_path)) >= 1
