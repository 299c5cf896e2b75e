"""Bad days: Immich breaks off, loses answers, is slow or away, while clients go on.

Asked over raw SFTP, for clients hide what they are told, and with sftp where it matters what a
user gets.
"""

from __future__ import annotations

from pathlib import Path

from harness import User, World, eventually, photo, posix, sha256
from meeting import VERSIONS, meet
from openssh import OpenSSH
from rawsftp import (
    CLOSE,
    F_CREAT,
    F_WRITE,
    FAILURE,
    MKDIR,
    NEW,
    NO_SUCH_FILE,
    OK,
    OPENDIR,
    PERMISSION_DENIED,
    REMOVE,
    RENAME,
    RMDIR,
    SETSTAT,
    STAT,
    Raw,
    attrs,
    string,
)

MIB = 2**20
THEN = 1_400_000_000


def test_a_download_that_immich_breaks_off_is_whole_all_the_same(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    data = photo(5 * MIB)
    user.album("Album", [user.asset("a.mp4", data)])
    for after in (1_000_000, 3_000_000):
        world.demo.fault(
            "cut-response", method="GET", route="/assets/{id}/original", after=after, count=1
        )
    openssh.sftp(world.later, user, "get Album/a.mp4")
    assert world.demo.counts()["faults"] == 0
    assert sha256(tmp_path / "a.mp4") == sha256(data)


def test_a_download_that_cannot_be_had_fails_and_is_never_short(
    openssh: OpenSSH, modern: World, modern_user: User
) -> None:
    modern_user.album("Album", [modern_user.asset("a.mp4", photo(MIB))])
    modern.demo.fault("status", method="GET", route="/assets/{id}/original", status=500, count=None)
    done = openssh.sftp(modern.later, modern_user, "get Album/a.mp4", check=False)
    assert done.returncode == 1


def test_an_upload_whose_answer_is_lost_is_there_once(world: World, user: User) -> None:
    user.album("Album")
    data = photo(100_000)
    world.demo.fault("lose-answer", method="POST", route="/assets")
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg", data)
        # Whether the SETSTAT hears of it or not, the bytes are safe and get there.
        there.ask(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        asset = user.uploaded("Album", "a.jpg", data)
        assert posix(asset["fileModifiedAt"]) == THEN
        eventually(lambda: there.names("/Album") == ["a.jpg"] or None, "one file")
    assert len(user.everything()) == 1
    eventually(lambda: not world.later.spooled() or None, "an empty spool")


def test_what_was_answered_ok_gets_there_after_immich_was_away(world: World, user: User) -> None:
    user.album("Album")
    data = photo(100_000)
    with Raw(world.soon, user) as there:
        there.put("/Album/a.jpg", data)
        world.demo.fault("status", method="POST", route="/assets", status=503, count=None)
        world.soon.wait_for(r"upload of 'a\.jpg' waits")
        assert there.ask(STAT, string("/Album/a.jpg")).size == len(data)
    assert user.everything() == {}
    world.demo.clear_faults()
    user.uploaded("Album", "a.jpg", data)
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")


def test_close_fails_while_immich_is_away_and_leaves_no_name(world: World, user: User) -> None:
    user.album("Album")
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg")
        there.write(handle, photo(1000))
        world.demo.fault("refuse", count=None)
        reply = there.close(handle)
        assert reply.status == FAILURE
        assert reply.text.startswith("Immich is not reachable")
        world.demo.clear_faults()
        assert there.names("/Album") == []
        assert there.ask(STAT, string("/Album/a.jpg")).status == NO_SUCH_FILE
    assert user.everything() == {}
    assert world.later.spooled() == []


def test_a_quota_that_immich_finds_full_keeps_the_bytes_in_the_spool(tmp_path: Path) -> None:
    world = World("3.1.0", tmp_path / "world", tmp_path / "host-keys")
    try:
        user = world.user(quota=10**6)
        user.album("Album")
        world.demo.fault("quota-full", method="POST", route="/assets", count=None)
        with Raw(world.soon, user) as there:
            there.put("/Album/a.jpg", photo(1000))
            world.soon.wait_for(r"Immich refused Album/a\.jpg")
        assert user.everything() == {}
        assert world.soon.spooled()
    finally:
        world.close()


def test_a_listing_that_fails_is_an_error(world: World, user: User) -> None:
    user.album("Album", user.assets(["a.jpg"]))
    with Raw(world.later, user) as there:
        assert there.names("/Album") == ["a.jpg"]
        world.demo.fault("status", status=500, count=None)

        def refused() -> bool | None:
            # What is younger than two seconds may be shown once more.
            reply = there.ask(OPENDIR, string("/Album"))
            if reply.status != FAILURE:
                there.close(reply.string)
                return None
            assert reply.text.startswith("Immich is not reachable")
            return True

        eventually(refused, "an error")
        world.demo.clear_faults()
        assert there.names("/Album") == ["a.jpg"]


def test_removing_what_is_on_its_way_leaves_nothing_in_immich(world: World, user: User) -> None:
    user.album("Album")
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg", photo(1000))
        assert there.ask(RMDIR, string("/Album")).status == FAILURE
        there.done(REMOVE, string("/Album/a.jpg"))
        assert there.ask(STAT, string("/Album/a.jpg")).status == NO_SUCH_FILE
        there.done(RMDIR, string("/Album"))
    assert user.everything() == {}
    assert world.later.spooled() == []


def test_two_uploads_of_one_name_one_after_the_other(world: World, user: User) -> None:
    user.album("Album")
    first, second = photo(1000), photo(2000)
    with Raw(world.soon, user) as there:
        there.put("/Album/a.jpg", first)
        there.put("/Album/a.jpg", second)
        assert there.ask(STAT, string("/Album/a.jpg")).size == 2000
        user.uploaded("Album", "a.jpg", second)
        assert there.read("/Album/a.jpg") == second
    assert user.names("Album") == ["a.jpg"]
    assert len([asset for asset in user.everything().values() if not asset["trashed"]]) == 1


def test_known_bytes_go_into_a_second_album_without_a_second_asset(
    world: World, user: User
) -> None:
    data = photo(1000)
    asset = user.asset("a.jpg", data)
    user.album("Album", [asset])
    user.album("Other")
    with Raw(world.later, user) as there:
        there.put("/Other/a.jpg", data)
        there.done(SETSTAT, string("/Other/a.jpg"), attrs(mtime=THEN))
        assert there.names("/Other") == ["a.jpg"]
    assert list(user.everything()) == [asset]
    assert user.names("Other") == user.names("Album") == ["a.jpg"]


def test_known_bytes_show_up_under_the_name_and_time_the_client_gave(
    world: World, user: User
) -> None:
    data = photo(1000)
    user.album("Album", [user.asset("a.jpg", data)])
    user.album("Other")
    with Raw(world.later, user) as there:
        there.put("/Other/b.jpg", data)
        there.done(SETSTAT, string("/Other/b.jpg"), attrs(mtime=THEN))
        assert there.names("/Other") == ["b.jpg"]
        assert there.names("/Album") == ["a.jpg"]
        assert there.ask(STAT, string("/Other/b.jpg")).mtime == THEN
    assert len(user.everything()) == 1


def test_bytes_in_the_trash_come_back(world: World, user: User) -> None:
    data = photo(1000)
    asset = user.asset("a.jpg", data)
    user.album("Album", [asset])
    with Raw(world.later, user) as there:
        there.done(REMOVE, string("/Album/a.jpg"))
        assert user.everything()[asset]["trashed"]
        there.put("/Album/a.jpg", data)
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        assert there.read("/Album/a.jpg") == data
    assert not user.everything()[asset]["trashed"]
    assert [found["id"] for found in user.inside("Album")] == [asset]


def test_the_same_new_bytes_under_two_names_at_once(world: World, user: User) -> None:
    user.album("Album")
    data = photo(50_000)
    with Raw(world.later, user) as one, Raw(world.later, user) as two:
        closing = []
        for there, name in ((one, "a.jpg"), (two, "b.jpg")):
            handle = there.open(f"/Album/{name}", NEW, attrs(mtime=THEN))
            there.write(handle, data)
            closing.append((there, handle))
        waiting = [(there, there.send(CLOSE, string(handle))) for there, handle in closing]
        for there, number in waiting:
            assert there.answer(number).status == OK
        assert there.names("/Album") == ["a.jpg", "b.jpg"]
    assert len(user.everything()) == 1


def test_names_that_break_a_path_or_a_listing_are_shown_and_served(
    openssh: OpenSSH, world: World, user: User
) -> None:
    data = photo(1000)
    odd = ["a/b.jpg", "new\nline.jpg", "tab\t.jpg", "x" * 251 + ".jpg", ". .jpg"]
    user.album("Odd/album\n", [user.asset(name, data + name.encode()) for name in odd])
    with Raw(world.later, user) as there:
        assert there.names("/") == ["Odd"]
        album = f"Odd/{there.names('/Odd')[0]}"
        names = there.names(f"/{album}")
        assert len(names) == len(odd)
        for name in [*names, album.removeprefix("Odd/")]:
            assert "/" not in name
            assert name.isprintable()
        for name in names:
            assert there.read(f"/{album}/{name}").startswith(data)
    openssh.sftp(world.later, user, f'ls -la "{album}"')


@meet(modified=[-1e9, 0, 2**32 + 5], world=VERSIONS)
def test_times_that_sftp_cannot_say_are_clamped(world: World, user: User, modified: float) -> None:
    user.album("Album", [user.asset("a.jpg", b"content", modified)])
    with Raw(world.later, user) as there:
        mtime = there.ask(STAT, string("/Album/a.jpg")).mtime
        assert mtime == min(max(int(modified), 0), 2**32 - 1)
        assert there.names("/Album") == ["a.jpg"]


def test_what_others_change_in_immich_is_seen(world: World, user: User) -> None:
    user.album("Album", user.assets(["a.jpg"]))
    with Raw(world.later, user) as there:
        assert there.names("/") == ["Album"]
        user.album("New", user.assets(["b.jpg"]))
        eventually(lambda: there.names("/") == ["Album", "New"] or None, "the new album")
        assert there.names("/New") == ["b.jpg"]


def test_moving_an_upload_on_its_way_to_another_album(world: World, user: User) -> None:
    user.album("Album")
    user.album("Other")
    data = photo(1000)
    with Raw(world.later, user) as there:
        there.put("/Other/a.jpg", data)
        there.done(RENAME, string("/Other/a.jpg"), string("/Album/b.jpg"))
        there.done(SETSTAT, string("/Album/b.jpg"), attrs(mtime=THEN))
    user.uploaded("Album", "b.jpg", data)
    assert user.names("Other") == []


def test_the_last_copy_survives_where_the_trash_is_off(tmp_path: Path) -> None:
    world = World("3.1.0", tmp_path / "world", tmp_path / "host-keys")
    try:
        user = world.user()
        asset = user.asset("a.jpg", b"the only copy")
        user.album("Album", [asset])
        world.demo.ask("POST", "settings", trash=False)
        with Raw(world.later, user) as there:
            assert there.ask(REMOVE, string("/Album/a.jpg")).status == PERMISSION_DENIED
            opened = there.opening("/Album/a.jpg", F_WRITE | F_CREAT)
            assert opened.status == PERMISSION_DENIED
            assert there.ask(MKDIR, string("/Album"), attrs()).status == FAILURE
        assert user.names("Album") == ["a.jpg"]
    finally:
        world.close()
