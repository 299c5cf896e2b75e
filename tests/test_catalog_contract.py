"""One contract for everything a catalog may ask: the user sees the same tree in every way.

Each case is run with the live mirror, with listings by password, and with an API key, on the
demo of both dialects and on the real server that IMMICH_CONCH_TEST_URL names.  At its end the
services that lived through it show what those show that have just begun, whatever they ask.
"""

from __future__ import annotations

import stat
from typing import Any

import pytest
import pytest_twisted
from library_house import (
    KEY,
    SOURCES,
    House,
    Tree,
    files,
    first,
    folders,
    h,
    seen,
    server,
    tree,
)
from rig import TAKEN, jpeg, raises, sha1

from immich_conch.errors import Denied, MissingPermission, NotFound

__all__ = ["h", "server"]

LATER = TAKEN + 1000


def mode(shown: Tree, path: str) -> int:
    """The permission bits of what is at a path."""
    return stat.S_IMODE(shown[path]["permissions"])


# -- albums, roles, and others' assets -----------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_own_and_shared_albums_are_shown_with_what_one_may_do_there(h: House) -> None:
    session = await h.enter()
    assert files(await tree(session)) == set()
    await h.alice.album("Own", await h.alice.upload("own.jpg"))
    for role in ("viewer", "editor"):
        album = await h.bob.album(role, await h.bob.upload(f"{role}.mp4", LATER))
        await h.bob.share(album, h.alice, role)
        if role == "editor":
            await h.alice.add(album, await h.alice.upload("mine.jpg"))
    await h.bob.album("Bob's own", await h.bob.upload("secret.jpg"))
    shown = await h.alike(session)
    assert files(shown) == {
        "/Own/own.jpg",
        "/viewer/viewer.mp4",
        "/editor/editor.mp4",
        "/editor/mine.jpg",
    }
    for path, bits in {"/Own": 0o755, "/viewer": 0o555, "/editor": 0o755}.items():
        assert mode(shown, path) == bits
    for path, bits in {"/Own/own.jpg": 0o644, "/viewer/viewer.mp4": 0o444}.items():
        assert mode(shown, path) == bits
    assert shown["/viewer/viewer.mp4"]["mtime"] == LATER
    assert files(await h.alike(person=h.bob)) >= {"/Bob's own/secret.jpg", "/editor/mine.jpg"}


@pytest_twisted.ensureDeferred
async def test_an_album_unshared_while_it_is_open_is_gone_and_comes_back_whole(h: House) -> None:
    kept = await h.alice.upload("kept.jpg")
    await h.alice.album("Own", kept)
    ids = [await h.bob.upload(f"{number}.jpg") for number in range(3)]
    album = await h.bob.album("Shared", *ids)
    await h.bob.share(album, h.alice, "editor")
    await h.alice.add(album, kept)
    session = await h.enter()
    assert len(files(await tree(session))) == 5
    folder = await session.sftp.openDirectory(b"/Shared")
    await h.bob.unshare(album, h.alice)
    assert files(await seen(h, session)) == {"/Own/kept.jpg"}
    await raises(NotFound, session.ls("/Shared"))
    await raises(NotFound, session.stat("/Shared/1.jpg"))
    folder.close()
    await h.alike(session)
    await h.bob.add(album, await h.bob.upload("meanwhile.jpg"))
    await h.bob.share(album, h.alice, "viewer")
    shown = await h.alike(session)
    assert {"/Shared/1.jpg", "/Shared/kept.jpg", "/Shared/meanwhile.jpg"} <= files(shown)
    assert mode(shown, "/Shared") == 0o555


@pytest_twisted.ensureDeferred
async def test_another_role_changes_what_one_may_do_at_once(h: House) -> None:
    album = await h.bob.album("Shared", await h.bob.upload("a.jpg"))
    await h.bob.share(album, h.alice, "viewer")
    session = await h.enter()
    assert mode(await tree(session), "/Shared") == 0o555
    await raises(Denied, session.put("/Shared/b.jpg", jpeg("b"), TAKEN))
    await h.bob.give_role(album, h.alice, "editor")
    shown = await seen(h, session)
    assert (mode(shown, "/Shared"), mode(shown, "/Shared/a.jpg")) == (0o755, 0o644)
    await session.put("/Shared/b.jpg", jpeg("b"), TAKEN)
    await h.bob.give_role(album, h.alice, "viewer")
    shown = await h.alike(session)
    assert files(shown) == {"/Shared/a.jpg", "/Shared/b.jpg"}
    assert mode(shown, "/Shared") == 0o555


@pytest.mark.parametrize("owner", ["own", "another's"])
@pytest_twisted.ensureDeferred
async def test_trash_archive_and_what_is_not_for_albums(h: House, owner: str) -> None:
    person = h.alice if owner == "own" else h.bob
    names = ["trashed", "archived", "hidden", "locked", "plain"]
    ids = {name: await person.upload(f"{name}.jpg") for name in names}
    album = await person.album("Album", *ids.values())
    if person is h.bob:
        await person.share(album, h.alice, "viewer")
    session = await h.enter()
    assert len(files(await tree(session))) == 5
    await person.web.trash([ids["trashed"]])
    await person.web.update_asset(ids["archived"], visibility="archive")
    await person.web.update_asset(ids["hidden"], visibility="hidden")
    await person.web.update_asset(ids["locked"], visibility="locked")
    expected = {"/Album/archived.jpg", "/Album/plain.jpg"}
    assert files(await seen(h, session)) == expected
    assert files(await h.alike(session)) == expected
    await person.web.restore([ids["trashed"]])
    await person.web.update_asset(ids["hidden"], visibility="timeline")
    expected |= {"/Album/trashed.jpg", "/Album/hidden.jpg"}
    assert files(await seen(h, session)) == expected
    assert files(await h.alike(session)) == expected


# -- what another client does --------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["own", "another's"])
@pytest_twisted.ensureDeferred
async def test_an_album_renamed_described_and_deleted_by_another_client(
    h: House, owner: str
) -> None:
    person = h.alice if owner == "own" else h.bob
    asset = await person.upload("a.jpg")
    album = await person.album("Rome", asset)
    if person is h.bob:
        await person.share(album, h.alice, "editor")
    session = await h.enter()
    assert files(await tree(session)) == {"/Rome/a.jpg"}
    await person.web.rename_album(album.id, "Roma")
    assert files(await seen(h, session)) == {"/Roma/a.jpg"}
    await raises(NotFound, session.ls("/Rome"))
    await h.alike(session)
    await person.describe(album, "not for this: #nosync")
    assert folders(await seen(h, session)) == set()
    await raises(Denied, session.ls("/Roma"))
    await raises(Denied, session.sftp.makeDirectory(b"/Roma", {}))
    await h.alike(session)
    await person.describe(album, "")
    assert files(await seen(h, session)) == {"/Roma/a.jpg"}
    await h.alike(session)
    await person.web.delete_album(album.id)
    assert folders(await seen(h, session)) == set()
    await raises(NotFound, session.ls("/Roma"))
    await h.alike(session)


@pytest_twisted.ensureDeferred
async def test_assets_added_removed_and_deleted_by_other_clients(h: House) -> None:
    first_one, second = await h.alice.upload("1.jpg"), await h.alice.upload("2.jpg")
    album = await h.alice.album("Rome", first_one)
    await h.alice.share(album, h.bob, "editor")
    session = await h.enter()
    assert files(await tree(session)) == {"/Rome/1.jpg"}
    await h.alice.add(album, second)
    assert files(await seen(h, session)) == {"/Rome/1.jpg", "/Rome/2.jpg"}
    # One goes and one comes: the count stays what it was.
    await h.alice.remove(album, first_one)
    bobs = await h.bob.upload("bob's.jpg")
    await h.bob.add(album, bobs)
    assert files(await seen(h, session)) == {"/Rome/2.jpg", "/Rome/bob's.jpg"}
    await h.alike(session)
    await h.alice.remove(album, bobs)
    await h.alice.web.trash([second], final=True)

    async def deleted() -> bool:
        return not await h.alice.web.assets(await h.alice.web.album(album.id))

    await first(deleted)
    assert files(await seen(h, session)) == set()
    assert folders(await h.alike(session)) == {"/Rome"}


@pytest_twisted.ensureDeferred
async def test_a_change_from_outside_is_seen_after_the_bound_and_not_much_asked(h: House) -> None:
    album = await h.alice.album("Rome")
    session = await h.enter()
    await tree(session)
    expected = set()
    for number in range(3):
        await h.alice.add(album, await h.alice.upload(f"{number}.jpg"))
        expected.add(f"{number}.jpg")
        h.later()
        # The first look after the bound, without another before it.
        assert set(await session.ls("/Rome")) == expected
    await h.alice.add(album, await h.alice.upload("last.jpg"))
    h.later()
    assert (await session.stat("/Rome/last.jpg"))["mtime"] == TAKEN
    await h.alike(session)


# -- names ---------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_names_given_twice_or_not_safe_come_out_the_same(h: House) -> None:
    session = await h.enter()
    await tree(session)
    ids = [await h.alice.upload("a.jpg") for _ in range(3)]
    odd = ["A.JPG", "größe.jpg", "gro\u0308ße.jpg", "gr\u00f6\u00dfe.jpg", "con|1?.jpg", "é.jpg"]
    odd += ["e\u0301.jpg", "x" * 230 + ".jpg", "tab\there.jpg", " .jpg"]
    more = [await h.alice.upload(name) for name in odd]
    await h.alice.album("Rome", *ids, *more)
    for name in ("Rome", "rome", "Rome", "..", "a\nb", "y" * 300, "Rom\u0301"):
        await h.alice.album(name, ids[0])
    theirs = await h.bob.album("Rome", await h.bob.upload("a.jpg"), await h.bob.upload("a.jpg"))
    await h.bob.share(theirs, h.alice, "viewer")
    shown = await h.alike(session)
    assert len(folders(shown)) == 9
    assert len(files(shown)) == len(ids) + len(more) + 7 + 2
    assert {f"/Rome/a ~{asset[:8]}.jpg" for asset in ids[1:]} <= files(shown)
    assert "/Rome/a.jpg" in files(shown)


@pytest_twisted.ensureDeferred
async def test_a_second_file_of_a_name_never_renames_the_first(h: House) -> None:
    early, late = await h.alice.upload("a.jpg"), await h.alice.upload("a.jpg", LATER)
    album = await h.alice.album("Rome", late)
    sessions = [await h.enter(source=source) for source in SOURCES]
    for session in sessions:
        assert files(await tree(session)) == {"/Rome/a.jpg"}
    # The elder comes: who was shown the name keeps it, as long as this is known.
    await h.alice.add(album, early)
    shown = [await seen(h, session) for session in sessions]
    assert files(shown[0]) == {"/Rome/a.jpg", f"/Rome/a ~{early[:8]}.jpg"}
    assert shown[0]["/Rome/a.jpg"]["mtime"] == LATER
    assert shown[1] == shown[0] and shown[2] == shown[0]


@pytest_twisted.ensureDeferred
async def test_a_name_freed_by_another_client_does_not_pass_on(h: House) -> None:
    ids = [await h.alice.upload("a.jpg") for _ in range(2)]
    album = await h.alice.album("Rome", *ids)
    sessions = [await h.enter(source=source) for source in SOURCES]
    for session in sessions:
        assert len(files(await tree(session))) == 2
    await h.alice.remove(album, ids[0])
    for session in sessions:
        assert files(await seen(h, session)) == {f"/Rome/a ~{ids[1][:8]}.jpg"}
        await raises(NotFound, session.stat("/Rome/a.jpg"))


@pytest.mark.parametrize("how", ["remove", "rename"])
@pytest_twisted.ensureDeferred
async def test_a_name_that_we_freed_is_pinned_for_everybody(h: House, how: str) -> None:
    ids = [await h.alice.upload("a.jpg") for _ in range(2)]
    await h.alice.album("Rome", *ids)
    session = await h.enter()
    sibling = f"/Rome/a ~{ids[1][:8]}.jpg"
    assert files(await tree(session)) == {"/Rome/a.jpg", sibling}
    if how == "remove":
        await session.rm("/Rome/a.jpg")
        expected = {sibling}
    else:
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        expected = {sibling, "/Rome/b.jpg"}
    assert files(await tree(session)) == expected
    assert files(await h.alike(session)) == expected


# -- own changes ---------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_own_changes_are_seen_at_once_by_all_of_the_user(h: House) -> None:
    kept = await h.alice.upload("kept.jpg", data=jpeg("kept"))
    await h.alice.album("Rome", kept, await h.alice.upload("old.jpg"))
    session = await h.enter()
    service = h.services[-1]
    others = [session, await h.enter(service), await h.enter(service, "key")]
    if h.source == "key":
        others.append(await h.enter(service, "listings"))
    for one in others:
        await tree(one)

    async def at_once(*expected: str) -> None:
        for one in others:
            assert files(await tree(one)) == set(expected)

    await session.put("/Rome/new.jpg", jpeg("new"), LATER)
    await at_once("/Rome/kept.jpg", "/Rome/old.jpg", "/Rome/new.jpg")
    await session.rm("/Rome/old.jpg")
    await at_once("/Rome/kept.jpg", "/Rome/new.jpg")
    await session.sftp.makeDirectory(b"/Oslo", {})
    await session.put("/Oslo/again.jpg", jpeg("kept"), LATER)
    await at_once("/Rome/kept.jpg", "/Rome/new.jpg", "/Oslo/again.jpg")
    await session.mv("/Rome/kept.jpg", "/Rome/better.jpg")
    await session.utime("/Rome/better.jpg", LATER + 1)
    await at_once("/Rome/better.jpg", "/Rome/new.jpg", "/Oslo/again.jpg")
    assert {(await one.stat("/Rome/better.jpg"))["mtime"] for one in others} == {LATER + 1}
    await session.put("/Rome/new.jpg", jpeg("newer", 77), LATER + 2)
    assert {(await one.stat("/Rome/new.jpg"))["size"] for one in others} == {77}
    await session.mv("/Rome/new.jpg", "/Oslo/new.jpg")
    await at_once("/Rome/better.jpg", "/Oslo/new.jpg", "/Oslo/again.jpg")
    shown = await h.alike(*others)
    assert len(files(shown)) == 3
    await session.mv("/Oslo", "/Bergen")
    await session.sftp.makeDirectory(b"/Empty", {})
    await session.rm("/Rome/better.jpg")
    await session.sftp.removeDirectory(b"/Rome")
    await at_once("/Bergen/new.jpg", "/Bergen/again.jpg")
    await session.sftp.removeDirectory(b"/Empty")
    for one in others:
        assert folders(await tree(one)) == {"/Bergen"}
    shown = await h.alike(*others)
    assert files(shown) == {"/Bergen/new.jpg", "/Bergen/again.jpg"}


@pytest_twisted.ensureDeferred
async def test_own_changes_and_another_clients_in_turn(h: House) -> None:
    album = await h.alice.album("Rome")
    session = await h.enter()
    await tree(session)
    for number in range(3):
        await session.put(f"/Rome/{number}.jpg", jpeg(f"{number}"), TAKEN + number)
    [first_one, *_] = await h.alice.web.check([sha1(jpeg("0"))])
    assert first_one is not None
    # Taken out by another client, put back by us, trashed by another client, put in by us.
    await h.alice.remove(album, first_one.asset_id)
    await seen(h, session)
    assert files(await seen(h, session)) == {"/Rome/1.jpg", "/Rome/2.jpg"}
    await session.put("/Rome/0.jpg", jpeg("0"), TAKEN)
    await h.alice.web.trash([first_one.asset_id])
    await seen(h, session)
    assert files(await seen(h, session)) == {"/Rome/1.jpg", "/Rome/2.jpg"}
    await session.put("/Rome/0.jpg", jpeg("0"), TAKEN)
    await h.alice.web.rename_album(album.id, "Roma")
    await seen(h, session)
    shown = await h.alike(session)
    assert files(shown) == {"/Roma/0.jpg", "/Roma/1.jpg", "/Roma/2.jpg"}


# -- what is noted -------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_what_another_session_noted_is_shown(h: House) -> None:
    known, new = await h.alice.upload("known.jpg"), await h.alice.upload("new.jpg")
    album = await h.alice.album("Rome", known)
    session = await h.enter()
    assert files(await tree(session)) == {"/Rome/known.jpg"}

    def value(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"v": 1, "albums": {album.id: list(entries)}}

    await h.alice.web.set_metadata(new, KEY, value({"name": "sea.jpg", "time": LATER}, {}))
    await h.alice.web.set_metadata(new, "another-key", {"v": 1})
    await h.alice.add(album, new)
    shown = await h.alike(session)
    assert files(shown) == {"/Rome/known.jpg", "/Rome/new.jpg", "/Rome/sea.jpg"}
    assert shown["/Rome/sea.jpg"]["mtime"] == LATER
    await h.alice.web.set_metadata(known, KEY, value({"name": "better.jpg", "time": LATER}))
    await h.alice.web.delete_metadata(new, KEY)
    expected = {"/Rome/better.jpg", "/Rome/new.jpg"}
    if h.source == "mirror":
        assert files(await seen(h, session)) == expected
        assert files(await h.alike(session)) == expected
    else:
        # Without the stream the notes of an asset are read once (BEHAVIOUR, section 6).
        assert await seen(h, session) == shown
        assert files(await h.alike()) == expected


@pytest_twisted.ensureDeferred
async def test_a_rename_by_another_service_is_shown(h: House) -> None:
    await h.alice.album("Rome", await h.alice.upload("a.jpg"), await h.alice.upload("b.jpg"))
    session, elsewhere = await h.enter(source="mirror"), await h.enter()
    for one in (session, elsewhere):
        assert files(await tree(one)) == {"/Rome/a.jpg", "/Rome/b.jpg"}
    await elsewhere.mv("/Rome/a.jpg", "/Rome/c.jpg")
    await elsewhere.utime("/Rome/b.jpg", LATER)
    shown = await h.alike(session, elsewhere)
    assert files(shown) == {"/Rome/b.jpg", "/Rome/c.jpg"}
    assert shown["/Rome/b.jpg"]["mtime"] == LATER


# -- a key is no password ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_key_never_sees_through_the_password_of_its_owner(h: House) -> None:
    await h.alice.album("Rome", await h.alice.upload("a.jpg"))
    session = await h.enter()
    service = h.services[-1]
    await tree(session)
    # 2.x gives an album's content to whoever may read the album, but no metadata.
    modern = (await h.server.version()).major >= 3
    looks = await service.session(key=await h.alice.key("user.read", "album.read"))
    blind = await service.session(key=await h.alice.key("user.read", "asset.read"))
    for number in range(2):
        # Whatever the password's catalog knows and is told.
        await session.put(f"/Rome/{number}.jpg", jpeg(f"{number}"), TAKEN)
        await session.sftp.makeDirectory(f"/Album {number}".encode(), {})
        await session.ls("/Rome")
        assert "Rome" in await looks.ls("/")
        if modern:
            await raises(MissingPermission, looks.ls("/Rome"))
            await raises(MissingPermission, looks.stat("/Rome/0.jpg"))
        else:
            assert f"{number}.jpg" in await looks.ls("/Rome")
        await raises(MissingPermission, blind.ls("/"))
        await raises(MissingPermission, blind.stat("/Rome/0.jpg"))
        h.later()
    await h.alike(session)
