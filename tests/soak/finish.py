"""The final word: what has to be so once the clients are gone and Immich is well again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from harness import Service, User, World, eventually, sha1
from rawsftp import Raw

from immich_conch import spool_tool
from immich_conch.transfer.removals import RETRY

from .ledger import ABSENT, Ledger
from .verdict import There, verdict
from .watch import handles_of, more_handles

#: Seconds until all is in Immich: what was told to be tried again, and a removal that met a fault
#: at the last moment, which is tried again by itself only.
AT_REST = RETRY + 60.0
#: What goes on by itself: uploads on their way and removals that are held back.
MOVING = ("sealed", "committing", "removal")
#: What was cut off; no client is left that resumes or renames it.
CUT_OFF = ("open", "edited", "partial", "parked")
#: An administrator's commands under way at once.
COMMANDS = 32
#: Files read again by SFTP, from each album.
READ_AGAIN = 5

Place = tuple[str, str]


@define(eq=False)
class Finish:
    """Looks at everything; what is wrong goes into the ledger."""

    world: World
    service: Service
    ledger: Ledger
    users: Sequence[User]
    #: Seconds that sessions and handles are given to go.
    patience: float = 30.0

    def look(self, kept: Mapping[Place, Mapping[str, bytes]], handles: Sequence[str]) -> None:
        """One after the other; `kept` are files by place, `handles` what was open before."""
        with ExitStack() as connected:
            # Uploads whose session was revoked go on when their user is here.
            sessions = {
                user.email: connected.enter_context(Raw(self.service, user)) for user in self.users
            }
            self._try("rest", self._rest)
            self._try("library", lambda: self._judge(sessions))
            self._try("spool", self._empty_the_spool)
            self._try("library without the spool", lambda: self._judge(sessions))
            self._try("bytes", lambda: self._read_again(sessions, kept))
        self._try("sessions", self._sessions)
        self._try("handles", lambda: self._handles(handles))

    def _try(self, what: str, check: Callable[[], None]) -> None:
        try:
            check()
        except (Exception, pytest.fail.Exception) as error:
            self.ledger.found(f"{what}: {error!r}"[:3000])

    # -- uploads and removals

    def _entries(self, *states: str) -> list[dict[str, Any]]:
        found = spool_tool.entries(str(self.service.spool))
        return [entry for entry in found if not states or entry["state"] in states]

    def _command(self, action: str, entry: Mapping[str, Any]) -> bool:
        command = ["spool", "--spool-dir", str(self.service.spool), action, entry["id"]]
        return spool_tool.main(command, lambda line: None) == 0

    def _rest(self) -> None:
        """All that goes on by itself has come to its end."""
        for entry in self._entries():
            self.ledger.count(f"spool: {entry['state']} at the end")
        for entry in self._entries("sealed", "committing"):
            self._command("retry", entry)  # it may have got in by itself meanwhile
        eventually(
            lambda: not self._entries(*MOVING),
            lambda: f"on its way still: {self._entries(*MOVING)}",
            limit=AT_REST,
        )
        for entry in self._entries("unreadable", "set aside"):
            self.ledger.found(f"in the spool there is {entry}")

    def _refused(self) -> dict[Place, dict[str, str]]:
        """SHA-1s of what Immich refused, by place and name: read from the spool's own files."""
        found: dict[Place, dict[str, str]] = {}
        for entry in self._entries("refused"):
            if entry["shelved"]:
                continue  # its name is somebody else's by now
            data = Path(self.service.spool, f"{entry['id']}.data").read_bytes()
            digest = sha1(data)
            if hashlib.sha1(data).hexdigest() != entry["sha1"]:
                self.ledger.found(f"the spool has other bytes than it wrote down: {entry}")
            found.setdefault((entry["email"], entry["folder"]), {})[entry["name"]] = digest
            self.ledger.count("refused, and found in the spool")
        return found

    def _empty_the_spool(self) -> None:
        """What was refused gets in now; what was cut off is an administrator's to drop."""
        commands = [("drop", entry) for entry in self._entries(*CUT_OFF)]
        for entry in self._entries("refused"):
            commands.append(("drop" if entry["shelved"] else "retry", entry))
        # Each waits for the service's next look, two seconds, and there may be hundreds.
        with ThreadPoolExecutor(COMMANDS) as pool:
            list(pool.map(lambda one: self._command(*one), commands))
        eventually(
            lambda: not self.service.spooled(),
            lambda: f"not empty: {self._entries()}",
            limit=AT_REST,
        )

    # -- files

    def _judge(self, sessions: Mapping[str, Raw]) -> None:
        """All that was answered OK is there with its bytes, and nothing that nobody sent."""
        state, refused = self.world.demo.state(), self._refused()
        for place in sorted(self.ledger.places()):
            user, album = place
            inside = [
                (asset["name"], asset["sha1"])
                for found in state["albums"]
                if (found["owner"], found["name"]) == place
                for asset in found["assets"]
                if not asset["trashed"]
            ]
            shown = sessions[user].names(f"/{album}")
            told = self.ledger.of(place)
            self.ledger.count("files checked in Immich", len(told))
            for wrong in verdict(told, There(inside, refused.get(place, {}), shown)):
                self.ledger.found(f"{album}: {wrong}")

    def _read_again(
        self, sessions: Mapping[str, Raw], kept: Mapping[Place, Mapping[str, bytes]]
    ) -> None:
        """The bytes of some, by SFTP."""
        for (user, album), files in kept.items():
            told = self.ledger.of((user, album))
            for name in sorted(files)[-READ_AGAIN:]:
                may = told[name].may
                if ABSENT in may:
                    continue
                if sha1(sessions[user].read(f"/{album}/{name}")) not in may:
                    self.ledger.found(f"{album}/{name} has other bytes by SFTP than any told")

    # -- what is left behind

    def _sessions(self) -> None:
        """All Immich sessions are logged out once the mirrors have gone, too."""
        eventually(
            lambda: not self.world.sessions(),
            lambda: f"{self.world.sessions()} Immich sessions are left",
            limit=self.patience,
        )

    def _handles(self, before: Sequence[str]) -> None:
        """As many files and sockets are open as in the beginning."""

        def more() -> list[str]:
            return more_handles(before, handles_of(self.service.pid))

        eventually(
            lambda: not more(), lambda: f"open and not before: {more()}", limit=self.patience
        )
