"""Whatever is done with live photos, an OK is true and nothing is lost that nobody removed.

Random operations on two live photos and a picture, some under each other's names, while Immich
links the halves and uploads wait for their time.  What a half takes along is told by no model here;
but after each operation the file that was named is there with its bytes, or gone; nothing else is
touched but what goes along with it; and what left every folder was removed or overwritten by the
client, or its still was.  `IMMICH_CONCH_EXAMPLES` says how many walks there are of each kind; a
failure names the seed and the steps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable
from pathlib import Path

import pytest
import pytest_twisted
from attrs import Factory, define
from live_halves import motion, still
from live_rig import session, settings, ways
from rig import TAKEN, VERSIONS, Rig, Session, jpeg, rig, until
from test_copying import cp, ln
from twisted.internet.task import LoopingCall

from immich_conch.errors import ConchError

EXAMPLES = int(os.environ.get("IMMICH_CONCH_EXAMPLES", "2"))
STEPS = 25

#: Stills (S) and motion parts (M) of two live photos, and a picture; each of another size.
CONTENTS = {
    "S1": still("one", "1"),
    "M1": motion("one", "11"),
    "S2": still("two", "222"),
    "M2": motion("two", "2222"),
    "J": jpeg("picture", 777),
}
BY_SIZE = {len(data): content for content, data in CONTENTS.items()}
STILL_OF = {"M1": "S1", "M2": "S2"}
NAMES = ("a.jpg", "b.jpg", "a.mov", "b.mov")
FOLDERS = ("/A", "/B", "/B/in")
KINDS = ["put", "late", "mv", "replace", "cp"] * 2 + ["safe", "rm", "ln", "link", "wait"]

Shown = dict[str, str]
"""Contents by path."""


@define(eq=False)
class Walk:
    """One random walk of one session."""

    r: Rig
    s: Session
    random: random.Random
    steps: list[tuple[str, ...]] = Factory(list)
    #: Contents that the client removed or overwrote somewhere.
    removed: set[str] = Factory(set)
    #: Files that were laid over others without a time: until that has passed, those are there
    #: again when the new ones are moved away.
    laid_over: set[str] = Factory(set)

    async def shown(self) -> Shown:
        """All files."""
        found = {}
        for folder in FOLDERS:
            for name, attrs in (await self.s.ls(folder)).items():
                if not attrs["permissions"] & 0o040000:
                    found[f"{folder}/{name}"] = BY_SIZE[attrs["size"]]
        return found

    def in_trash(self) -> set[str]:
        """Contents in Immich's trash."""
        assets = self.r.demo.state.assets.values()
        return {BY_SIZE[asset.size] for asset in assets if asset.deleted is not None}

    async def step(self) -> None:
        """One operation, and what must be so after it."""
        before, trash = await self.shown(), self.in_trash()
        kind = self.random.choice(KINDS)
        if kind in ("link", "wait"):
            await self.let_time_pass(kind)
            assert await self.shown() == before, "something changed by itself"
            return
        uploads = kind in ("put", "late", "safe")
        if not uploads and not before:
            return
        source = "" if uploads else self.random.choice(sorted(before))
        target = f"{self.random.choice(FOLDERS)}/{self.random.choice(NAMES)}"
        content = self.random.choice(sorted(CONTENTS)) if uploads else before[source]
        self.steps.append((kind, source or content, target))
        try:
            await self.operation(kind, source, target, content, target in before)
        except ConchError as error:
            self.steps.append(("refused:", error.text))
            if kind == "safe":
                await self.s.rm(f"{target}.part")
            assert await self.shown() == before, "refused, and done all the same"
            assert self.in_trash() - trash <= self.removed
            return
        self.removed |= {content if kind == "rm" else before.get(target, "")}
        if kind in ("late", "safe", "cp", "replace") and target in before:
            self.laid_over.add(target)
        after = await self.shown()
        self.check(kind, source, target, content, before, after)
        assert self.in_trash() - trash <= self.removed, "in the trash by mistake"

    async def let_time_pass(self, kind: str) -> None:
        """What waits has its time; with `link` Immich links live photos meanwhile."""
        count = self.r.demo.link_live_photos() if kind == "link" else 0
        self.steps.append((kind, str(count)))
        for _ in range(4):
            self.r.clock.advance(3.0)
            await self.s.ls()
        if kind == "wait":
            accounts = self.r.accounts._accounts.values()
            await until(lambda: not any(account.uploads.busy for account in accounts))
            self.laid_over.clear()

    def operation(
        self, kind: str, source: str, target: str, content: str, there: bool
    ) -> Awaitable[None]:
        """What a client does."""
        s, data = self.s, CONTENTS[content]
        if kind == "put":
            return s.put(target, data, TAKEN)
        if kind == "late":
            return s.put(target, data)
        if kind == "safe":
            return self.save(target, data, there)
        if kind == "rm":
            return s.rm(source)
        move = {"mv": s.mv, "replace": s.posix_mv}.get(kind)
        if move is not None:
            return move(source, target)
        return cp(s, source, target) if kind == "cp" else ln(s, source, target)

    async def save(self, target: str, data: bytes, there: bool) -> None:
        """As WinSCP does."""
        await self.s.put(f"{target}.part", data)
        if there:
            await self.s.rm(target)
        await self.s.mv(f"{target}.part", target)

    def check(
        self, kind: str, source: str, target: str, content: str, before: Shown, after: Shown
    ) -> None:
        """An operation was answered OK."""
        if kind == "rm":
            assert source not in after, "removed, and there"
        else:
            assert after.get(target) == content, "answered OK, and not there"
        if kind in ("mv", "replace") and source not in (target, *self.laid_over):
            assert source not in after, "moved, and still there"
        concerned = {before.get(target), content}
        for path, there in before.items():
            if path not in (source, target) and after.get(path) != there:
                along = STILL_OF.get(there) in concerned
                assert there in concerned or along, f"{path} was not meant"
        for gone in {*before.values()} - {*after.values()}:
            assert gone in self.removed or STILL_OF.get(gone) in self.removed, f"{gone} is lost"


@ways
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(EXAMPLES))
@pytest_twisted.ensureDeferred
async def test_live_photos_are_never_lost_and_an_ok_is_true(
    tmp_path: Path, version: str, way: str, seed: int
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        r.demo.links_live_photos = False
        for folder in FOLDERS:
            r.album(folder[1:])
        walk = Walk(r, await session(r, way), random.Random(f"{version} {way} {seed}"))
        # Listings wait for Immich while it links, and uploads for their time.
        ticking = LoopingCall(lambda: r.clock.advance(0.02))
        ticking.start(0.005, now=False)
        try:
            for _ in range(STEPS):
                await walk.step()
        except AssertionError as error:
            error.add_note("\n".join(map(str, walk.steps)))
            raise
        finally:
            ticking.stop()
