"""Whatever clients do to the tree, in whatever order, it is what a plain file system would be.

Random operations on the tree, against a dictionary of paths and on the demo Immich: after each step
the whole tree equals the model, in every session's eyes, and no asset is lost: what has no name any
more is in Immich's trash, or without an album, as the delete rule says (BEHAVIOUR, section 7).
Another client of Immich changes things, too; the tree follows once what is known is too old, and
names that nobody gave are taken over from it after a look that each asset has one where it is.
`IMMICH_CONCH_EXAMPLES` says how many examples are run for each kind of session.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rig import ARRIVED, TAKEN, VERSIONS, Rig, Session, jpeg, rig, until
from test_copying import cp, ln
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from immich_conch.demo.entities import Album, Asset
from immich_conch.errors import ConchError
from immich_conch.immich.interfaces import IImmich
from immich_conch.sftp.handles import attributes

EXAMPLES = int(os.environ.get("IMMICH_CONCH_EXAMPLES", "4"))
STEPS = 25

#: Few of each, so that they meet.
CONTENTS = [jpeg(f"content {number}", 100 + number) for number in range(5)]
FILE_NAMES = ["a.jpg", "b.jpg", "é.jpg"]
FOLDER_NAMES = ["Trips", "2024", "a.jpg"]

Parts = tuple[str, ...]

folders = st.lists(st.sampled_from(FOLDER_NAMES), min_size=1, max_size=3).map(tuple)
#: Mostly where something can be.
indexes = st.integers(0, 1_000)
contents = st.sampled_from(CONTENTS)
times = st.integers(TAKEN, TAKEN + 3)


@frozen
class Held:
    """What a file holds."""

    data: bytes
    time: int


class Model:
    """A file system whose folders are albums, and the assets that stay without one."""

    def __init__(self) -> None:
        self.albums: set[Parts] = set()
        self.files: dict[Parts, Held] = {}
        #: Contents that Immich keeps though no album holds them.
        self.loose: set[bytes] = set()
        self.seen: set[bytes] = set()
        #: Folders that vanished with what was in them: removing them again is no error.
        self.vanished: set[Parts] = set()

    def folders(self) -> set[Parts]:
        """Albums, and the folders on the way to them."""
        return {album[:depth] for album in self.albums for depth in range(1, len(album) + 1)}

    def below(self, path: Parts) -> set[Parts]:
        """Folders below one."""
        return {
            folder for folder in self.folders() if len(folder) > len(path) == _common(folder, path)
        }

    def tree(self) -> dict[Parts, Held | None]:
        """All that is shown: None for a folder."""
        return {**dict.fromkeys(self.folders()), **self.files}

    def wants(self, data: bytes) -> bool:
        """Whether Immich must have this content outside the trash."""
        return data in self.loose or any(held.data == data for held in self.files.values())

    def put(self, path: Parts, held: Held) -> None:
        """A file comes, over another or not."""
        self.albums.add(path[:-1])
        self.files.pop(path, None)
        self.files[path] = held
        self.seen.add(held.data)
        self.loose.discard(held.data)

    def remove_album(self, path: Parts) -> None:
        """An album goes and leaves its assets behind."""
        before = self.folders()
        self.albums.discard(path)
        for file in [file for file in self.files if file[:-1] == path]:
            data = self.files.pop(file).data
            self.loose.add(data)
        for data in list(self.loose):
            if any(held.data == data for held in self.files.values()):
                self.loose.discard(data)
        self.vanished |= before - self.folders()

    def move_folder(self, old: Parts, new: Parts) -> None:
        """A folder with everything below it."""
        before = self.folders()

        def moved(path: Parts) -> Parts:
            return new + path[len(old) :] if path[: len(old)] == old else path

        self.albums = {moved(album) for album in self.albums}
        self.files = {moved(path): held for path, held in self.files.items()}
        self.vanished |= before - self.folders()


def _common(one: Parts, other: Parts) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def text(path: Parts) -> str:
    return "/" + "/".join(path)


def digest(data: bytes) -> str:
    """The checksum as the demo has it."""
    return b64encode(hashlib.sha1(data).digest()).decode()


class Clients(RuleBasedStateMachine):
    """Two sessions of one user, whose operations alternate."""

    def __init__(self, version: str, by: str) -> None:
        super().__init__()
        self.version, self.by = version, by
        self.model = Model()
        self.place = TemporaryDirectory()
        more: dict[str, Any] = (
            {"mirror_max_assets": 1000, "mirror_keep": 0.0} if by == "mirror" else {}
        )
        self.context = rig(Path(self.place.name), version, **more)
        self.rig: Rig = self.wait(self.context.__aenter__())
        self.key = self.rig.demo.add_key(self.rig.alice) if by == "key" else ""
        self.sessions = [self.log_in(), self.log_in()]
        self.immich: IImmich = self.wait(
            self.rig.server.log_in("alice@example.com", "correct horse")
        )
        self.turn = 0
        #: Whether another client of Immich has changed anything.
        self.outside = False

    def wait(self, work: Awaitable[Any]) -> Any:
        def begin() -> Deferred[Any]:
            return ensureDeferred(work)  # type: ignore[arg-type]

        return blockingCallFromThread(reactor, begin)

    def log_in(self) -> Session:
        return self.wait(self.rig.session(key=self.key))  # type: ignore[no-any-return]

    def teardown(self) -> None:
        async def end() -> None:
            for session in self.sessions:
                session.hang_up()
            await self.context.__aexit__(None, None, None)

        self.wait(end())
        self.place.cleanup()

    @property
    def client(self) -> Session:
        """The sessions take turns."""
        self.turn += 1
        return self.sessions[self.turn % 2]

    def attempt(self, work: Awaitable[Any], may: bool | None) -> bool:
        """Whether an operation was answered OK, which with `may` it must or must not be."""
        try:
            self.wait(work)
        except ConchError as error:
            assert error.text
            assert may is not True, f"refused: {error.text}"
            return False
        assert may is not False, "answered OK"
        return True

    # -- where -----------------------------------------------------------------------------------

    def any_folder(self, index: int) -> Parts:
        found = sorted(self.model.folders())
        return found[index % len(found)] if found else ("Trips",)

    def any_file(self, index: int) -> Parts:
        found = sorted(self.model.files)
        return found[index % len(found)]

    # -- folders ---------------------------------------------------------------------------------

    @initialize(first=folders, second=folders)
    def begin(self, first: Parts, second: Parts) -> None:
        """Most things need a folder."""
        for path in (first, second):
            self.mkdir(path)

    @rule(path=folders)
    def mkdir(self, path: Parts) -> None:
        below_file = any(path[:depth] in self.model.files for depth in range(1, len(path)))
        taken = path in self.model.albums or path in self.model.files
        may = not (below_file or taken)
        if self.attempt(self.client.sftp.makeDirectory(text(path).encode(), {}), may):
            self.model.albums.add(path)
        self.look()

    @rule(index=indexes)
    def rmdir(self, index: int) -> None:
        path = self.any_folder(index)
        gone = path not in self.model.folders()
        may = None if gone else path in self.model.albums and not self.model.below(path)
        work = self.client.sftp.removeDirectory(text(path).encode())
        if self.attempt(work, may) and not gone:
            self.model.remove_album(path)
        self.look()

    @rule(path=folders)
    def rmdir_of_what_vanished(self, path: Parts) -> None:
        if path in self.model.folders() or path in self.model.files:
            return
        # What another client took away may have been a folder that only stood on the way.
        may = None if path in self.model.vanished or self.outside else False
        self.attempt(self.client.sftp.removeDirectory(text(path).encode()), may)
        self.look()

    @rule(index=indexes, new=folders, replace=st.booleans())
    def rename_folder(self, index: int, new: Parts, replace: bool) -> None:
        if not self.model.folders():
            return
        source = self.any_folder(index)
        tree = self.model.tree()
        below_file = any(new[:depth] in self.model.files for depth in range(1, len(new)))
        may: bool | None = True
        if new == source:
            may = None
        elif new[: len(source)] == source or below_file or new in self.model.files:
            may = False
        elif new in tree:
            empty = not self.model.below(new) and not any(
                file[:-1] == new for file in self.model.files
            )
            may = None if replace and empty else False
        elif len(new) > 1 and new[:-1] not in self.model.folders():
            may = None  # a parent that is not there may come into being or be missed
        move = self.client.posix_mv if replace else self.client.mv
        if self.attempt(move(text(source), text(new)), may) and new != source:
            self.model.albums.discard(new)
            self.model.move_folder(source, new)
        self.look()

    # -- files -----------------------------------------------------------------------------------

    @rule(
        index=indexes,
        name=st.sampled_from(FILE_NAMES),
        data=contents,
        time=times,
        late=st.sampled_from(["before", "before", "after", "never"]),
    )
    def put(self, index: int, name: str, data: bytes, time: int, late: str) -> None:
        path = (*self.any_folder(index), name)
        may = path[:-1] in self.model.folders() and path not in self.model.folders()
        client = self.client

        async def work() -> None:
            await client.put(text(path), data, time if late == "before" else None)
            if late == "after":
                await client.utime(text(path), time)
            elif late == "never":
                await self.settle()

        known = self.own_times(data)
        if self.attempt(work(), may):
            before = self.model.files.get(path)
            arrived = time if late != "never" else self.arrived(path, before, data, known)
            self.model.put(path, Held(data, arrived))
            self.wait(self.find_marked(path, data))
        self.look()

    async def find_marked(self, path: Parts, data: bytes) -> None:
        """Bytes that were shown with a mark have the name itself now, and may have lost the mark.

        To the service that is what it makes of an upload which it had to begin once more.
        """
        there = await self.client.ls(text(path[:-1]))
        for other, held in list(self.model.files.items()):
            same = other[:-1] == path[:-1] and held.data == data
            if same and " ~" in other[-1] and other[-1] not in there:
                del self.model.files[other]

    async def settle(self) -> None:
        """Let the settle time pass, until nothing is on its way."""
        self.rig.clock.advance(5.0)
        accounts = self.rig.accounts._accounts.values()
        await until(lambda: not any(account.uploads.busy for account in accounts))

    def arrived(self, path: Parts, before: Held | None, data: bytes, known: set[int]) -> int:
        """The time of arrival, which the clock has; or that which Immich has for these bytes."""
        shown = int(self.wait(self.client.stat(text(path)))["mtime"])
        now = int(ARRIVED + self.rig.clock.seconds())
        if before is not None and before.data == data:
            assert shown == before.time, "the same bytes once more change nothing"
        else:
            assert shown in known or now - 6 <= shown <= now, "a time that nobody gave"
        return shown

    def own_times(self, data: bytes) -> set[int]:
        """The `fileModifiedAt` that Immich has for these bytes."""
        checksum, assets = digest(data), self.rig.demo.state.assets.values()
        return {asset.modified // 1000 for asset in assets if asset.checksum == checksum}

    @precondition(lambda self: self.model.files)
    @rule(index=indexes)
    def remove(self, index: int) -> None:
        path = self.any_file(index)
        self.attempt(self.client.rm(text(path)), True)
        self.model.files.pop(path)
        self.look()

    @precondition(lambda self: self.model.files)
    @rule(index=indexes, where=indexes, name=st.sampled_from(FILE_NAMES), replace=st.booleans())
    def rename(self, index: int, where: int, name: str, replace: bool) -> None:
        source, target = self.any_file(index), (*self.any_folder(where), name)
        may: bool | None = True
        if target in self.model.folders():
            may = False
        elif target in self.model.files and target != source:
            may = replace
        move = self.client.posix_mv if replace else self.client.mv
        if self.attempt(move(text(source), text(target)), may):
            self.model.put(target, self.model.files.pop(source))
        self.look()

    @precondition(lambda self: self.model.files)
    @rule(index=indexes, time=times)
    def touch(self, index: int, time: int) -> None:
        path = self.any_file(index)
        self.attempt(self.client.utime(text(path), time), True)
        self.model.files[path] = Held(self.model.files[path].data, time)
        self.look()

    @precondition(lambda self: self.model.files)
    @rule(index=indexes)
    def read(self, index: int) -> None:
        path = self.any_file(index)
        assert self.wait(self.client.get(text(path))) == self.model.files[path].data

    @precondition(lambda self: self.model.files)
    @rule(index=indexes, where=indexes, name=st.sampled_from(FILE_NAMES))
    def link(self, index: int, where: int, name: str) -> None:
        source, target = self.any_file(index), (*self.any_folder(where), name)
        may = target not in self.model.tree()
        if self.attempt(ln(self.client, text(source), text(target)), may):
            self.model.put(target, self.model.files[source])
        self.look()

    @precondition(lambda self: self.model.files)
    @rule(index=indexes, where=indexes, name=st.sampled_from(FILE_NAMES))
    def copy(self, index: int, where: int, name: str) -> None:
        source, target = self.any_file(index), (*self.any_folder(where), name)
        data = self.model.files[source].data
        may, known = target not in self.model.folders(), self.own_times(data)
        if self.attempt(cp(self.client, text(source), text(target)), may):
            before = self.model.files.get(target)
            self.model.put(target, Held(data, self.arrived(target, before, data, known)))
        self.look()

    # -- another client of Immich's --------------------------------------------------------------

    @precondition(lambda self: self.model.files)
    @rule(index=indexes, back=st.booleans())
    def trashed_elsewhere(self, index: int, back: bool) -> None:
        asset = self.asset_of(self.model.files[self.any_file(index)].data)
        before = dict(self.model.files)
        self.elsewhere(self.immich.trash([asset.id]))
        self.forget(asset)
        self.look()
        if back:
            self.elsewhere(self.immich.restore([asset.id]))
            self.model.files = before
            self.look()

    @precondition(lambda self: self.in_trash())
    @rule(index=indexes)
    def restored_elsewhere(self, index: int) -> None:
        found = self.in_trash()
        asset = found[index % len(found)]
        self.elsewhere(self.immich.restore([asset.id]))
        self.follow(asset)

    @precondition(lambda self: self.model.seen and self.model.albums)
    @rule(index=indexes, where=indexes)
    def added_elsewhere(self, index: int, where: int) -> None:
        albums, found = self.albums(), self.assets()
        asset = found[index % len(found)]
        album = albums[where % len(albums)]
        self.elsewhere(self.immich.add_to_album(album.id, [asset.id]))
        self.follow(asset)

    @precondition(lambda self: self.model.files)
    @rule(index=indexes)
    def taken_out_elsewhere(self, index: int) -> None:
        path = self.any_file(index)
        asset, album = self.asset_of(self.model.files[path].data), self.album_at(path[:-1])
        self.elsewhere(self.immich.remove_from_album(album.id, [asset.id]))
        self.forget(asset, path[:-1])
        if asset.deleted is None and not self.model.wants(self.data_of(asset)):
            self.model.loose.add(self.data_of(asset))
        self.look()

    @precondition(lambda self: self.model.albums)
    @rule(index=indexes, new=folders)
    def renamed_elsewhere(self, index: int, new: Parts) -> None:
        found = sorted(self.model.albums)
        old = found[index % len(found)]
        ways = {new[:depth] for depth in range(1, len(new) + 1)}
        files = {
            (*new, path[-1]) if path[:-1] == old else path: held
            for path, held in self.model.files.items()
        }
        # A file beside a folder of its name would get a mark, which the model does not know.
        if new in self.model.albums or (ways | self.model.folders()) & files.keys():
            return
        self.elsewhere(self.immich.rename_album(self.album_at(old).id, "/".join(new)))
        self.model.albums = self.model.albums - {old} | {new}
        self.model.files = files
        self.look()

    @precondition(lambda self: self.model.albums)
    @rule(index=indexes)
    def deleted_elsewhere(self, index: int) -> None:
        found = sorted(self.model.albums)
        path = found[index % len(found)]
        self.elsewhere(self.immich.delete_album(self.album_at(path).id))
        self.model.remove_album(path)
        self.look()

    def elsewhere(self, work: Awaitable[Any]) -> None:
        """Something happens in Immich; then what is known here grows too old."""
        self.outside = True

        async def happens() -> None:
            await work
            for _ in range(3):  # a mirror believes its own changes until two deltas disagree
                self.rig.clock.advance(3.0)
                for session in self.sessions:
                    await session.ls()

        self.wait(happens())

    def forget(self, asset: Asset, album: Parts | None = None) -> None:
        """An asset has no names any more, or none in an album."""
        data = self.data_of(asset)
        self.model.files = {
            path: held
            for path, held in self.model.files.items()
            if held.data != data or album not in (None, path[:-1])
        }
        if album is None:
            self.model.loose.discard(data)

    def follow(self, asset: Asset) -> None:
        """Take over the names under which an asset has come; what had a name keeps it."""
        tree = self.wait(shown(self.client))
        data = self.data_of(asset)
        for path, held in tree.items():
            if path not in self.model.tree():
                assert held is not None and held.data == data, "somebody else has a new name"
                stem = path[-1].partition(".")[0].partition(" ~")[0]
                assert stem in {name.partition(".")[0] for name in FILE_NAMES}
                self.model.files[path] = held
        if asset.deleted is None:
            self.model.loose.discard(data)
            if not self.model.wants(data):
                self.model.loose.add(data)
        self.look()

    # -- what happens besides ----------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        async def die() -> None:
            for session in self.sessions:
                session.hang_up()
            await self.settle()
            self.rig.restart()

        self.wait(die())
        self.sessions = [self.log_in(), self.log_in()]
        self.model.vanished.clear()
        self.name_again()
        self.look()

    def name_again(self) -> None:
        """A new service names files that want one name by their age alone."""
        tree = self.wait(shown(self.client))
        for path, held in tree.items():
            if held is not None and held != self.model.files.get(path):
                beside = (other[-1] for other in self.model.files if other[:-1] == path[:-1])
                assert any(" ~" in name for name in beside)
        files = {path: held for path, held in tree.items() if held is not None}

        def held_in(files: dict[Parts, Held]) -> list[Any]:
            return sorted((path[:-1], held.data, held.time) for path, held in files.items())

        assert held_in(files) == held_in(self.model.files)
        self.model.files = files

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.wait(self.rig.pass_time(seconds))
        self.look()

    # -- the truth ---------------------------------------------------------------------------------

    def look(self) -> None:
        """The tree is the model's, and Immich holds what it must."""
        assert self.wait(shown(self.client)) == self.model.tree()
        assets = self.rig.demo.state.assets.values()
        here = {asset.checksum: asset.deleted is None for asset in assets}
        for data in self.model.seen:
            assert digest(data) in here, "an asset is lost"
            assert here[digest(data)] == self.model.wants(data), "in the trash, or not, by mistake"
        for album in self.albums():
            there = {asset.id for asset in assets if album.id in asset.albums and not asset.deleted}
            named = {
                self.asset_of(held.data).id
                for path, held in self.model.files.items()
                if text(path[:-1]) == f"/{album.name}"
            }
            assert named == there, "an asset of an album without a name, or a name without one"

    def albums(self) -> list[Album]:
        """Immich's albums."""
        return sorted(self.rig.demo.state.albums.values(), key=lambda album: album.name)

    def album_at(self, path: Parts) -> Album:
        """Immich's album at a path."""
        return next(album for album in self.albums() if text(path) == f"/{album.name}")

    def assets(self) -> list[Asset]:
        """Immich's assets."""
        return sorted(self.rig.demo.state.assets.values(), key=lambda asset: asset.checksum)

    def asset_of(self, data: bytes) -> Asset:
        """Immich's asset of these bytes."""
        return next(asset for asset in self.assets() if asset.checksum == digest(data))

    def data_of(self, asset: Asset) -> bytes:
        """The bytes of an asset."""
        return next(data for data in CONTENTS if digest(data) == asset.checksum)

    def in_trash(self) -> list[Asset]:
        """Assets in Immich's trash."""
        return [asset for asset in self.assets() if asset.deleted is not None]


async def shown(session: Session) -> dict[Parts, Held | None]:
    """Everything that a session sees, contents by their size."""
    found: dict[Parts, Held | None] = {}
    waiting: list[Parts] = [()]
    while waiting:
        folder = waiting.pop()
        for name, attrs in (await session.ls(text(folder))).items():
            path = (*folder, name)
            # The quick way to a STAT says the same as the long one, or nothing.
            quick = session.sftp.glance(text(path).encode())
            told = await session.stat(text(path))
            assert quick is None or attributes(quick) == told
            if attrs["permissions"] & 0o040000:
                found[path] = None
                waiting.append(path)
            else:
                data = next(data for data in CONTENTS if len(data) == attrs["size"])
                found[path] = Held(data, attrs["mtime"])
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("by", ["listings", "mirror", "key"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_tree_is_what_a_file_system_would_be(version: str, by: str) -> None:
    # The machine is no coroutine: it has a thread of its own and waits there for the reactor's.
    await deferToThread(
        run_state_machine_as_test,
        lambda: Clients(version, by),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # The same walks each time, unless somebody asks for more of them.
            derandomize="IMMICH_CONCH_EXAMPLES" not in os.environ,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
