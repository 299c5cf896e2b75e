"""No secret is in the log, in a repr, in a traceback, in an error for the client, or on the disk.

A whole session against the whole service, with `--log-requests`: log-ins right and wrong by
password and API key, faults from Immich at every turn, crashes with the credential in the frames.
"""

from __future__ import annotations

import ast
import base64
import gc
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import paramiko
import pytest
import pytest_twisted
from attrs import define, field
from rig import until
from twisted.internet.defer import Deferred, getDebugging
from twisted.logger import LogEvent, globalLogPublisher, textFileLogObserver
from whole_service import EMAIL, Client, Served, serving

from immich_conch.immich.http import Http

PACKAGE = Path(__file__).parent.parent / "immich_conch"
PASSWORD = "Sesame-öffne-dich-4711"
WRONG = "Simsim-falsch-0815"
#: Looks like a key to the service, and is none.
WRONG_KEY = "NoKeyOfAnybody0123456789NoKeyOfAnybody0123"
PEM = "PRIVATE KEY"
#: What prints the values of variables, or makes Twisted keep them.
#: Objects of one class whose repr is looked at; there are thousands of some.
OF_A_KIND = 3
BANNED = {"setDebugging", "startDebugMode", "printDetailedTraceback", "faulthandler"}


def shapes(secret: str) -> Iterator[str]:
    """A secret as it may come out: plain, quoted, as Python or JSON write it, in base64."""
    yield secret
    yield quote(secret)
    yield ascii(secret)[1:-1]
    yield repr(secret.encode())[2:-1]
    for start in range(3):
        # Wherever in a longer text it stood.
        encoded = base64.b64encode(b"x" * start + secret.encode()).decode()
        yield encoded[(0, 2, 3)[start] :].rstrip("=")[:-2]


@define(eq=False)
class Watch:
    """The log as it would be written, and the events behind it."""

    secrets: set[str] = field(factory=set)
    events: list[LogEvent] = field(factory=list)
    written: io.StringIO = field(factory=io.StringIO)
    reprs: int = 0
    told: list[str] = field(factory=list)
    _write: Callable[[LogEvent], None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._write = textFileLogObserver(self.written)

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)
        self._write(event)

    def check(self, where: str, text: str, *, plain: bool = False) -> None:
        """Note a secret in a text; a repr is Python's own, and long, so only `plain` ones."""
        for secret in self.secrets:
            for shape in {secret, ascii(secret)[1:-1]} if plain else shapes(secret):
                if shape in text:
                    at = text.index(shape)
                    self.told.append(f"{where}: {text[max(0, at - 80) : at + len(shape) + 20]!r}")

    def look_at_objects(self) -> None:
        """The repr of every object of ours that is there just now, and of Conch's and cred's."""
        shown: Counter[type] = Counter()
        for found in gc.get_objects():
            # Of a few classes it is a property.
            module = str(type(found).__module__)
            if module.startswith("immich_conch.demo") or not module.startswith(
                ("immich_conch", "twisted.conch", "twisted.cred", "treq")
            ):
                continue
            shown[type(found)] += 1
            if shown[type(found)] > OF_A_KIND:
                continue
            with suppress(AttributeError, TypeError):
                # What Conch has not finished making has no repr.
                self.check(f"repr of {type(found).__qualname__}", repr(found), plain=True)
                self.reprs += 1

    def look_at_log(self) -> None:
        """All that was written, and all that an observer could make of the failures in it."""
        self.check("the log", self.written.getvalue())
        for event in self.events:
            failure = event.get("log_failure")
            if failure is not None:
                for detail in ("brief", "default", "verbose"):
                    self.check(f"a {detail} traceback", failure.getTraceback(detail=detail))


@pytest.fixture
def watch() -> Iterator[Watch]:
    found = Watch({PASSWORD, WRONG, WRONG_KEY, PEM})
    globalLogPublisher.addObserver(found)
    yield found
    globalLogPublisher.removeObserver(found)


def use(client: Client, watch: Watch) -> None:
    """What clients do; errors are looked at, too."""
    for step in (
        lambda: client.sftp.listdir_attr("/Rome"),
        lambda: client.sftp.open("/Rome/a.jpg").read(),
        lambda: client.sftp.putfo(io.BytesIO(b"\xff\xd8new"), "/Rome/b.jpg", confirm=False),
        lambda: client.sftp.utime("/Rome/b.jpg", (1.5e9, 1.5e9)),
        lambda: client.sftp.rename("/Rome/b.jpg", "/Rome/c.jpg"),
        lambda: client.sftp.remove("/Rome/c.jpg"),
        lambda: client.sftp.mkdir("/Paris"),
        lambda: client.run(b"sha1sum /Rome/a.jpg"),
    ):
        try:
            step()
        except (OSError, EOFError, paramiko.SSHException) as error:
            watch.check("an error for the client", str(error))


def refused(served: Served, watch: Watch, user: str, password: str) -> None:
    """A log-in that has to fail."""
    with served.transport() as transport:
        try:
            transport.auth_password(user, password, fallback=False)
        except (paramiko.SSHException, EOFError) as error:
            watch.check("an error for the client", str(error))
        else:
            pytest.fail(f"{user} was let in")


def entered(served: Served, watch: Watch, user: str, password: str) -> None:
    """A log-in and what follows; either may fail, for Immich has a bad day."""
    try:
        with served.client(user, password) as client:
            use(client, watch)
    except (OSError, EOFError, paramiko.SSHException) as error:
        watch.check("an error for the client", str(error))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest_twisted.ensureDeferred
async def test_no_secret_comes_out_anywhere(
    tmp_path: Path,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    logged_errors: Any,
) -> None:
    # Each log-in is to reach Immich, on its bad days too.
    options = ("--log-requests", "--settle=0.2", "--login-memory=0")
    async with serving(tmp_path, *options, password=PASSWORD) as served:
        demo, tokens = served.demo, set()
        log_in = demo.state.log_in

        def noting(email: str, password: str) -> Any:
            found = log_in(email, password)
            if found is not None:
                tokens.add(found[1])
                watch.secrets.add(found[1])
            return found

        monkeypatch.setattr(demo.state, "log_in", noting)
        rome = demo.add_asset(served.alice, "a.jpg", b"\xff\xd8a", 1.5e9)
        demo.add_album(served.alice, "Rome", [rome])
        key = demo.add_key(served.alice)
        weak = demo.add_key(served.alice, ["user.read"])
        other = demo.add_user("bob@example.com", "Bobs-" + PASSWORD, "Bob")
        foreign = demo.add_key(other)
        watch.secrets |= {key, weak, foreign}
        ways = [(EMAIL, PASSWORD), (EMAIL, key), ("apikey", key), ("apikey", weak)]

        # Log-ins that fail, each for a reason of its own.
        def wrong() -> None:
            for user, password in (
                (EMAIL, WRONG),
                (EMAIL, WRONG_KEY),
                (EMAIL, foreign),
                ("apikey", WRONG),
                ("apikey", f"{WRONG}\r\nx-api-key: {key}"),
                ("apikey", PASSWORD),
                ("nobody", PASSWORD),
                ("nobody@example.com", PASSWORD),
                (EMAIL, PASSWORD + "x"),
            ):
                refused(served, watch, user, password)
            with served.transport() as transport:
                # Not UTF-8: paramiko passes bytes on as they are.
                with suppress(paramiko.SSHException, EOFError):
                    transport.auth_password(EMAIL, WRONG.encode() + b"\xff", fallback=False)
                assert not transport.is_authenticated()

        await served.thread(wrong)

        # Objects while a log-in is under way, and in a session.
        demo.faults.add("hang", route="/auth/login", seconds=1.0)
        pending = Deferred.fromCoroutine(
            served.thread(lambda: entered(served, watch, EMAIL, PASSWORD))
        )
        await until(lambda: not len(demo.faults))
        watch.look_at_objects()
        await pending

        # Immich's bad days, at log-in and later.
        def bad(kind: str, **options: Any) -> None:
            for user, password in ways:
                demo.faults.add(kind, **options)
                entered(served, watch, user, password)
                demo.faults.clear()

        for kind, fault in (
            ("status", {"status": 500, "count": 3}),
            ("status", {"status": 401, "route": "/albums"}),
            ("refuse", {"count": 2}),
            ("cut-response", {"after": 5, "route": "/auth/login"}),
            ("cut-request", {"after": 5, "method": "POST"}),
            ("lose-answer", {"method": "POST"}),
            ("revoked", {"route": "/albums"}),
        ):
            await served.thread(lambda kind=kind, fault=fault: bad(kind, **fault))
            if kind == "revoked":
                key = demo.add_key(served.alice)
                watch.secrets.add(key)
                ways[1:3] = [(EMAIL, key), ("apikey", key)]

        # Crashes with password, token and key in the frames above.
        whole = Http.answer
        crash_at: list[str] = []

        async def crashing(
            self: Http, method: str, path: str, headers: Any, *given: Any, **more: Any
        ) -> Any:
            if path in crash_at:
                raise RuntimeError(f"a mistake of ours at {path}")
            return await whole(self, method, path, headers, *given, **more)

        monkeypatch.setattr(Http, "answer", crashing)

        def crash() -> None:
            for user, password in ways:
                entered(served, watch, user, password)

        for places in (("/auth/login", "/users/me"), ("/albums",), ("/assets",)):
            crash_at[:] = places
            await served.thread(crash)
        monkeypatch.setattr(Http, "answer", whole)

        def good() -> None:
            with served.client(EMAIL, PASSWORD) as client:
                use(client, watch)

        await served.thread(good)
        watch.look_at_objects()
        for path in (tmp_path / "spool").rglob("*"):
            if path.is_file():
                watch.check(path.name, path.read_bytes().decode("latin-1"))
    assert len(logged_errors.flush(RuntimeError)) >= 1, "no crash was logged"
    watch.look_at_objects()
    watch.look_at_log()
    assert watch.told == []
    # It was all there to be seen.
    log = watch.written.getvalue()
    assert len(tokens) > 5
    assert watch.reprs > 100
    for line in (
        r"refused by way of .*: bad-password, user 'alice@example.com'",
        r"POST /auth/login: 201 after",
        r"user alice@example.com logged in with a password",
        r"user alice@example.com logged in with an API key",
        r"the log-in of .* could not be checked: RuntimeError in ",
        r"RuntimeError: a mistake of ours at /albums",
    ):
        assert re.search(line, log), f"{line}\n{log[-3000:]}"


def test_a_secret_that_did_come_out_would_be_seen(watch: Watch) -> None:
    for text in (
        f"password {PASSWORD}",
        f"b'{PASSWORD.encode()!r}'",
        quote(PASSWORD),
        "Basic " + base64.b64encode(f"{EMAIL}:{PASSWORD}".encode()).decode(),
        ascii({"password": PASSWORD}),
    ):
        watch.told.clear()
        watch.check("here", text)
        assert watch.told


def test_tracebacks_with_the_values_of_variables_are_never_asked_for() -> None:
    """Twisted can print the locals of every frame; ours hold passwords and tokens."""
    assert not getDebugging()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "captureVars", path
                assert not (node.arg == "detail" and "verbose" in ast.unparse(node.value)), path
            if isinstance(node, (ast.Attribute, ast.Name)):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                banned = {
                    "setDebugging",
                    "startDebugMode",
                    "printDetailedTraceback",
                    "faulthandler",
                }
                assert name not in banned, path
