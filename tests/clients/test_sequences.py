"""Clients that cannot run here, as the packets that they send (measured, or read in their source).

All of it before the service that never settles: what is in Immich at the end came there because
of what the client said.  The last tests are about the service that settles.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from harness import User, World, eventually, photo, posix
from rawsftp import (
    CLOSE,
    EXTENDED,
    F_APPEND,
    F_CREAT,
    F_EXCL,
    F_READ,
    F_TRUNC,
    F_WRITE,
    FAILURE,
    FSETSTAT,
    FSTAT,
    HANDLE,
    LSTAT,
    NEW,
    NO_SUCH_FILE,
    OK,
    OPEN,
    PERMISSION_DENIED,
    REALPATH,
    REMOVE,
    RENAME,
    SETSTAT,
    STAT,
    STATUS,
    WRITE,
    Raw,
    attrs,
    string,
)

#: The time that the clients send.
THEN = 1_400_000_000


def arrived(user: User, name: str, data: bytes, time: float | None = THEN) -> dict[str, Any]:
    """The asset, which is the only one in the album, with the client's time."""
    asset = user.uploaded("Album", name, data)
    if time is not None:
        assert posix(asset["fileModifiedAt"]) == time
    assert user.names("Album") == [name]
    return asset


def test_winscp_small_sends_the_time_behind_close_without_waiting(world: World, user: User) -> None:
    user.album("Album")
    data = photo(90_000)
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg", NEW, attrs(mode=0o644))
        writes = [
            there.writing(handle, at, data[at : at + 32768]) for at in range(0, len(data), 32768)
        ]
        close = there.request(CLOSE, string(handle))
        setstat = there.request(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        for number in there.send_together(*writes, close, setstat):
            assert there.answer(number).status == OK
    arrived(user, "a.jpg", data)


def test_winscp_small_over_an_old_file(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(100_000))
    user.album("Album", [old])
    data = photo(90_000)
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg")
        write = there.writing(handle, 0, data)
        close = there.request(CLOSE, string(handle))
        setstat = there.request(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        for number in there.send_together(write, close, setstat):
            assert there.answer(number).status == OK
        assert there.ask(STAT, string("/Album/a.jpg")).size == 90_000
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_winscp_large_new(world: World, user: User) -> None:
    user.album("Album")
    data = photo(600_000)
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg.filepart", data)
        assert user.everything() == {}
        assert there.names("/Album") == ["a.jpg.filepart"]
        there.done(RENAME, string("/Album/a.jpg.filepart"), string("/Album/a.jpg"))
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        assert there.ask(STAT, string("/Album/a.jpg")).mtime == THEN
    arrived(user, "a.jpg", data)


def test_winscp_large_over_an_old_file(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(600_000)
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg.filepart", data)
        there.done(REMOVE, string("/Album/a.jpg"))
        assert there.names("/Album") == ["a.jpg.filepart"]
        there.done(RENAME, string("/Album/a.jpg.filepart"), string("/Album/a.jpg"))
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_winscp_resumes_its_filepart_on_another_connection(world: World, user: User) -> None:
    user.album("Album")
    data = photo(600_000)
    part = "/Album/a.jpg.filepart"
    with Raw(world.later, user) as there:
        handle = there.open(part)
        there.write(handle, data[:250_000])
        # Stopped by its user: CLOSE, and the part stays.
        assert there.close(handle).status == OK
    with Raw(world.later, user) as there:
        assert there.ask(STAT, string(part)).size == 250_000
        handle = there.open(part, F_WRITE)
        there.write(handle, data[250_000:], offset=250_000)
        assert there.close(handle).status == OK
        there.done(RENAME, string(part), string("/Album/a.jpg"))
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def test_foldersync_renames_its_tacitpart(world: World, user: User) -> None:
    user.album("Album")
    data = photo(200_000)
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg.tacitpart", data)
        there.done(RENAME, string("/Album/a.jpg.tacitpart"), string("/Album/a.jpg"))
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
        assert there.ask(STAT, string("/Album/a.jpg")).size == len(data)
    arrived(user, "a.jpg", data)


def test_foldersync_that_sends_the_time_before_the_rename(world: World, user: User) -> None:
    user.album("Album")
    data = photo(200_000)
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg.tacitpart", data)
        there.done(SETSTAT, string("/Album/a.jpg.tacitpart"), attrs(mtime=THEN))
        assert user.everything() == {}
        there.done(RENAME, string("/Album/a.jpg.tacitpart"), string("/Album/a.jpg"))
    arrived(user, "a.jpg", data)


def test_gvfs_new_sends_the_time_on_its_second_connection(world: World, user: User) -> None:
    user.album("Album")
    data = photo(200_000)
    with Raw(world.later, user) as one, Raw(world.later, user) as two:
        handle = one.open("/Album/a.jpg", F_WRITE | F_CREAT | F_EXCL, attrs(mode=0o644))
        one.write(handle, data)
        assert one.close(handle).status == OK
        two.done(SETSTAT, string("/Album/a.jpg"), attrs(mode=0o644, mtime=THEN))
    arrived(user, "a.jpg", data)


def test_gvfs_overwrites_with_giosave(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(200_000)
    part = "/Album/.giosaveAb3dEf"
    with Raw(world.later, user) as one, Raw(world.later, user) as two:
        refused = one.opening("/Album/a.jpg", F_WRITE | F_CREAT | F_EXCL)
        assert (refused.kind, refused.status) == (STATUS, FAILURE)
        handle = one.open(part, F_WRITE | F_CREAT | F_EXCL)
        one.write(handle, data)
        assert one.close(handle).status == OK
        two.done(SETSTAT, string(part), attrs(mode=0o644, mtime=THEN))
        one.done(REMOVE, string("/Album/a.jpg"))
        one.done(RENAME, string(part), string("/Album/a.jpg"))
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_kio_sets_mode_and_time_after_its_rename(world: World, user: User) -> None:
    user.album("Album")
    data = photo(200_000)
    final, part = "/Album/a.jpg", "/Album/a.jpg.part"
    with Raw(world.later, user) as there:
        room = there.ask(EXTENDED, string("statvfs@openssh.com"), string(final))
        assert room.kind != STATUS, "it asks before each upload, for what is not there yet"
        assert there.ask(LSTAT, string(final)).status == NO_SUCH_FILE
        handle = there.open(part)
        there.write(handle, data, size=61440)
        assert there.close(handle).status == OK
        there.done(RENAME, string(part), string(final))
        there.done(SETSTAT, string(final), attrs(mode=0o644))
        assert there.ask(LSTAT, string(final)).size == len(data)
        assert user.everything() == {}
        there.done(SETSTAT, string(final), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def test_kio_continues_its_part_and_replaces_the_old_file(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(200_000)
    final, part = "/Album/a.jpg", "/Album/a.jpg.part"
    with Raw(world.later, user) as there:
        there.put(part, data[:70_000])
        handle = there.open(part, F_READ | F_WRITE)
        assert there.ask(FSTAT, string(handle)).size == 70_000
        there.write(handle, data[70_000:], size=61440, offset=70_000)
        assert there.close(handle).status == OK
        there.done(REMOVE, string(final))
        there.done(RENAME, string(part), string(final))
        there.done(SETSTAT, string(final), attrs(mode=0o644))
        there.done(SETSTAT, string(final), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_rclone_sets_the_partials_time_on_another_connection(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(200_000)
    final, part = "/Album/a.jpg", "/Album/a.jpg.0a1b2c3d.partial"
    with Raw(world.later, user) as one, Raw(world.later, user) as two:
        one.put(part, data)
        two.done(SETSTAT, string(part), attrs(mtime=THEN))
        assert one.ask(STAT, string(part)).mtime == THEN
        assert one.ask(STAT, string(part)).size == len(data)
        assert two.posix_rename(part, final).status == OK
        assert one.ask(STAT, string(final)).mtime == THEN
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_rclone_takes_its_partial_back_while_the_first_connection_writes(
    world: World, user: User
) -> None:
    user.album("Album")
    part = "/Album/a.jpg.0a1b2c3d.partial"
    with Raw(world.later, user) as one, Raw(world.later, user) as two:
        handle = one.open(part)
        one.write(handle, photo(100_000))
        assert two.ask(STAT, string(part)).size == 100_000
        two.done(REMOVE, string(part))
        assert two.names("/Album") == []
        one.write(handle, photo(100_000), offset=100_000)
        one.close(handle)
        assert one.names("/Album") == []
    assert user.everything() == {}


def test_sshfs_asks_for_a_file_right_behind_its_exclusive_open(world: World, user: User) -> None:
    user.album("Album")
    data = photo(100_000)
    path = string("/Album/a.jpg")
    with Raw(world.later, user) as there:
        assert there.ask(LSTAT, path).status == NO_SUCH_FILE
        flags = struct.pack("!L", F_WRITE | F_CREAT | F_EXCL)
        opening, lstat = there.send_together(
            there.request(OPEN, path, flags, attrs(mode=0o644)), there.request(LSTAT, path)
        )
        handle = there.answer(opening)
        assert handle.kind == HANDLE
        assert there.answer(lstat).size == 0
        there.write(handle.string, data)
        # `cp -p` sets the time by path while the file is open.
        there.done(SETSTAT, path, attrs(mtime=THEN))
        there.done(SETSTAT, path, attrs(mode=0o600))
        assert there.ask(FSTAT, string(handle.string)).size == len(data)
        assert there.close(handle.string).status == OK
        assert user.names("Album") == ["a.jpg"], "committed inside CLOSE"
    arrived(user, "a.jpg", data)


def test_rsync_over_sshfs_makes_and_renames_a_dotted_name(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(100_000)
    part = "/Album/.a.jpg.Xy12Zw"
    with Raw(world.later, user) as there:
        handle = there.open(part, F_READ | F_WRITE | F_CREAT | F_EXCL, attrs(mode=0o600))
        there.write(handle, data)
        assert there.close(handle).status == OK
        there.done(SETSTAT, string(part), attrs(mtime=THEN))
        again = there.open(part, F_READ)
        there.done(SETSTAT, string(part), attrs(mode=0o644))
        assert there.close(again).status == OK
        assert there.posix_rename(part, "/Album/a.jpg").status == OK
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_node_fastput_writes_out_of_order(world: World, user: User) -> None:
    user.album("Album")
    data = photo(40 * 32768 + 77)
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg")
        offsets = list(range(0, len(data), 32768))
        order = offsets[7:20] + offsets[:7] + offsets[:19:-1]
        writes = [there.writing(handle, at, data[at : at + 32768]) for at in order]
        for number in there.send_together(*writes):
            assert there.answer(number).status == OK
        assert there.close(handle).status == OK
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def test_bytes_behind_the_data_of_a_write_are_ignored(world: World, user: User) -> None:
    """rclone 1.60 sends the last WRITE of an upload in a packet of full size."""
    user.album("Album")
    data = photo(32768 + 1000)
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg")
        there.write(handle, data[:32768])
        last = string(data[32768:]) + b"\xee" * (32768 - 1000)
        there.done(WRITE, string(handle), struct.pack("!Q", 32768), last)
        assert there.ask(FSTAT, string(handle)).size == len(data)
        assert there.close(handle).status == OK
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def test_scp_writes_without_truncating_and_then_sets_the_size(world: World, user: User) -> None:
    old = user.asset("a.jpg", photo(300_000))
    user.album("Album", [old])
    data = photo(100_000)
    with Raw(world.later, user) as there:
        handle = there.open("Album/a.jpg", F_WRITE | F_CREAT, attrs(mode=0o644, mtime=THEN))
        there.write(handle, data, size=65536)
        there.done(FSETSTAT, string(handle), attrs(size=len(data)))
        there.done(FSETSTAT, string(handle), attrs(mode=0o644, mtime=THEN))
        assert there.close(handle).status == OK
    arrived(user, "a.jpg", data)
    assert user.everything()[old]["trashed"]


def test_curl_appends_with_offset_0(world: World, user: User) -> None:
    data = photo(200_000)
    user.album("Album", [user.asset("a.jpg", data[:80_000])])
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg", F_WRITE | F_APPEND)
        for at in range(80_000, 200_000, 30_000):
            there.done(*_at_zero(handle, data[at : at + 30_000]))
        assert there.close(handle).status == OK
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def _at_zero(handle: bytes, data: bytes) -> tuple[Any, ...]:
    return WRITE, string(handle), struct.pack("!Q", 0), string(data)


def test_lftp_sets_size_and_time_without_a_write(world: World, user: User) -> None:
    data = photo(1000)
    asset = user.asset("a.jpg", data, 1.5e9)
    user.album("Album", [asset])
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg", F_WRITE | F_CREAT)
        there.done(FSETSTAT, string(handle), attrs(size=1000, mtime=THEN))
        assert there.close(handle).status == OK
    assert [found["id"] for found in user.inside("Album")] == [asset]
    assert list(user.everything()) == [asset]


def test_filezilla_asks_and_sends_the_old_access_time(world: World, user: User) -> None:
    user.album("Album")
    data = photo(100_000)
    with Raw(world.later, user) as there:
        handle = there.open("/Album/a.jpg")
        there.write(handle, data, size=16384)
        assert there.close(handle).status == OK
        there.ask(REALPATH, string("/Album/a.jpg"))
        assert there.ask(STAT, string("/Album/a.jpg")).size == len(data)
        both = struct.pack("!LLL", 8, THEN + 77, THEN)
        there.done(SETSTAT, string("/Album/a.jpg"), both)
        assert there.names("/Album") == ["a.jpg"]
    arrived(user, "a.jpg", data)


def test_mina_sends_empty_attributes(world: World, user: User) -> None:
    user.album("Album")
    data = photo(50_000)
    with Raw(world.later, user) as there:
        there.put("/Album/a.jpg", data, F_WRITE | F_CREAT | F_EXCL)
        there.done(SETSTAT, string("/Album/a.jpg"), attrs())
        assert user.everything() == {}, "no time was told yet"
        there.done(SETSTAT, string("/Album/a.jpg"), attrs(mtime=THEN))
    arrived(user, "a.jpg", data)


def test_a_committed_file_is_renamed_within_its_album(world: World, user: User) -> None:
    user.album("Album", user.assets(["a.jpg"]))
    for looks in range(2):
        with Raw(world.later, user) as there:
            if not looks:
                there.done(RENAME, string("/Album/a.jpg"), string("/Album/b.jpg"))
            assert there.names("/Album") == ["b.jpg"]
    assert user.names("Album") == ["a.jpg"], "Immich keeps its own name"


def test_the_settle_time_outlives_the_connection(world: World, user: User) -> None:
    user.album("Album")
    data = photo(100_000)
    with Raw(world.soon, user) as there:
        there.put("/Album/a.jpg", data)
    arrived(user, "a.jpg", data, None)
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")


def test_a_temporary_name_is_never_committed_by_time_alone(world: World, user: User) -> None:
    user.album("Album")
    data = photo(1000)
    with Raw(world.soon, user) as there:
        for name in ("a.jpg.filepart", "a.jpg.part", ".giosaveXYZABC", ".b.jpg.Xy12Zw"):
            there.put(f"/Album/{name}", data)
        there.put("/Album/final.jpg", data + b"other")
        eventually(lambda: "final.jpg" in user.names("Album") or None, "the final name")
        assert user.names("Album") == ["final.jpg"]
        names = there.names("/Album")
        assert len(names) == 5
        for name in names:
            if name != "final.jpg":
                there.done(REMOVE, string(f"/Album/{name}"))
    eventually(lambda: not world.soon.spooled() or None, "an empty spool")


@pytest.mark.parametrize("flags", [NEW, F_WRITE | F_CREAT, F_WRITE | F_CREAT | F_TRUNC | F_EXCL])
def test_a_type_that_is_not_taken_is_refused_at_open(
    modern: World, modern_user: User, flags: int
) -> None:
    modern_user.album("Album")
    with Raw(modern.later, modern_user) as there:
        for name in ("a.txt", "a.xmp", "Thumbs.db"):
            assert there.opening(f"/Album/{name}", flags).status == PERMISSION_DENIED
        assert there.opening("/a.jpg", flags).status == PERMISSION_DENIED


def test_what_is_sealed_is_in_immich_after_an_orderly_stop(tmp_path: Path) -> None:
    world = World("3.1.0", tmp_path / "world", tmp_path / "host-keys")
    try:
        user = world.user()
        user.album("Album")
        data = photo(100_000)
        with Raw(world.later, user) as there:
            there.put("/Album/a.jpg", data)
            assert user.everything() == {}
            world.later.stop()
        arrived(user, "a.jpg", data, None)
        assert world.sessions() == 0
    finally:
        world.close()


def test_a_stop_logs_out_who_is_connected(tmp_path: Path) -> None:
    world = World("3.1.0", tmp_path / "world", tmp_path / "host-keys")
    try:
        user = world.user()
        user.album("Album")
        with Raw(world.soon, user) as there, Raw(world.soon, user):
            assert there.names("/") == ["Album"]
            assert world.sessions() > 0
            world.soon.stop()
            assert world.sessions() == 0
    finally:
        world.close()
