"""A folder that is changed in place, and a log that says what to change.

The oracle is a folder made anew of everything and named by `FileNames.name`, as in `test_naming`,
whose histories these are.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_naming import ALBUM, IDS, World, asset, run, shown, some_history

from immich_conch.immich.model import Asset
from immich_conch.library import change_log
from immich_conch.library.amending import amend
from immich_conch.library.change_log import ChangeLog
from immich_conch.library.contents import Content
from immich_conch.library.naming import FileNames, Folder


def members_of(world: World) -> dict[str, Asset]:
    return {one.id: one for one in world.members}


def parts_of(world: World) -> dict[str, Asset]:
    """As in `test_naming.run`."""
    members = members_of(world)
    return {one: members.get(one) or asset(one, "b.mov", visibility="hidden") for one in IDS[:2]}


def difference(old: World, new: World, noted: set[str], folder: Folder) -> Content:
    """What a source tells of a change: whose value, note or part may be another."""
    before, after, parts = members_of(old), members_of(new), parts_of(new)
    ids = {*before, *after}
    changed = {one for one in ids if before.get(one) != after.get(one)}
    changed |= ids & noted
    parted = {one for one in IDS[:2] if parts_of(old)[one] != parts[one]}
    parted |= noted
    parted |= {one for one in changed if one in folder.stills}
    changed |= {one.id for one in new.members if one.live_photo_video_id in parted}
    present = {one: after[one] for one in changed if one in after}
    lives = {one.live_photo_video_id for one in present.values()} - {None}
    return Content(
        present, {str(one): parts[str(one)] for one in lives}, frozenset(changed - after.keys())
    )


def in_place(history: list[World], ignore_case: bool) -> list[Any]:
    """As `test_naming.run`, with one folder that is changed in place where that can be."""
    names = FileNames(ignore_case)
    seen = []
    last, folder = None, None
    for world in history:
        noted = {one for one, value in world.notes.items() if names.value(one) != value}
        for asset_id, value in world.notes.items():
            names.remember(asset_id, value)
        done = False
        if folder is not None and last is not None and folder.reserved == world.reserved:
            before = everything(folder), dict(names.pins(ALBUM))
            done = amend(names, ALBUM, folder, difference(last, world, noted, folder))
            assert done or before == (everything(folder), dict(names.pins(ALBUM)))
        anew = Folder.of((len(seen),), members_of(world), parts_of(world), world.reserved)
        if not done:
            folder = anew
            names.name(ALBUM, folder)
        assert folder is not None
        event("in place" if done else "anew")
        assert folder.members == anew.members
        assert folder.assets == anew.assets
        assert sets(folder.stills) == sets(anew.stills)
        last = world
        seen.append((shown(folder), dict(names.pins(ALBUM))))
    return seen


def sets(stills: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    return {part: set(ids) for part, ids in stills.items()}


def everything(folder: Folder) -> Any:
    members, assets, stills = dict(folder.members), dict(folder.assets), sets(folder.stills)
    return shown(folder), members, assets, stills, set(folder.unsettled)


def from_scratch(names: FileNames, old: Folder | None, folder: Folder) -> None:
    names.name(ALBUM, folder)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_what_is_changed_in_place_is_as_if_made_anew(seed: int, ignore_case: bool) -> None:
    history = some_history(seed)
    assert in_place(history, ignore_case) == run(history, ignore_case, from_scratch)


def folder_of(names: FileNames, *members: Asset, parts: tuple[Asset, ...] = ()) -> Folder:
    folder = Folder.of((1,), {one.id: one for one in members}, {one.id: one for one in parts})
    names.name(ALBUM, folder)
    return folder


def content_of(*members: Asset, parts: tuple[Asset, ...] = (), gone: str = "") -> Content:
    return Content(
        {one.id: one for one in members},
        {one.id: one for one in parts},
        frozenset([gone] if gone else []),
    )


def test_a_file_that_comes_or_goes_leaves_the_others_alone() -> None:
    names = FileNames()
    folder = folder_of(names, asset(IDS[0], "a.jpg"), asset(IDS[1], "a.jpg"))
    others = dict(folder.files)
    assert amend(names, ALBUM, folder, content_of(asset(IDS[2], "c.jpg")))
    assert set(folder.files) == {"a.jpg", "a ~00000001.jpg", "c.jpg"}
    # The file that had the name has gone: nobody inherits it.
    assert amend(names, ALBUM, folder, content_of(gone=IDS[0]))
    assert set(folder.files) == {"a ~00000001.jpg", "c.jpg"}
    assert folder.files["a ~00000001.jpg"] is others["a ~00000001.jpg"]


def test_a_name_that_several_want_is_for_a_look_at_everything() -> None:
    names = FileNames()
    folder = folder_of(names, asset(IDS[0], "a.jpg"))
    pair = asset(IDS[1], "b.jpg"), asset(IDS[2], "b.jpg")
    before, pins = everything(folder), dict(names.pins(ALBUM))
    assert not amend(names, ALBUM, folder, content_of(*pair))
    assert everything(folder) == before
    assert names.pins(ALBUM) == pins


def test_who_comes_too_late_for_a_name_gets_a_mark() -> None:
    names = FileNames()
    folder = folder_of(names, asset(IDS[0], "a.jpg", created=3.0))
    pair = asset(IDS[1], "a.jpg"), asset(IDS[2], "a ~00000001.jpg")
    assert amend(names, ALBUM, folder, content_of(*pair))
    shown = {name: file.asset.id for name, file in folder.files.items()}
    assert shown == {
        "a.jpg": IDS[0],
        "a ~000000010000.jpg": IDS[1],
        "a ~00000001.jpg": IDS[2],
    }
    # Ages that are not known may be needed (2.x).
    assert not amend(names, ALBUM, folder, content_of(asset(IDS[3], "a.jpg", created=0.0)))


def test_halves_that_immich_links_stay_two_files() -> None:
    names = FileNames()
    video = asset(IDS[1], "a.mov")
    folder = folder_of(names, asset(IDS[0], "a.heic"), video)
    still = asset(IDS[0], "a.heic", live_photo_video_id=video.id)
    part = asset(IDS[1], "a.mov", visibility="hidden")
    assert amend(names, ALBUM, folder, content_of(still, parts=(part,), gone=video.id))
    assert set(folder.files) == {"a.heic", "a.mov"}
    assert folder.files["a.mov"].still is still
    assert set(folder.members) == {still.id}
    # And they leave together.
    assert amend(names, ALBUM, folder, content_of(gone=still.id)) is True
    assert not folder.files
    assert not folder.assets
    assert not folder.stills


def test_a_live_photo_comes_as_two_files() -> None:
    names = FileNames()
    folder = folder_of(names, asset(IDS[0], "z.jpg"))
    still = asset(IDS[2], "a.heic", live_photo_video_id=IDS[3])
    part = asset(IDS[3], "a.mov", visibility="hidden")
    assert amend(names, ALBUM, folder, content_of(still, parts=(part,)))
    assert set(folder.files) == {"z.jpg", "a.heic", "a.mov"}


def test_a_log_names_what_came_after_a_mark() -> None:
    log = ChangeLog(10)
    for revision, member in ((11, b"a"), (12, b"b"), (13, b"a"), (14, b"c")):
        log.enter(member, revision)
    assert log.after(9) is None
    assert log.after(10) == [b"b", b"a", b"c"]
    assert log.after(12) == [b"a", b"c"]
    # What failed may be asked for again, but nobody goes back.
    assert log.after(12) == [b"a", b"c"]
    assert log.after(11) is None
    assert log.after(14) == []


def test_a_log_that_is_full_knows_what_it_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "MAX_CHANGES", 3)
    log = ChangeLog(0)
    for revision in range(1, 6):
        log.enter(b"%d" % revision, revision)
    assert log.after(1) is None
    assert log.after(2) == [b"3", b"4", b"5"]
    log.enter(b"3", 6)
    # What changes again is not more.
    assert log.after(2) == [b"4", b"5", b"3"]
