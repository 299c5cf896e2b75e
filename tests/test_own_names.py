"""What Immich cannot hold: names and times of a user's own (BEHAVIOUR, section 6)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import EDIT, TAKEN, VERSIONS, Rig, Session, jpeg, raises, rig, until
from test_copying import cp
from twisted.internet.defer import Deferred, gatherResults

from immich_conch.demo.entities import Asset, Note
from immich_conch.errors import AlreadyExists, NotFound, Refused, Unreachable, Unsupported

KEY = "immich-conch"
LATER = TAKEN + 1000
#: What a key needs for everything but noting names and times.
WITHOUT_UPDATE = (
    "user.read",
    "album.read",
    "asset.read",
    "asset.download",
    "asset.upload",
    "asset.delete",
    "asset.copy",
    "albumAsset.create",
    "albumAsset.delete",
)

everywhere = pytest.mark.parametrize("version", VERSIONS)
by_both = pytest.mark.parametrize("by", ["password", "key"])


async def enter(r: Rig, by: str) -> Session:
    """A session of Alice's."""
    return await r.session(key=r.demo.add_key(r.alice)) if by == "key" else await r.session()


async def without_update(r: Rig) -> Session:
    """A session that can note nothing."""
    return await r.session(key=r.demo.add_key(r.alice, list(WITHOUT_UPDATE)))


def note(asset: Asset) -> Any:
    """The value of our key in Immich, or None without the key."""
    return asset.notes[KEY].value if KEY in asset.notes else None


def albums_in(asset: Asset) -> Any:
    """What our key says by album."""
    value = note(asset)
    assert value["v"] == 1
    return value["albums"]


def web_note(asset: Asset, value: dict[str, Any]) -> None:
    """Another program wrote our key."""
    asset.notes[KEY] = Note(value, 0.0, 0)


async def times(session: Session, path: str) -> dict[str, int]:
    """Names and times of a folder."""
    return {name: attrs["mtime"] for name, attrs in (await session.ls(path)).items()}


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_a_look_that_took_long_does_not_bring_an_old_name_back(
    tmp_path: Path, version: str, by: str
) -> None:
    # The check at CLOSE reads what is noted; by the time it has the answer there may be more.
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session, other = await enter(r, by), await enter(r, by)
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        handle = await other.open("/Rome/c.jpg")
        handle.writeChunk(0, jpeg("a.jpg"))
        r.demo.faults.add("slow", method="GET", route="/assets/{id}/metadata", rate=1000)
        closed = handle.close()
        await until(lambda: not r.demo.faults._waiting)
        await session.mv("/Rome/b.jpg", "/Rome/d.jpg")
        await closed
        assert "d.jpg" in await session.ls("/Rome")
        assert await session.get("/Rome/d.jpg") == jpeg("a.jpg")
        await r.settled()


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_a_file_shown_with_a_mark_stays_there_when_it_is_copied_over_its_namesake(
    tmp_path: Path, version: str, by: str
) -> None:
    async with rig(tmp_path, version) as r:
        first, second = r.asset("a.jpg", jpeg("1")), r.asset("a.jpg", jpeg("2"))
        r.album("Rome", first, second)
        session = await enter(r, by)
        marked = f"a ~{second.id[:8]}.jpg"
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", marked])
        await cp(session, f"/Rome/{marked}", "/Rome/a.jpg")
        await r.settled()
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", marked])
        for name in ("a.jpg", marked):
            assert await session.get(f"/Rome/{name}") == jpeg("2")
        assert first.deleted is not None


# -- renaming -------------------------------------------------------------------------------------


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_a_committed_file_is_renamed_and_stays_so(
    tmp_path: Path, version: str, by: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session, other = await enter(r, by), await enter(r, "password")
        await other.ls("/Rome")
        await session.mv("/Rome/a.jpg", "/Rome/sea.jpg")
        for looks in (session, other, await enter(r, "key")):
            assert await times(looks, "/Rome") == {"sea.jpg": TAKEN}
            await raises(NotFound, looks.stat("/Rome/a.jpg"))
            assert await looks.get("/Rome/sea.jpg") == jpeg("a.jpg")
        assert albums_in(asset) == {album.id: [{"name": "sea.jpg"}]}
        await session.mv("/Rome/sea.jpg", "/Rome/a.jpg")
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert note(asset) is None


@everywhere
@pytest_twisted.ensureDeferred
async def test_a_rename_within_an_album_replaces_by_posix_rename_only(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        moved, old = r.asset("a.jpg"), r.asset("b.jpg")
        album = r.album("Rome", moved, old)
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        await session.posix_mv("/Rome/a.jpg", "/Rome/b.jpg")
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        assert await session.get("/Rome/b.jpg") == jpeg("a.jpg")
        assert old.deleted is not None
        assert albums_in(moved) == {album.id: [{"name": "b.jpg"}]}


@everywhere
@pytest_twisted.ensureDeferred
async def test_moving_takes_name_and_time_along(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        rome, best = r.album("Rome", asset), r.album("Best")
        session = await r.session()
        await session.utime("/Rome/a.jpg", LATER)
        await session.mv("/Rome/a.jpg", "/Best/b.jpg")
        assert await times(session, "/Best") == {"b.jpg": LATER}
        assert await session.ls("/Rome") == {}
        assert asset.albums == {best.id}
        assert albums_in(asset) == {best.id: [{"name": "b.jpg", "time": LATER}]}
        await session.utime("/Best/b.jpg", TAKEN)
        await session.mv("/Best/b.jpg", "/Rome/a.jpg")
        assert asset.albums == {rome.id}
        assert note(asset) is None


@pytest_twisted.ensureDeferred
async def test_moving_one_of_two_names_leaves_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        rome, best = r.album("Rome", asset), r.album("Best")
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        await session.mv("/Rome/a.jpg", "/Best/c.jpg")
        assert await times(session, "/Rome") == {"b.jpg": LATER}
        assert await times(session, "/Best") == {"c.jpg": TAKEN}
        assert asset.albums == {rome.id, best.id}


@pytest_twisted.ensureDeferred
async def test_a_freed_name_does_not_pass_on_after_a_restart_either(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first, second = r.asset("a.jpg", jpeg("1")), r.asset("a.jpg", jpeg("2"))
        album = r.album("Rome", first, second)
        session = await r.session()
        sibling = f"a ~{second.id[:8]}.jpg"
        assert set(await session.ls("/Rome")) == {"a.jpg", sibling}
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        assert albums_in(second) == {album.id: [{"name": sibling}]}
        fresh = await r.session(key=r.demo.add_key(r.alice))
        assert set(await fresh.ls("/Rome")) == {"b.jpg", sibling}
        await fresh.put("/Rome/a.jpg", jpeg("3"), TAKEN)
        await fresh.rm("/Rome/b.jpg")
        last = await r.session(key=r.demo.add_key(r.alice))
        assert set(await last.ls("/Rome")) == {"a.jpg", sibling}
        assert await last.get(f"/Rome/{sibling}") == jpeg("2")


@pytest_twisted.ensureDeferred
async def test_overwriting_a_name_that_two_want_swaps_them_never(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        second = jpeg("2")
        first, sibling = r.asset("a.jpg", jpeg("1")), r.asset("a.jpg", second)
        r.album("Rome", first, sibling)
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("new"), TAKEN)
        fresh = await r.session(key=r.demo.add_key(r.alice))
        assert await fresh.get("/Rome/a.jpg") == jpeg("new")
        assert await fresh.get(f"/Rome/a ~{sibling.id[:8]}.jpg") == second


# -- times ----------------------------------------------------------------------------------------


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_setstat_of_a_committed_files_time_is_kept(
    tmp_path: Path, version: str, by: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await enter(r, by)
        await session.utime("/Rome/a.jpg", LATER)
        assert (await session.stat("/Rome/a.jpg"))["mtime"] == LATER
        assert await times(await r.session(key=r.demo.add_key(r.alice)), "/Rome") == {
            "a.jpg": LATER
        }
        assert albums_in(asset) == {album.id: [{"time": LATER}]}
        await session.utime("/Rome/a.jpg", TAKEN)
        assert note(asset) is None
        # The time it has already costs nothing.
        before = r.demo.requests.total()
        await session.utime("/Rome/a.jpg", TAKEN)
        assert r.demo.requests.total() == before


@pytest_twisted.ensureDeferred
async def test_open_fsetstat_close_without_a_write_sets_the_time_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", EDIT)
        handle.setAttrs({"atime": LATER, "mtime": LATER})
        await handle.close()
        assert await times(session, "/Rome") == {"a.jpg": LATER}
        assert r.demo.assets_of(album) == [asset]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_each_album_has_a_time_of_its_own(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        best = r.album("Best", asset)
        session = await r.session()
        await session.utime("/Best/a.jpg", LATER)
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        assert await times(session, "/Best") == {"a.jpg": LATER}
        assert albums_in(asset) == {best.id: [{"time": LATER}]}


# -- bytes that Immich has -------------------------------------------------------------------------


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_known_bytes_show_up_under_the_name_and_time_the_client_gave(
    tmp_path: Path, version: str, by: str
) -> None:
    async with rig(tmp_path, version) as r:
        known = r.asset("a.jpg")
        r.album("Best", known)
        album = r.album("Rome")
        session = await enter(r, by)
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        assert await times(session, "/Rome") == {"b.jpg": LATER}
        assert await times(session, "/Best") == {"a.jpg": TAKEN}
        assert r.demo.requests["POST /assets"] == 0
        assert albums_in(known) == {album.id: [{"name": "b.jpg", "time": LATER}]}


@everywhere
@by_both
@pytest_twisted.ensureDeferred
async def test_the_same_bytes_twice_in_an_album_are_two_files(
    tmp_path: Path, version: str, by: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        album = r.album("Rome")
        session = await enter(r, by)
        await session.put("/Rome/a.jpg", jpeg("same"), TAKEN)
        await session.put("/Rome/b.jpg", jpeg("same"), LATER)
        (asset,) = r.demo.assets_of(album)
        for looks in (session, await r.session(key=r.demo.add_key(r.alice))):
            assert await times(looks, "/Rome") == {"a.jpg": TAKEN, "b.jpg": LATER}
            assert await looks.get("/Rome/b.jpg") == jpeg("same")
        await session.rm("/Rome/a.jpg")
        assert await times(session, "/Rome") == {"b.jpg": LATER}
        assert asset.albums == {album.id}
        assert asset.deleted is None
        await session.rm("/Rome/b.jpg")
        assert await session.ls("/Rome") == {}
        assert asset.deleted is not None
        assert note(asset) is None


@pytest_twisted.ensureDeferred
async def test_removing_a_name_of_an_asset_without_a_trash_needs_no_word(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), TAKEN)
        await session.rm("/Rome/b.jpg")
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        assert (asset.deleted, note(asset)) == (None, None)


@everywhere
@pytest_twisted.ensureDeferred
async def test_new_bytes_under_many_names_at_once_are_as_many_files(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        album = r.album("Rome")
        session = await r.session()
        wanted = {f"{n}.jpg": LATER + n for n in range(5)}
        await gatherResults(
            [
                Deferred.fromCoroutine(session.put(f"/Rome/{name}", jpeg("same"), time))
                for name, time in wanted.items()
            ]
        )
        assert len(r.demo.assets_of(album)) == 1
        for looks in (session, await r.session(key=r.demo.add_key(r.alice))):
            assert await times(looks, "/Rome") == wanted


@pytest_twisted.ensureDeferred
async def test_a_removal_held_back_takes_one_name_only(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        await session.put("/Rome/new.jpg", jpeg("new"))  # waits for a time
        await session.rm("/Rome/a.jpg")
        assert set(await session.ls("/Rome")) == {"b.jpg", "new.jpg"}
        assert len(albums_in(asset)[album.id]) == 2
        await r.settled()
        assert set(await session.ls("/Rome")) == {"b.jpg", "new.jpg"}
        assert albums_in(asset) == {album.id: [{"name": "b.jpg", "time": LATER}]}
        assert asset.deleted is None


@pytest_twisted.ensureDeferred
async def test_removing_a_name_and_bringing_its_bytes_back_under_another(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        await session.put("/Rome/new.jpg", jpeg("new"))  # waits for a time
        await session.rm("/Rome/a.jpg")
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        assert set(await session.ls("/Rome")) == {"b.jpg", "new.jpg"}
        await r.settled()
        assert set(await session.ls("/Rome")) == {"b.jpg", "new.jpg"}
        assert asset.deleted is None


@everywhere
@pytest_twisted.ensureDeferred
async def test_rsyncs_and_rclones_way_with_known_bytes(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        known = r.asset("a.jpg")
        r.album("Rome", known)
        session = await r.session()
        await session.put("/Rome/b.jpg.8f2c.partial", jpeg("a.jpg"), LATER)
        await session.mv("/Rome/b.jpg.8f2c.partial", "/Rome/b.jpg")
        assert await times(session, "/Rome") == {"a.jpg": TAKEN, "b.jpg": LATER}
        # OpenSSH's: the time comes after CLOSE.
        await session.put("/Rome/c.jpg", jpeg("a.jpg"))
        await session.utime("/Rome/c.jpg", LATER + 1)
        assert (await session.stat("/Rome/c.jpg"))["mtime"] == LATER + 1
        # Without any time it has the one that these bytes have.
        await session.put("/Rome/d.jpg", jpeg("a.jpg"))
        await r.settled()
        assert (await session.stat("/Rome/d.jpg"))["mtime"] == TAKEN
        assert r.demo.requests["POST /assets"] == 0


@pytest_twisted.ensureDeferred
async def test_trashed_bytes_come_back_under_the_name_the_client_gave(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        web = await r.server.log_in("alice@example.com", "correct horse")
        await web.trash([asset.id])
        r.clock.advance(10)
        await session.put("/Rome/c.jpg", jpeg("a.jpg"), TAKEN)
        assert await times(session, "/Rome") == {"c.jpg": TAKEN}
        assert albums_in(asset) == {album.id: [{"name": "c.jpg"}]}


@pytest_twisted.ensureDeferred
async def test_a_new_upload_costs_no_call_for_its_name_and_time(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("new"), TAKEN)
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        assert not [
            route for route in r.demo.requests if "metadata" in route and "search" not in route
        ]


@pytest_twisted.ensureDeferred
async def test_overwriting_with_bytes_that_another_name_has(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        one, two = r.asset("a.jpg"), r.asset("b.jpg")
        album = r.album("Rome", one, two)
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        assert await times(session, "/Rome") == {"a.jpg": TAKEN, "b.jpg": LATER}
        assert await session.get("/Rome/b.jpg") == jpeg("a.jpg")
        assert two.deleted is not None
        assert albums_in(one) == {album.id: [{}, {"name": "b.jpg", "time": LATER}]}


@pytest_twisted.ensureDeferred
async def test_overwriting_one_of_two_names_leaves_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        await session.put("/Rome/a.jpg", jpeg("new"), LATER)
        assert await session.get("/Rome/a.jpg") == jpeg("new")
        assert await session.get("/Rome/b.jpg") == jpeg("a.jpg")
        assert asset.deleted is None
        assert set(await session.ls("/Rome")) == {"a.jpg", "b.jpg"}


@pytest_twisted.ensureDeferred
async def test_the_same_bytes_over_a_renamed_file_change_its_time_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        await session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER)
        assert await times(session, "/Rome") == {"b.jpg": LATER}
        assert albums_in(asset) == {album.id: [{"name": "b.jpg", "time": LATER}]}


@pytest_twisted.ensureDeferred
async def test_a_failed_note_fails_the_upload_and_nothing_shows_under_a_wrong_name(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.album("Best", r.asset("a.jpg"))
        album = r.album("Rome")
        session = await r.session()
        r.demo.faults.add("status", method="PUT", route="/assets/{id}/metadata", count=None)
        await raises(Unreachable, session.put("/Rome/b.jpg", jpeg("a.jpg"), LATER))
        r.demo.faults.clear()
        assert r.names_in(album) == []
        assert await session.ls("/Rome") == {}


# -- nothing is left behind ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_leaving_an_album_leaves_no_note_of_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        best = r.album("Best", asset)
        gone = r.album("Gone", asset)
        session = await r.session()
        for folder in ("Rome", "Best", "Gone"):
            await session.mv(f"/{folder}/a.jpg", f"/{folder}/b.jpg")
        await session.rm("/Rome/b.jpg")
        assert set(albums_in(asset)) == {best.id, gone.id}
        await session.sftp.removeDirectory(b"/Gone")
        assert set(albums_in(asset)) == {best.id}
        await session.rm("/Best/b.jpg")
        assert note(asset) is None


# -- where it cannot be kept -----------------------------------------------------------------------


@everywhere
@pytest_twisted.ensureDeferred
async def test_a_key_without_asset_update_keeps_no_names_and_says_so(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await without_update(r)
        await raises(Unsupported, session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        error = await raises(Refused, session.put("/Rome/b.jpg", jpeg("a.jpg"), TAKEN))
        assert "'a.jpg'" in error.text
        assert "asset.update" in error.text
        await session.utime("/Rome/a.jpg", LATER)
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        assert r.demo.assets_of(album) == [asset]
        assert (note(asset), r.in_spool()) == (None, [])


@pytest_twisted.ensureDeferred
async def test_somebody_elses_file_keeps_its_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN)
        r.demo.add_album(bob, "Shared", [theirs], shared={"alice@example.com": "editor"})
        session = await r.session()
        await raises(Unsupported, session.mv("/Shared/theirs.jpg", "/Shared/b.jpg"))
        await session.utime("/Shared/theirs.jpg", LATER)
        assert await times(session, "/Shared") == {"theirs.jpg": TAKEN}
        assert r.demo.requests["GET /assets/{id}/metadata"] == 0


@pytest_twisted.ensureDeferred
async def test_a_value_of_a_version_to_come_is_left_alone(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        value = {"v": 2, "albums": {album.id: [{"name": "x.jpg"}]}}
        web_note(asset, value)
        session = await r.session()
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        await raises(Unsupported, session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        await raises(Refused, session.put("/Rome/b.jpg", jpeg("a.jpg"), TAKEN))
        await session.utime("/Rome/a.jpg", LATER)
        assert await times(session, "/Rome") == {"a.jpg": TAKEN}
        await session.rm("/Rome/a.jpg")
        assert note(asset) == value


@pytest_twisted.ensureDeferred
async def test_bad_values_of_somebody_else_never_break_a_listing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        web_note(asset, {"v": 1, "albums": {album.id: ["x", {"name": 5}, {"name": "../x\n"}]}})
        session = await r.session()
        (name,) = await session.ls("/Rome")
        assert "/" not in name
        await session.mv(f"/Rome/{name}", "/Rome/b.jpg")
        assert albums_in(asset) == {album.id: [{"name": "b.jpg"}]}


@pytest_twisted.ensureDeferred
async def test_metadata_that_cannot_be_read_is_an_error_and_no_other_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        r.demo.faults.add("status", method="GET", route="/assets/{id}/metadata", count=None)
        await raises(Unreachable, session.ls("/Rome"))
        r.demo.faults.clear()
        assert list(await session.ls("/Rome")) == ["a.jpg"]


# -- there and back --------------------------------------------------------------------------------

NAMES = ("a.jpg", "b.jpg", "IMG_1.JPG", "\u00e4.jpg", "x ~12345678.jpg")
library = st.dictionaries(
    st.tuples(st.sampled_from(["Rome", "Best"]), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(["1", "2", "3"]), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=6,
)


async def found(session: Session) -> dict[tuple[str, str], tuple[str, int]]:
    """All files: what their bytes say, and their times."""
    result = {}
    for folder in ("Rome", "Best"):
        for name, attrs in (await session.ls(f"/{folder}")).items():
            text = (await session.get(f"/{folder}/{name}"))[2:].decode()
            result[folder, name] = text, attrs["mtime"]
    return result


@given(before=library, after=library, by=st.sampled_from(["password", "key"]))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@pytest_twisted.ensureDeferred
async def test_any_set_of_files_comes_back_as_the_same_set(
    before: dict[tuple[str, str], tuple[str, int]],
    after: dict[tuple[str, str], tuple[str, int]],
    by: str,
) -> None:
    """Also when one set overwrites another, and after a restart of the service."""
    with TemporaryDirectory() as directory:
        async with rig(Path(directory), loopback=True) as r:
            r.album("Rome")
            r.album("Best")
            session = await enter(r, by)
            wanted: dict[tuple[str, str], tuple[str, int]] = {}
            for files in (before, after):
                for (folder, name), (text, time) in files.items():
                    await session.put(f"/{folder}/{name}", jpeg(text), time)
                wanted.update(files)
                assert await found(session) == wanted
            r.accounts._accounts.clear()  # a new service knows nobody
            session = await enter(r, by)
            assert await found(session) == wanted
            for folder, name in wanted:
                await session.rm(f"/{folder}/{name}")
            assert await found(session) == {}
            assert all(note(asset) is None for asset in r.demo.state.assets.values())
