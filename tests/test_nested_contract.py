"""Nested folders, by whatever way a library is seen: mirror, listings and API key, on each server.

As `test_catalog_contract`: at the end of each case the services that lived through it show what
those show that have just begun.
"""

from __future__ import annotations

import random
import stat

import pytest
import pytest_twisted
from attrs import Factory, define
from library_house import House, files, folders, h, server, tree
from rig import READ, TAKEN, Session, jpeg, raises

from immich_conch.errors import AlreadyExists, ConchError, Denied, NotEmpty, NotFound, Refused

__all__ = ["h", "server"]

#: Changes of a walk; the folders are few, so that they often meet.
STEPS = 60
PARTS = ("a", "b", "é")


@pytest_twisted.ensureDeferred
async def test_everybody_sees_the_same_nested_folders(h: House) -> None:
    session = await h.enter()
    await tree(session)
    inner = await h.alice.upload("d.jpg")
    await h.alice.album("Trips/2024", await h.alice.upload("a.jpg"))
    named = await h.alice.upload("Rome.jpg")
    await h.alice.album("Trips", named)
    await h.alice.album("Trips/Rome.jpg/b", await h.alice.upload("c.jpg"))
    hidden = await h.alice.album("Trips/Secret", await h.alice.upload("s.jpg"))
    await h.alice.describe(hidden, "#nosync")
    await h.alice.album("Trips/Secret/Open", inner)
    theirs = await h.bob.album("Trips/Bob's", await h.bob.upload("bob.jpg"))
    await h.bob.share(theirs, h.alice, "viewer")
    shown = await h.alike(session)
    assert folders(shown) == {
        "/Trips",
        "/Trips/2024",
        "/Trips/Rome.jpg",
        "/Trips/Rome.jpg/b",
        "/Trips/Secret",
        "/Trips/Secret/Open",
        "/Trips/Bob's",
    }
    assert files(shown) == {
        "/Trips/2024/a.jpg",
        f"/Trips/Rome ~{named[:8]}.jpg",
        "/Trips/Rome.jpg/b/c.jpg",
        "/Trips/Secret/Open/d.jpg",
        "/Trips/Bob's/bob.jpg",
    }
    bits = {path: stat.S_IMODE(shown[path]["permissions"]) for path in folders(shown)}
    assert {path for path, mode in bits.items() if mode == 0o555} == {
        "/Trips/Secret",
        "/Trips/Bob's",
    }
    await raises(Denied, session.mv("/Trips", "/Reisen"))
    assert await h.alike(session) == shown
    await session.sftp.removeDirectory(b"/Trips/Bob's")
    await session.mv("/Trips", "/Reisen")
    moved = await h.alike(session)
    assert files(moved) == {
        path.replace("/Trips", "/Reisen") for path in files(shown) if "Bob" not in path
    }


@pytest_twisted.ensureDeferred
async def test_an_album_comes_goes_and_changes_its_role_while_a_session_is_open(h: House) -> None:
    session = await h.enter()
    await tree(session)
    album = await h.bob.album("Trips/Edit", await h.bob.upload("bob.jpg"))
    await h.bob.share(album, h.alice, "viewer")
    h.later()
    await raises(Denied, session.open("/Trips/Edit/mine.jpg"))
    await h.bob.give_role(album, h.alice, "editor")
    h.later()
    await session.put("/Trips/Edit/mine.jpg", jpeg("mine"), TAKEN)
    assert files(await h.alike(session)) == {"/Trips/Edit/bob.jpg", "/Trips/Edit/mine.jpg"}
    reading = await session.sftp.openFile(b"/Trips/Edit/bob.jpg", READ, {})
    writing = await session.open("/Trips/Edit/late.jpg")
    writing.writeChunk(0, jpeg("late"))
    await h.bob.unshare(album, h.alice)
    with pytest.raises(NotFound):
        await reading.readChunk(0, 10)
    reading.close()
    h.later()
    writing.setAttrs({"atime": TAKEN, "mtime": TAKEN})
    await raises(NotFound, writing.close())
    for work in (
        session.ls("/Trips/Edit"),
        session.stat("/Trips"),
        session.open("/Trips/Edit/more.jpg"),
        session.rm("/Trips/Edit/mine.jpg"),
        session.mv("/Trips/Edit", "/Trips/Mine"),
        session.sftp.removeDirectory(b"/Trips/Edit"),
    ):
        await raises(NotFound, work)
    assert files(await h.alike(session)) == set()


@define(eq=False)
class Model:
    """What folders do, on a set of paths."""

    albums: set[str] = Factory(set)
    #: Folders that are no albums and may be removed once more, after what lay below them went.
    vanished: set[str] = Factory(set)

    def folders(self) -> set[str]:
        """All folders, albums or not."""
        return {
            "/".join(path.split("/")[:depth])
            for path in self.albums
            for depth in range(2, path.count("/") + 2)
        }

    def below(self, path: str) -> set[str]:
        """The albums nested in a folder."""
        return {album for album in self.albums if album.startswith(path + "/")}

    def _left(self, path: str) -> None:
        parts = path.split("/")
        above = {"/".join(parts[:depth]) for depth in range(2, len(parts))}
        self.vanished |= above - self.albums

    def mkdir(self, path: str) -> type[ConchError] | None:
        if path in self.albums:
            return AlreadyExists
        self.albums.add(path)
        return None

    def rmdir(self, path: str) -> type[ConchError] | None:
        if self.below(path):
            return NotEmpty
        if path not in self.albums:
            if path in self.vanished:
                self.vanished.discard(path)
                return None
            return NotFound
        self._left(path)
        self.albums.remove(path)
        return None

    def mv(self, path: str, target: str, replace: bool = False) -> type[ConchError] | None:
        if path not in self.folders():
            return NotFound
        if path == target:
            return None
        if target.startswith(path + "/"):
            return Refused
        if target in self.folders():
            if not replace or target not in self.albums or self.below(target):
                return AlreadyExists
            self.albums.remove(target)
        self._left(path)
        moved = {album for album in self.albums if album == path} | self.below(path)
        self.albums -= moved
        self.albums |= {target + album[len(path) :] for album in moved}
        return None


async def step(session: Session, model: Model, chance: random.Random) -> None:
    """One change, which must do and answer what the model does."""

    def path() -> str:
        return "".join(f"/{chance.choice(PARTS)}" for _ in range(chance.choice((1, 2, 2, 3, 4))))

    what, one, other = chance.choice(("mkdir", "rmdir", "mv", "mv", "posix_mv")), path(), path()
    if what == "mkdir":
        expected, work = model.mkdir(one), session.sftp.makeDirectory(one.encode(), {})
    elif what == "rmdir":
        expected, work = model.rmdir(one), session.sftp.removeDirectory(one.encode())
    elif what == "mv":
        expected, work = model.mv(one, other), session.mv(one, other)
    else:
        expected, work = model.mv(one, other, replace=True), session.posix_mv(one, other)
    got: type[ConchError] | None = None
    try:
        await work
    except ConchError as error:
        got = type(error)
    assert got is expected, (what, one, other, sorted(model.albums))


@pytest.mark.parametrize("seed", range(3))
@pytest_twisted.ensureDeferred
async def test_a_walk_of_changes_does_what_folders_do(h: House, seed: int) -> None:
    chance, model = random.Random(seed), Model()
    session = await h.enter()
    for number in range(STEPS):
        await step(session, model, chance)
        if number % 10 == 0:
            h.later()
            assert folders(await tree(session)) == model.folders()
    assert folders(await h.alike(session)) == model.folders()
    assert {f"/{album.name}" for album in await h.alice.web.albums()} == model.albums
