"""One cell of the matrix: a fault at a step of a commit, met by three uploads.

The three have a time that is known before CLOSE, one that comes later, and none.  After the fault
is over each file has to be in its album once, with its bytes and its time; whoever was told of an
error does what a user does, and sends it again.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from harness import Service, User, World, eventually, photo, posix, sha1, sha256
from rawsftp import CLOSE, NEW, OK, REMOVE, SETSTAT, Raw, attrs, string

from immich_conch import spool_tool

#: The requests that a commit is made of, as the demo names them.
STEPS = {
    "check": ("POST", "/assets/bulk-upload-check"),
    "upload": ("POST", "/assets"),
    "look": ("GET", "/assets/{id}"),
    "add": ("PUT", "/albums/{id}/assets"),
    "restore": ("POST", "/trash/restore/assets"),
    "copy": ("PUT", "/assets/copy"),
    "trash": ("DELETE", "/assets"),
    "leave": ("DELETE", "/albums/{id}/assets"),
}
OVERWRITING = ("copy", "trash", "leave")

#: What goes wrong, as the demo is told.
FAULTS: dict[str, dict[str, Any]] = {
    "refuse": {"kind": "refuse"},
    "500": {"kind": "status", "status": 500},
    "429": {"kind": "status", "status": 429, "retry_after": 1},
    "503": {"kind": "status", "status": 503},
    "hang": {"kind": "hang", "seconds": 0.7},
    "cut-request": {"kind": "cut-request", "after": 5000},
    "cut-response": {"kind": "cut-response", "after": 5},
    "slow": {"kind": "slow", "rate": 300},
    "lose-answer": {"kind": "lose-answer"},
    "quota-full": {"kind": "quota-full"},
    "revoked": {"kind": "revoked"},
}
#: Only an upload has a body to be cut and a quota to be full.
UPLOAD_ONLY = ("cut-request", "quota-full")

#: When the client says the time of a file.
KNOWN, LATER, NEVER = "known.jpg", "later.jpg", "never.jpg"
NAMES = (KNOWN, LATER, NEVER)
#: Seconds without a SETSTAT after which the services of the matrix commit.
SETTLE = 0.5
#: Seconds that a lasting fault lasts at least, so that an upload without a time meets it as well.
LASTS = 1.2
THEN = 1_400_000_000
SIZE = 20_000


@frozen
class Cell:
    """A fault at a step, met by one request or (`lasting`) by all for a while."""

    version: str
    fault: str
    step: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.version} {self.fault} {self.step} {'lasting' if self.lasting else 'once'}"


def every_cell() -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(version, fault, step, lasting)
        for version, fault, step, lasting in product(
            ("3.1.0", "2.5.6"), FAULTS, STEPS, (True, False)
        )
        if step == "upload" or fault not in UPLOAD_ONLY
    ]


def slice_of_cells() -> list[Cell]:
    """A Latin square of it: each fault at two steps or more, each step with most faults."""
    faults, steps = list(FAULTS), list(STEPS)
    chosen = []
    for cell in every_cell():
        row, column = faults.index(cell.fault), steps.index(cell.step)
        modern = cell.version == "3.1.0" and (row + column) % 3 == 0
        older = cell.version == "2.5.6" and (row + column) % 8 == 1
        upload = cell.step == "upload" and cell.version == "3.1.0"
        # Lasting ones take longer: every second one.
        if (modern or older or upload) and cell.lasting == bool((row + column // 2) % 2):
            chosen.append(cell)
    return chosen


def service_of(world: World) -> Service:
    """The service that the cells of a world share."""
    return world.service("matrix", "--settle", str(SETTLE))


@define(eq=False)
class Run:
    """One cell being run; `faults` counts the requests that met the fault."""

    world: World
    cell: Cell
    faults: int = 0
    told: list[str] = field(factory=list)
    data: dict[str, bytes] = field(init=False)
    old: dict[str, bytes] = field(factory=dict)
    user: User = field(init=False)
    began: float = field(init=False)
    ended: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.data = {name: photo(SIZE) for name in NAMES}
        self.user = self.world.user(quota=10**9)

    @property
    def service(self) -> Service:
        """Where the user uploads to."""
        return service_of(self.world)

    def run(self) -> None:
        """Upload, meet the fault, recover, and look."""
        self._prepare()
        self.began = time.time()
        with Raw(self.service, self.user) as there:
            self._meet(there)
        with Raw(self.service, self.user) as there:
            self._recover(there)
            eventually(lambda: not self._wrong() or None, lambda: f"{self._wrong()}")
            eventually(lambda: not self._spooled() or None, lambda: f"{self._spooled()}")
        self._look_around()

    def _prepare(self) -> None:
        user, step = self.user, self.cell.step
        if step in OVERWRITING:
            self.old = {name: photo(SIZE) for name in NAMES}
            ids = [user.asset(name, data, THEN - 1000) for name, data in self.old.items()]
            user.album("Album", ids)
            if step == "leave":
                user.album("Other", ids)
            return
        user.album("Album")
        if step == "restore":
            user.album("Other", [user.asset(name, data, THEN) for name, data in self.data.items()])
            with Raw(self.service, user) as there:
                for name in NAMES:
                    there.done(REMOVE, string(f"/Other/{name}"))

    def _open(self, there: Raw, name: str) -> bytes:
        known = attrs(mtime=THEN) if name == KNOWN else b"\0\0\0\0"
        handle = there.open(f"/Album/{name}", NEW, known)
        there.write(handle, self.data[name])
        return handle

    def _meet(self, there: Raw) -> None:
        handles = {name: self._open(there, name) for name in NAMES}
        for name in (NEVER, LATER):
            reply = there.close(handles[name])
            assert reply.status == OK, f"CLOSE of {name} before any fault: {reply.text}"
        method, route = STEPS[self.cell.step]
        demo = self.world.demo
        before = demo.counts()["requests"].get(f"{method} {route}", 0)
        start = time.monotonic()
        demo.fault(
            **FAULTS[self.cell.fault],
            method=method,
            route=route,
            count=None if self.cell.lasting else 1,
        )
        # Both at once: one may hear of the fault and the other not.
        asked = {
            KNOWN: there.send(CLOSE, string(handles[KNOWN])),
            LATER: there.send(SETSTAT, string(f"/Album/{LATER}"), attrs(mtime=THEN)),
        }
        for name, number in asked.items():
            try:
                reply = there.answer(number)
            except AssertionError:
                # The session was revoked, which ends the connection: that is told as well.
                assert self.cell.fault == "revoked"
                self.told.append(name)
                continue
            if reply.status != OK:
                assert reply.text, "an error has a text"
                self.told.append(name)
        if self.cell.lasting:
            time.sleep(max(0.0, start + LASTS - time.monotonic()))
        counts = demo.counts()
        met = counts["requests"].get(f"{method} {route}", 0) - before
        self.faults = met if self.cell.lasting else 1 - counts["faults"]
        demo.clear_faults()

    def _recover(self, there: Raw) -> None:
        """The user comes back; what was refused for good is tried again by the administrator."""
        if KNOWN in self.told:
            assert self._shown(there, KNOWN) in (None, self.old.get(KNOWN), self.data[KNOWN])
            handle = self._open(there, KNOWN)
            reply = there.close(handle)
            assert reply.status == OK, f"CLOSE once more: {reply.text}"
        if LATER in self.told and self.cell.fault == "revoked":
            # The connection may have ended before the time was looked at.
            there.done(SETSTAT, string(f"/Album/{LATER}"), attrs(mtime=THEN))
        if self.cell.fault == "quota-full":
            self._retry_refused(self.service.spool)

    def _shown(self, there: Raw, name: str) -> bytes | None:
        return there.read(f"/Album/{name}") if name in there.names("/Album") else None

    def _retry_refused(self, spool: Path) -> None:
        # Whatever has no time is on its way for as long as it settles.
        time.sleep(SETTLE)
        for entry in spool_tool.entries(str(spool)):
            if entry["state"] == "refused":
                assert entry["name"] in (LATER, NEVER), "what was told at CLOSE is not kept"
                command = ["spool", "--spool-dir", str(spool), "retry", entry["id"]]
                assert spool_tool.main(command, lambda line: None) == 0

    def _spooled(self) -> list[dict[str, Any]]:
        """What of the user's is on its way."""
        entries = spool_tool.entries(str(self.service.spool))
        return [entry for entry in entries if entry.get("email", "") in (self.user.email, "")]

    def _wrong(self) -> list[str]:
        """What is not yet as it has to be."""
        wrong = []
        inside = self.user.inside("Album")
        for name, data in self.data.items():
            found = [asset for asset in inside if asset["name"] == name]
            if [asset["sha1"] for asset in found] != [sha1(data)]:
                wrong.append(f"{name}: {found}")
                continue
            modified = posix(found[0]["fileModifiedAt"])
            if name == NEVER and self.cell.step != "restore":
                if not self._arrived(modified):
                    wrong.append(f"{name} has the time {modified}")
            elif modified != THEN and not self._unheard(name, modified):
                wrong.append(f"{name} has the time {modified}")
        if len(inside) != len(NAMES):
            wrong.append(f"{len(inside)} files")
        return wrong

    def _arrived(self, modified: float) -> bool:
        """Whether a time is that of the arrival."""
        return self.began - 1 <= modified <= time.time() + 1

    def _unheard(self, name: str, modified: float) -> bool:
        """Whether the time went down with the revoked session that was to tell it.

        The client was told so; without a time the file came in with that of its arrival.
        """
        lost = self.cell.fault == "revoked" and name == LATER and name in self.told
        return lost and self._arrived(modified)

    def _look_around(self) -> None:
        """What a new session reads, and what became of the old ones."""
        with Raw(self.service, self.user) as there:
            assert there.names("/Album") == sorted(NAMES)
            for name, data in self.data.items():
                assert sha256(there.read(f"/Album/{name}")) == sha256(data), name
            if self.cell.step in ("leave", "restore"):
                left = sorted(self.old) if self.cell.step == "leave" else []
                assert there.names("/Other") == left
        everything = self.user.everything().values()
        kept = [asset for asset in everything if asset["sha1"] in map(sha1, self.old.values())]
        assert len(kept) == len(self.old), "an old one is gone for good"
        assert len(everything) == len(self.old) + len(NAMES), "there are more assets than files"
        assert {asset["trashed"] for asset in kept} <= {self.cell.step != "leave"}
