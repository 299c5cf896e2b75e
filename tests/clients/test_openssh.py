"""OpenSSH's sftp, with the batch files in `batches/`: what a user at a terminal does."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
from harness import LATER, User, World, eventually, photo, posix, sha1, sha256
from meeting import VERSIONS, meet
from openssh import BATCHES, OpenSSH

MIB = 2**20


def names_in(listing: str) -> list[str]:
    """The names of `ls -1`, without what sftp echoes."""
    lines = [line.rstrip() for line in listing.splitlines() if not line.startswith("sftp>")]
    return sorted(line for line in lines if line)


def test_albums_are_folders_and_assets_files(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Summer", user.assets(["a.jpg", "b.mp4"], modified=1.6e9, size=4321))
    user.album("Winter")
    listing = openssh.sftp(world.later, user, "ls -l\nls -la Summer\nls -n Summer/a.jpg").stdout
    assert "drwxr-xr-x" in listing
    assert "Winter" in listing
    line, *_ = [line for line in listing.splitlines() if line.endswith(" Summer/a.jpg")]
    assert line.startswith("-rw-r--r--")
    assert line.split()[4] == "4321"
    assert "Sep 13  2020" in line
    assert " 4321 " in listing.splitlines()[-1], "a file can be listed by itself"


def test_downloads_are_the_bytes_whatever_their_size(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    files = {"one.jpg": 1, "300k.jpg": 300 * 1024, "20m.mp4": 20 * MIB, "half.jpg": 900_001}
    contents = {name: photo(size) for name, size in files.items()}
    user.album("Sizes", [user.asset(name, data, 1.5e9) for name, data in contents.items()])
    down = tmp_path / "down"
    down.mkdir()
    (down / "half.jpg").write_bytes(contents["half.jpg"][:400_000])
    openssh.sftp(world.later, user, BATCHES / "download.sftp")
    for name, data in contents.items():
        assert sha256(down / name) == sha256(data), name
    assert (down / "20m.mp4").stat().st_mtime == 1.5e9


def test_an_empty_asset_downloads_as_an_empty_file(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Sizes", [user.asset("empty.jpg", b"")])
    openssh.sftp(world.later, user, "get Sizes/empty.jpg")
    assert (tmp_path / "empty.jpg").read_bytes() == b""


def test_300_mib_down_and_up(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user = modern_user
    user.album("Big", [user.asset("big.mp4", size=300 * MIB)])
    openssh.sftp(modern.later, user, "get Big/big.mp4")
    assert sha1(tmp_path / "big.mp4") == user.inside("Big")[0]["sha1"]
    other = tmp_path / "other.mp4"
    (tmp_path / "big.mp4").rename(other)
    with other.open("r+b") as file:
        file.write(b"another")
    openssh.sftp(modern.later, user, "put -p other.mp4 Big/")
    user.uploaded("Big", "other.mp4", other)


def test_uploads_with_and_without_times(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    one, two = photo(300_000), photo(1)
    (tmp_path / "one.jpg").write_bytes(one)
    (tmp_path / "two.jpg").write_bytes(two)
    os.utime(tmp_path / "two.jpg", (1.4e9, 1.4e9))
    before = time.time()
    listing = openssh.sftp(world.soon, user, BATCHES / "upload.sftp").stdout
    assert "two words.jpg" in listing
    assert " one.jpg" in listing
    with_time = user.uploaded("Summer", "two words.jpg", two)
    assert posix(with_time["fileModifiedAt"]) == 1.4e9
    without = user.uploaded("Summer", "one.jpg", one)
    assert before - 1 <= posix(without["fileModifiedAt"]) <= time.time()
    eventually(lambda: not world.soon.spooled() or None, "an empty spool")


def test_put_p_is_in_immich_when_sftp_ends(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Summer")
    (tmp_path / "two.jpg").write_bytes(photo(70_000))
    os.utime(tmp_path / "two.jpg", (1.4e9, 1.4e9))
    openssh.sftp(world.later, user, "put -p two.jpg Summer/")
    assert user.names("Summer") == ["two.jpg"]


def test_put_over_a_file_replaces_it_in_this_album_only(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    only = user.asset("only.jpg", photo(50_000), 1.3e9)
    both = user.asset("both.jpg", photo(50_000), 1.3e9)
    user.album("Album", [only, both])
    user.album("Other", [both])
    contents = {name: photo(20_000) for name in ("only.jpg", "both.jpg")}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    openssh.sftp(world.later, user, "put -p only.jpg Album/\nput -p both.jpg Album/")
    for name, data in contents.items():
        user.uploaded("Album", name, data)
    assert user.names("Album") == ["both.jpg", "only.jpg"]
    everything = user.everything()
    assert everything[only]["trashed"]
    assert not everything[both]["trashed"]
    assert [asset["id"] for asset in user.inside("Other")] == [both]
    listing = openssh.sftp(world.later, user, "ls -l Album").stdout
    assert listing.count(" 20000 ") == 2


def test_put_of_the_same_bytes_makes_no_second_asset(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    data = photo(50_000)
    known = user.asset("known.jpg", data, 1.3e9)
    user.album("Album", [known])
    (tmp_path / "known.jpg").write_bytes(data)
    openssh.sftp(world.soon, user, "put -p known.jpg Album/")
    assert list(user.everything()) == [known]
    assert user.names("Album") == ["known.jpg"]


def test_put_a_continues_a_file_that_is_shorter_there(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    data = photo(700_000)
    user.album("Album", [user.asset("long.jpg", data[:300_000])])
    (tmp_path / "long.jpg").write_bytes(data)
    openssh.sftp(world.soon, user, "put -a long.jpg Album/")
    user.uploaded("Album", "long.jpg", data)
    eventually(lambda: user.names("Album") == ["long.jpg"] or None, "the new one alone")


def test_rm_trashes_what_is_in_one_album_and_unlinks_what_is_in_two(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    only, shared, both, kept = user.assets(["only.jpg", "shared.jpg", "both.jpg", "kept.jpg"])
    user.album("Album", [only, shared, both])
    user.album("Also", [both])
    user.album("Hidden", [shared], description="not for sftp #nosync")
    user.album("Going", [kept])
    (tmp_path / "one.jpg").write_bytes(photo(100))
    listing = openssh.sftp(world.soon, user, BATCHES / "remove.sftp").stdout
    after = user.everything()
    assert after[only]["trashed"]
    assert not after[shared]["trashed"]
    assert not after[both]["trashed"]
    assert not after[kept]["trashed"], "rmdir deletes the album, never its assets"
    assert [asset["id"] for asset in user.inside("Also")] == [both]
    assert [asset["id"] for asset in user.inside("Hidden")] == [shared]
    assert "Going" not in [album["name"] for album in user.albums()]
    assert "Album" not in [album["name"] for album in user.albums()]
    assert names_in(listing) == ["/Also", "/New"]


def test_names_with_spaces_quotes_umlauts_and_emoji(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    album = "Ünï ❤ \"quoted\" 'single'"
    names = [
        "a b.jpg",
        "it's.jpg",
        'say "cheese".jpg',
        "Größe.jpg",
        "😀 smile.jpg",
        "brackets [1] *.jpg",
    ]
    contents = {name: photo(500) for name in names}
    user.album(album, [user.asset(name, data) for name, data in contents.items()])
    new = "new 'ö' 😀.jpg"
    (tmp_path / new).write_bytes(b"new" + photo(500))
    openssh.sftp(world.soon, user, BATCHES / "names.sftp")
    for name, data in contents.items():
        assert (tmp_path / name).read_bytes() == data
    user.uploaded(album, new, tmp_path / new)


def test_names_are_found_decomposed_too(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    composed, decomposed = "Gr\u00f6\u00dfe.jpg", "Gro\u0308\u00dfe.jpg"
    content = photo(500)
    user.album("M\u00fcnchen", [user.asset(composed, content)])
    openssh.sftp(world.later, user, f'get "Mu\u0308nchen/{decomposed}" got.jpg')
    assert (tmp_path / "got.jpg").read_bytes() == content
    (tmp_path / decomposed).write_bytes(b"new" + content)
    openssh.sftp(world.later, user, f'put -p "{decomposed}" "Mu\u0308nchen/"')
    assert len(user.inside("M\u00fcnchen")) == 1, "it is the same name, so it is overwritten"


def test_two_of_one_name_are_both_there(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    first, second = photo(500), photo(600)
    a = user.asset("IMG_1.jpg", first)
    b = user.asset("IMG_1.jpg", second)
    user.album("Twins", [a, b])
    later = user.album("Twins")
    listing = names_in(openssh.sftp(world.later, user, "ls -1\nls -1 Twins").stdout)
    assert listing == sorted(
        ["Twins", f"Twins ~{later[:8]}", "Twins/IMG_1.jpg", f"Twins/IMG_1 ~{b[:8]}.jpg"]
    )
    openssh.sftp(
        world.later, user, f'get Twins/IMG_1.jpg 1.jpg\nget "Twins/IMG_1 ~{b[:8]}.jpg" 2.jpg'
    )
    assert (tmp_path / "1.jpg").read_bytes() == first
    assert (tmp_path / "2.jpg").read_bytes() == second


def test_a_hidden_album_is_not_there_and_cannot_be_touched(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Secret", user.assets(["a.jpg"]), description="keep #nosync please")
    user.album("Open")
    (tmp_path / "one.jpg").write_bytes(photo(100))
    assert names_in(openssh.sftp(world.later, user, "ls -1").stdout) == ["Open"]
    for command in (
        "ls Secret",
        "get Secret/a.jpg",
        "put one.jpg Secret/",
        "rm Secret/a.jpg",
        "rmdir Secret",
        "mkdir Secret",
        "rename Open Secret",
    ):
        done = openssh.sftp(world.later, user, command, check=False)
        assert done.returncode == 1, command
    assert user.names("Secret") == ["a.jpg"]
    assert sorted(album["name"] for album in user.albums()) == ["Open", "Secret"]


def test_a_viewer_may_look_and_an_editor_may_upload(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    guest = world.user()
    content = photo(5000)
    asset = user.asset("a.jpg", content)
    user.album("Look", [asset], shared={guest.email: "viewer"})
    user.album("Work", [asset], shared={guest.email: "editor"})
    (tmp_path / "one.jpg").write_bytes(photo(100))
    listing = openssh.sftp(world.later, guest, "ls -l\nls -l Look\nls -l Work").stdout
    lines = [line.split() for line in listing.splitlines() if "immich" in line]
    assert [(line[-1], line[0]) for line in lines] == [
        ("Look", "dr-xr-xr-x"),
        ("Work", "drwxr-xr-x"),
        # With users-groups-by-id its client writes the line itself, as before OpenSSH's server.
        ("Look/a.jpg", "-r--r--r--"),
        ("Work/a.jpg", "-rw-r--r--"),
    ]
    for command in ("put one.jpg Look/", "rm Look/a.jpg", "put one.jpg Look/a.jpg"):
        done = openssh.sftp(world.later, guest, command, check=False)
        assert done.returncode == 1, command
        assert "ermission denied" in done.stderr, command
    openssh.sftp(world.later, guest, "get Look/a.jpg\nput -p one.jpg Work/")
    assert sha256(tmp_path / "a.jpg") == sha256(content)
    assert user.names("Look") == ["a.jpg"]
    (mine,) = [asset for asset in user.inside("Work") if asset["name"] == "one.jpg"]
    assert mine["owner"] == guest.email


@meet(name=["notes.txt", "IMG_1.xmp", "noextension"], world=VERSIONS)
def test_a_type_that_immich_does_not_take_is_refused_at_open(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path, name: str
) -> None:
    user.album("Album")
    (tmp_path / name).write_bytes(photo(100))
    done = openssh.sftp(world.soon, user, f"put {name} Album/", check=False)
    assert done.returncode == 1
    assert "ermission denied" in done.stderr
    assert user.everything() == {}


def test_an_empty_file_is_dropped_when_the_session_ends(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album")
    (tmp_path / "empty.jpg").write_bytes(b"")
    listing = openssh.sftp(world.soon, user, "put empty.jpg Album/\nls -1 Album").stdout
    assert "Album/empty.jpg" in names_in(listing)
    world.soon.wait_for(r"'empty\.jpg' stayed empty")
    assert names_in(openssh.sftp(world.soon, user, "ls -1 Album").stdout) == []
    assert user.everything() == {}


def test_an_upload_over_quota_is_refused(openssh: OpenSSH, world: World, tmp_path: Path) -> None:
    user = world.user(quota=100_000)
    user.album("Album")
    (tmp_path / "small.jpg").write_bytes(photo(60_000))
    (tmp_path / "more.jpg").write_bytes(photo(60_000))
    openssh.sftp(world.later, user, "put -p small.jpg Album/")
    for command in ("put more.jpg Album/", "put -p more.jpg Album/"):
        done = openssh.sftp(world.later, user, command, check=False)
        assert done.returncode == 1, command
    assert user.names("Album") == ["small.jpg"]
    assert names_in(openssh.sftp(world.later, user, "ls -1 Album").stdout) == ["Album/small.jpg"]


def test_a_failed_overwrite_leaves_the_photo_that_was_there(
    openssh: OpenSSH, world: World, tmp_path: Path
) -> None:
    user = world.user(quota=100_000)
    content = photo(60_000)
    old = user.asset("a.jpg", content)
    user.album("Album", [old])
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    done = openssh.sftp(world.later, user, "put a.jpg Album/", check=False)
    assert done.returncode == 1
    openssh.sftp(world.later, user, "get Album/a.jpg got.jpg")
    assert (tmp_path / "got.jpg").read_bytes() == content
    assert not user.everything()[old]["trashed"]


def test_files_go_into_albums_only(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    (tmp_path / "one.jpg").write_bytes(photo(100))
    modern_user.album("Album")
    for command in ("put one.jpg /", "put one.jpg Missing/one.jpg"):
        done = openssh.sftp(modern.later, modern_user, command, check=False)
        assert done.returncode == 1, command
    assert modern_user.everything() == {}


def test_a_read_only_service_changes_nothing(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user = modern_user
    content = photo(5000)
    asset = user.asset("a.jpg", content)
    user.album("Album", [asset])
    (tmp_path / "one.jpg").write_bytes(photo(100))
    for command in (
        "put one.jpg Album/",
        "put one.jpg Album/a.jpg",
        "rm Album/a.jpg",
        "rmdir Album",
        "mkdir New",
        "rename Album Else",
    ):
        done = openssh.sftp(modern.read_only, user, command, check=False)
        assert done.returncode == 1, command
        assert "ermission denied" in done.stderr, command
    listing = openssh.sftp(modern.read_only, user, "ls -l Album\nget Album/a.jpg").stdout
    assert "-r--r--r--" in listing
    assert (tmp_path / "a.jpg").read_bytes() == content
    assert list(user.everything()) == [asset]
    assert [album["name"] for album in user.albums()] == ["Album"]


def test_renaming_a_folder_renames_the_album(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Old", user.assets(["a.jpg"]))
    listing = openssh.sftp(world.later, user, 'rename Old "New name"\nls -1\nls -1 "New name"')
    assert [album["name"] for album in user.albums()] == ["New name"]
    assert names_in(listing.stdout) == ["New name", "New name/a.jpg"]


def test_moving_a_file_to_another_album(openssh: OpenSSH, world: World, user: User) -> None:
    (asset,) = user.assets(["a.jpg"])
    user.album("From", [asset])
    user.album("To")
    openssh.sftp(world.later, user, "rename From/a.jpg To/a.jpg")
    assert user.names("From") == []
    assert [found["id"] for found in user.inside("To")] == [asset]


def test_an_album_of_3000_files_is_listed_whole(openssh: OpenSSH, world: World, user: User) -> None:
    names = [f"IMG_{number:04}.jpg" for number in range(3000)]
    user.album("Many", user.assets(names))
    listing = openssh.sftp(world.later, user, "ls -1 Many\nls -l Many").stdout
    assert listing.count("-rw-r--r--") == 3000
    assert [name for name in names_in(listing) if name.startswith("Many/IMG_")] == [
        f"Many/{name}" for name in names
    ]


def test_stat_of_many_files_costs_immich_a_handful_of_calls(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    names = [f"IMG_{number:04}.jpg" for number in range(300)]
    user.album("Many", user.assets(names, size=10))
    before = sum(world.demo.counts()["requests"].values())
    openssh.sftp(world.later, user, "\n".join(f"ls -n Many/{name}" for name in names))
    assert sum(world.demo.counts()["requests"].values()) - before < 40


@pytest.mark.parametrize("options", ["RekeyLimit=1M", "Ciphers=aes256-ctr", "MACs=hmac-sha2-512"])
def test_other_algorithms_and_new_keys_under_way(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path, options: str
) -> None:
    data = photo(12 * MIB)
    modern_user.album("Album", [modern_user.asset("a.mp4", data)])
    (tmp_path / "b.mp4").write_bytes(data[::-1])
    commands = "get Album/a.mp4\nput -p b.mp4 Album/"
    openssh.sftp(modern.later, modern_user, commands, "-o", options)
    assert sha256(tmp_path / "a.mp4") == sha256(data)
    modern_user.uploaded("Album", "b.mp4", tmp_path / "b.mp4")


@pytest.mark.parametrize(
    "options",
    [
        *(f"KexAlgorithms={name}" for name in ("curve25519-sha256", "ecdh-sha2-nistp256")),
        "KexAlgorithms=diffie-hellman-group-exchange-sha256",
        *(f"HostKeyAlgorithms={name}" for name in ("ssh-ed25519", "ecdsa-sha2-nistp256")),
        *(f"HostKeyAlgorithms={name}" for name in ("rsa-sha2-256", "rsa-sha2-512")),
    ],
)
def test_each_way_to_agree_on_a_key(
    openssh: OpenSSH, modern: World, modern_user: User, options: str
) -> None:
    modern_user.album("Album")
    assert "Album" in openssh.sftp(modern.later, modern_user, "ls", "-o", options).stdout


@pytest.mark.parametrize(
    "options",
    ["Ciphers=aes128-cbc", "MACs=hmac-sha1", "HostKeyAlgorithms=ssh-rsa", "Ciphers=3des-cbc"],
)
def test_old_algorithms_are_refused(
    openssh: OpenSSH, modern: World, modern_user: User, options: str
) -> None:
    # ssh says why not at its own log level only.
    told = ["-o", options, "-o", "LogLevel=INFO"]
    if options.startswith("MACs"):
        told += ["-o", "Ciphers=aes256-ctr"]  # with GCM there is no MAC to agree on
    done = openssh.sftp(modern.later, modern_user, "ls", *told, check=False)
    assert done.returncode != 0
    assert "no matching" in done.stderr


def test_chmod_has_no_effect_and_df_tells_the_quota(openssh: OpenSSH, world: World) -> None:
    user = world.user(quota=10**9)
    user.album("Album", user.assets(["a.jpg"]))
    out = openssh.sftp(world.later, user, "chmod 600 Album/a.jpg\ndf Album\nls -l Album").stdout
    assert "-rw-r--r--" in out
    assert stat.filemode(0o100644) in out
    size_kib = 10**9 // 1024
    assert any(abs(int(word) - size_kib) < 100 for word in out.split() if word.isdigit())


def test_a_client_that_is_killed_during_an_upload_commits_nothing(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user, service = modern_user, modern.soon
    user.album("Album")
    with (tmp_path / "big.mp4").open("wb") as file:
        for _ in range(64):
            file.write(photo(MIB))
    batch = tmp_path / "batch"
    batch.write_text("put big.mp4 Album/\n")
    before = set(service.spooled())
    command = openssh.command(service, user, batch, "-l", "20000")
    client = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, **openssh.environment(user.password)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: set(service.spooled()) - before or None, "bytes in the spool")
        time.sleep(0.3)
    finally:
        os.killpg(client.pid, 9)
        client.wait()
    service.wait_for(r"upload of Album/big\.mp4 was cut off")
    eventually(lambda: modern.sessions() == 0 or None, "the session logged out")
    assert user.everything() == {}
    assert names_in(openssh.sftp(service, user, "ls -1 Album").stdout) == []
    # What came can be resumed by its exact path, until somebody removes it.
    openssh.sftp(service, user, "rm Album/big.mp4")
    eventually(lambda: set(service.spooled()) <= before or None, "nothing more in the spool")


def test_a_client_that_is_killed_during_a_download_leaves_nothing_behind(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user, service = modern_user, modern.soon
    user.album("Album", [user.asset("big.mp4", size=500 * MIB)])
    batch = tmp_path / "batch"
    batch.write_text("get Album/big.mp4\n")
    client = subprocess.Popen(
        openssh.command(service, user, batch, "-l", "20000"),
        cwd=tmp_path,
        env={**os.environ, **openssh.environment(user.password)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    target = tmp_path / "big.mp4"
    try:
        eventually(lambda: (target.exists() and target.stat().st_size > 0) or None, "first bytes")
    finally:
        os.killpg(client.pid, 9)
        client.wait()
    eventually(lambda: modern.sessions() == 0 or None, "the session logged out")
    assert names_in(openssh.sftp(service, user, "ls -1 Album").stdout) == ["Album/big.mp4"]


def test_sftp_ends_at_once_when_the_user_is_done(
    openssh: OpenSSH, world: World, user: User
) -> None:
    done = openssh.sftp(world.later, user, "pwd\nbye", limit=15)
    assert done.returncode == 0
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")


@pytest.mark.parametrize("arguments", [["ls"], ["md5sum", "Album/a.jpg"], []])
def test_a_command_or_a_shell_gets_one_line_and_status_1(
    openssh: OpenSSH, modern: World, modern_user: User, arguments: list[str]
) -> None:
    done = openssh.ssh(modern.later, modern_user, *arguments, limit=15)
    assert done.returncode == 1
    assert "SFTP service" in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1


def test_uploads_wait_for_the_settle_time_only_without_a_time(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user = modern_user
    user.album("Album")
    data = photo(1000)
    (tmp_path / "one.jpg").write_bytes(data)
    started = time.monotonic()
    openssh.sftp(modern.later, user, "put one.jpg Album/\nls -l Album")
    assert user.names("Album") == []
    listing = openssh.sftp(modern.later, user, "ls -l Album\nget Album/one.jpg got.jpg").stdout
    assert " 1000 " in listing, "every session of the user sees what waits"
    assert (tmp_path / "got.jpg").read_bytes() == data
    assert time.monotonic() - started < LATER / 2
    # What waits keeps its session at Immich; the worlds are shared, so it must not stay.
    openssh.sftp(modern.later, user, "rm Album/one.jpg\nls Album")
    assert user.everything() == {}
    assert modern.later.spooled() == []
