"""What people do in a mounted library: copy, move, edit, rsync, and what has no place there.

The programs are the machine's own and know nothing of SFTP; sshfs and `rclone mount` say it for
them.  Either needs FUSE, which not every machine has.  Most people keep no second copy of what
they move in here, so each test asks Immich in the end for every content that was ever taken.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from attrs import define, frozen
from harness import READY, Process, Service, User, World, eventually, photo, posix, run, sha1
from rclone import Rclone

#: Seconds that a mount may take to go away before it is cut off from its programs.
UNMOUNT = 10.0
#: A time that no file here has by chance; each further file is a second younger.
LONG_AGO = 1.4e9
#: Both keep a file's own time; rclone 1.60's mount refuses the rest of `cp -p`, the ACL.
KEEP_TIME = "--preserve=timestamps"


@frozen
class Mounted:
    """A mounted library, and the programs of whoever works in it."""

    place: Path
    home: Path

    def __call__(self, *command: str | Path) -> str:
        """Run a program in the library; what it said."""
        done = self.attempt(*command)
        if done.returncode:
            pytest.fail(f"{command} failed with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def attempt(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program that may fail."""
        return run(command, cwd=self.place, env={"HOME": str(self.home)}, check=False)

    def files(self, folder: str) -> dict[str, tuple[bytes, float]]:
        """Names, bytes and times of what a folder shows."""
        return looked_at(self.place / folder)


Mount = Callable[[], AbstractContextManager[Mounted]]


def looked_at(folder: Path) -> dict[str, tuple[bytes, float]]:
    """Names, bytes and times of the files in a folder."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime) for path in sorted(folder.iterdir())
    }


def named(files: dict[str, tuple[bytes, float]]) -> dict[str, bytes]:
    """The same without the times."""
    return {name: data for name, (data, _) in files.items()}


@define(eq=False)
class Desk:
    """Somebody with files of their own and a library to mount.

    The service has a spool that nobody else uses; without a time it commits after half a second.
    """

    service: Service
    user: User
    directory: Path

    def local(self, folder: str, *names: str, since: float = LONG_AGO) -> dict[str, bytes]:
        """Make local files with times of their own."""
        (self.directory / folder).mkdir(parents=True, exist_ok=True)
        contents = {name: photo(60_000) for name in names}
        for number, (name, data) in enumerate(contents.items()):
            (self.directory / folder / name).write_bytes(data)
            os.utime(self.directory / folder / name, (since + number, since + number))
        return contents

    def album(self, name: str, *files: str) -> dict[str, bytes]:
        """Make an album with files in it."""
        contents = {file: photo(50_000) for file in files}
        ids = [self.user.asset(file, data, LONG_AGO) for file, data in contents.items()]
        self.user.album(name, ids)
        return contents

    def holds(self, album: str, contents: Iterable[bytes]) -> None:
        """Wait until the assets in an album have these contents, each once and no other one."""
        wanted = sorted(map(sha1, contents))

        def found() -> list[str]:
            return sorted(asset["sha1"] for asset in self.user.inside(album))

        eventually(
            lambda: found() == wanted,
            lambda: f"{len(wanted)} contents in {album!r}: {self.user.inside(album)}",
        )

    def done(self, *contents: Iterable[bytes]) -> None:
        """Nothing is on its way any more, and nothing was lost."""
        self.service.wait_until_done()
        self.user.keeps(data for group in contents for data in group)


@pytest.fixture
def desk(modern: World, modern_user: User, tmp_path: Path) -> Desk:
    service = modern.service("mounts", "--settle", "0.5")
    return Desk(service, modern_user, tmp_path)


@pytest.fixture(scope="session")
def fuse(request: pytest.FixtureRequest) -> None:
    """A machine where FUSE runs."""
    here = request.config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    assert here is not None
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"{here.FUSE}: {error}")


@contextmanager
def unmounting(place: Path) -> Iterator[None]:
    """Whatever happens: pytest empties its directories, and what is mounted there with them."""
    place.mkdir(exist_ok=True)
    try:
        yield
    finally:
        program = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount"
        for how in ("-u", "-uz"):
            if os.path.ismount(place):
                subprocess.run([program, how, str(place)], check=False, timeout=UNMOUNT)
        assert not os.path.ismount(place)


@pytest.fixture
def sshfs(fuse: None, tool: Callable[[str], str], desk: Desk) -> Mount:
    """Mounts the library with sshfs, anew each time: nothing is known from the time before."""
    program = tool("sshfs")

    @contextmanager
    def mount() -> Iterator[Mounted]:
        place = desk.directory / "mnt"
        options = (
            "password_stdin,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,"
            f"port={desk.service.port}"
        )
        with unmounting(place):
            run(
                [
                    program,
                    "-F",
                    "/dev/null",
                    "-o",
                    options,
                    f"{desk.user.email}@127.0.0.1:/",
                    place,
                ],
                cwd=desk.directory,
                text=desk.user.password + "\n",
            )
            yield Mounted(place, desk.directory)

    return mount


@pytest.fixture(params=["writes", "off"])
def rclone_mount(request: pytest.FixtureRequest, fuse: None, rclone: Rclone, desk: Desk) -> Mount:
    """Mounts the library with rclone, which writes from its cache, or as it goes."""

    @contextmanager
    def mount() -> Iterator[Mounted]:
        place = desk.directory / "mnt"
        # Any command writes rclone's configuration, which a mount needs too.
        rclone(desk.service, desk.user, "lsd", "there:")
        config = desk.directory / f"rclone-{desk.service.port}-{desk.user.email}.conf"
        with unmounting(place):
            process = Process(
                [
                    *(rclone.program, "--config", str(config)),
                    *("--cache-dir", str(desk.directory / "cache")),
                    *("mount", "there:", str(place), "--vfs-cache-mode", request.param),
                    *("--vfs-write-back", "0s", "--dir-cache-time", "0s"),
                ],
                desk.directory / "rclone.log",
            )
            try:
                eventually(
                    lambda: os.path.ismount(place), lambda: f"a mount: {process.text()}", READY
                )
                yield Mounted(place, desk.directory)
            finally:
                process.stop()

    return mount


# -- copying and moving ------------------------------------------------------------------------


def test_cp_a_takes_folders_in_and_back_as_they_were(sshfs: Mount, desk: Desk) -> None:
    rome = desk.local("Tree/Rome 2014", "IMG 1.jpg", "IMG_2.HEIC", "größe 😀.mp4")
    paris = desk.local("Tree/Paris", "IMG 1.jpg", "b.png", since=LONG_AGO + 1000)
    tree = desk.directory / "Tree"
    with sshfs() as there:
        there("cp", "-a", tree / "Rome 2014", tree / "Paris", ".")
    with sshfs() as there:
        there("cp", "-a", ".", desk.directory / "Back")
    for folder in ("Rome 2014", "Paris"):
        assert looked_at(desk.directory / "Back" / folder) == looked_at(tree / folder)
    for asset in desk.user.inside("Paris"):
        assert posix(asset["fileModifiedAt"]) == (tree / "Paris" / asset["name"]).stat().st_mtime
    desk.done(rome.values(), paris.values())


def test_mv_moves_photos_in_and_out(sshfs: Mount, desk: Desk) -> None:
    """The one copy there is changes sides."""
    contents = desk.local("Camera", "IMG_1.jpg", "IMG_2.jpg", "IMG_3.mp4")
    before = looked_at(desk.directory / "Camera")
    with sshfs() as there:
        there("mkdir", "Album")
        there("mv", *sorted((desk.directory / "Camera").iterdir()), "Album")
        # Nobody here waits for the answer to CLOSE, mv as little as sshfs.
        desk.holds("Album", contents.values())
        assert not looked_at(desk.directory / "Camera")
    with sshfs() as there:
        there("mv", "Album/IMG_1.jpg", "Album/IMG_2.jpg", desk.directory / "Camera")
        assert list(there.files("Album")) == ["IMG_3.mp4"]
    after = looked_at(desk.directory / "Camera")
    assert after == {name: before[name] for name in ("IMG_1.jpg", "IMG_2.jpg")}
    desk.holds("Album", [contents["IMG_3.mp4"]])
    desk.done(contents.values())


def test_mv_of_what_is_not_taken_leaves_it_where_it_was(sshfs: Mount, desk: Desk) -> None:
    desk.user.album("Album")
    desk.local("Camera", "notes.txt", "IMG_1.jpg.xmp", "video.mkv.txt")
    before = looked_at(desk.directory / "Camera")
    with sshfs() as there:
        for name in before:
            done = there.attempt("mv", desk.directory / "Camera" / name, "Album")
            assert done.returncode != 0
            assert "Permission denied" in done.stderr
        assert there.files("Album") == {}
    assert looked_at(desk.directory / "Camera") == before
    desk.done()
    assert desk.user.everything() == {}


@pytest.mark.parametrize("fresh", [False, True], ids=["in-immich", "on-its-way"])
def test_mv_within_and_between_folders_and_over_a_file(
    sshfs: Mount, desk: Desk, fresh: bool
) -> None:
    """Also within the settle time of a plain `cp`, when Immich has none of it yet."""
    there_before = desk.album("Other", "old.jpg")
    desk.user.album("Album")
    contents = desk.local("Camera", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    with sshfs() as there:
        option = [] if fresh else [KEEP_TIME]
        there("cp", *option, *sorted((desk.directory / "Camera").iterdir()), "Album")
        there("mv", "Album/1.jpg", "Album/one ü.jpg")
        there("mv", "Album/2.jpg", "Other")
        there("mv", "Album/3.jpg", "Other/old.jpg")
        there("mv", "Other", "Renamed")
    album = {"one ü.jpg": contents["1.jpg"], "4.jpg": contents["4.jpg"]}
    other = {"2.jpg": contents["2.jpg"], "old.jpg": contents["3.jpg"]}
    for _ in range(2):
        with sshfs() as there:
            assert named(there.files("Album")) == album
            assert named(there.files("Renamed")) == other
        # The second time it is Immich that all is read from.
        desk.service.wait_until_done()
    desk.holds("Album", album.values())
    desk.holds("Renamed", other.values())
    desk.done(contents.values(), there_before.values())


def test_cp_over_a_file_replaces_it(sshfs: Mount, desk: Desk) -> None:
    old = desk.album("Album", "1.jpg", "2.jpg")
    new = desk.local("Camera", "1.jpg", "2.jpg")
    with sshfs() as there:
        there("cp", "-p", desk.directory / "Camera" / "1.jpg", "Album")
        there("cp", desk.directory / "Camera" / "2.jpg", "Album")
        assert named(there.files("Album")) == new
    desk.holds("Album", new.values())
    desk.done(old.values(), new.values())


def test_what_sshfs_does_not_tell_is_in_the_log(sshfs: Mount, desk: Desk, modern: World) -> None:
    """sshfs takes no notice of an upload that fails at its end, and cp says that all went well."""
    desk.user = modern.user(quota=50_000)
    desk.user.album("Album")
    desk.local("Camera", "1.jpg")
    with sshfs() as there:
        there("cp", "-p", desk.directory / "Camera" / "1.jpg", "Album")
    with sshfs() as there:
        assert there.files("Album") == {}
    desk.service.wait_for(
        f"upload of Album/1.jpg by {desk.user.email}, 60000 bytes, failed at its end: .*quota"
    )
    desk.done()
    assert desk.user.everything() == {}


# -- looking, making, removing ----------------------------------------------------------------


def test_df_find_touch_mkdir_and_rm(sshfs: Mount, desk: Desk) -> None:
    contents = desk.album("Album", "1.jpg", "2.jpg")
    shared = desk.album("Other", "3.jpg")
    with sshfs() as there:
        there("df", "-h", ".")
        there("mkdir", "-p", "Album", "New")
        assert set(there("find", ".", "-type", "f").split()) == {
            *("./Album/1.jpg", "./Album/2.jpg", "./Other/3.jpg")
        }
        there("touch", "-d", "@1500000000", "Album/1.jpg")
        there("touch", "New/empty.jpg")
        assert there.attempt("touch", "New/notes.txt").returncode != 0
        there("chmod", "600", "Album/1.jpg")
    with sshfs() as there:
        assert there.files("Album")["1.jpg"] == (contents["1.jpg"], 1.5e9)
        # What stayed empty ended with the session that made it.
        assert there.files("New") == {}
        newer = there("find", "Album", "-newermt", "@1450000000", "-type", "f")
        assert newer.split() == ["Album/1.jpg"]
        there("rm", "-r", "Album", "New")
        assert there("ls") == "Other\n"
    assert [album["name"] for album in desk.user.albums()] == ["Other"]
    desk.holds("Other", shared.values())
    desk.done(contents.values(), shared.values())


def test_rm_r_of_what_was_just_copied(sshfs: Mount, desk: Desk) -> None:
    """Uploads that are still waiting for a time go with their folder."""
    desk.local("Camera", "1.jpg", "2.jpg")
    with sshfs() as there:
        there("cp", "-r", desk.directory / "Camera", "Album")
        there("rm", "-r", "Album")
        assert there("ls") == ""
    desk.done()
    assert desk.user.albums() == []


def test_git_init_is_refused_with_a_word_and_leaves_nothing(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    contents = desk.album("Album", "1.jpg")
    tool("git")
    with sshfs() as there:
        for where in ("Album", "."):
            done = there.attempt("git", "init", where)
            assert done.returncode != 0
            assert "Permission denied" in done.stderr
        assert list(there.files("Album")) == ["1.jpg"]
    assert [album["name"] for album in desk.user.albums()] == ["Album"]
    desk.holds("Album", contents.values())
    desk.done(contents.values())


# -- editors ----------------------------------------------------------------------------------


def vim(there: Mounted, options: str, *commands: str) -> subprocess.CompletedProcess[str]:
    """Edit Album/1.jpg without a terminal, as somebody would whose files are not below /tmp."""
    return there.attempt(
        *("vim.tiny", "-u", "NONE", "-es", "--cmd", "set nocompatible backupskip="),
        *("-c", f"set {options}", *(part for one in commands for part in ("-c", one))),
        "Album/1.jpg",
    )


@pytest.mark.parametrize(
    ("options", "left"),
    [
        # It tries whether it may make `4913`, and then `1.jpg~`, and keeps that at home instead.
        ("backupcopy=auto", []),
        ("backup backupcopy=yes", []),
        # It renames the photo to `1.jpg~`, writes a new one, and removes the old one or does not.
        ("backupcopy=no", []),
        ("backup backupcopy=no", ["1.jpg~"]),
    ],
)
def test_vim_saves_a_photo(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str], options: str, left: list[str]
) -> None:
    tool("vim.tiny")
    old, new = b"GIF89a\nold line\n", b"GIF89a\nNEW line\n"
    desk.user.album("Album", [desk.user.asset("1.jpg", old, LONG_AGO)])
    with sshfs() as there:
        done = vim(there, options, "%s/old/NEW/", "!ls -A Album >../seen", "wq")
        assert done.returncode == 0, done.stdout + done.stderr
        shown = named(there.files("Album"))
        assert shown["1.jpg"] == new
        assert sorted(shown) == ["1.jpg", *left]
    assert {".1.jpg.swp", "1.jpg"} <= set((desk.directory / "seen").read_text().split())
    desk.holds("Album", [new, *[old for _ in left]])
    desk.done([old, new])
    assert len(desk.user.everything()) == 2
    with sshfs() as there:
        assert sorted(there.files("Album")) == ["1.jpg", *left]


def test_vim_that_may_keep_its_backup_nowhere_changes_nothing(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    tool("vim.tiny")
    contents = desk.album("Album", "1.jpg")
    with sshfs() as there:
        done = vim(there, "verbose=1 backupcopy=yes backupdir=.", "normal ox", "wq", "cq")
        assert done.returncode != 0
        assert "Cannot create backup file" in done.stdout + done.stderr
        assert named(there.files("Album")) == contents
    desk.holds("Album", contents.values())
    desk.done(contents.values())


def test_a_swap_file_outlives_its_editor_and_never_comes_to_immich(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    tool("vim.tiny")
    old, new = b"GIF89a\nold line\n", b"GIF89a\nNEW line\n"
    desk.user.album("Album", [desk.user.asset("1.jpg", old, LONG_AGO)])
    with sshfs() as there:
        done = vim(there, "backupcopy=auto", "%s/old/NEW/", "preserve", "!kill -9 $PPID")
        assert done.returncode == -signal.SIGKILL
    with sshfs() as there:
        assert {".1.jpg.swp", "1.jpg"} <= set(there.files("Album"))
        assert [asset["name"] for asset in desk.user.everything().values()] == ["1.jpg"]
        done = there.attempt(
            *("vim.tiny", "-u", "NONE", "-es", "-r", "Album/1.jpg", "-c", "wq!"),
        )
        assert (there.place / "Album" / "1.jpg").read_bytes() == new, done.stdout + done.stderr
        there("rm", "Album/.1.jpg.swp")
    desk.holds("Album", [new])
    desk.done([old, new])
    assert len(desk.user.everything()) == 2


def test_sed_i_edits_in_place(sshfs: Mount, desk: Desk) -> None:
    old, new = b"GIF89a old line\n", b"GIF89a NEW line\n"
    desk.user.album("Album", [desk.user.asset("1.jpg", old, LONG_AGO)])
    with sshfs() as there:
        there("sed", "-i", "s/old/NEW/", "Album/1.jpg")
        assert named(there.files("Album")) == {"1.jpg": new}
    desk.holds("Album", [new])
    desk.done([old, new])


# -- rsync ------------------------------------------------------------------------------------


def changes(said: str) -> list[str]:
    """The files that `rsync -i` transferred or deleted.

    Folders are left out: an album's time is its newest change, whatever rsync wants it to be.
    """
    lines = (line.split(maxsplit=1) for line in said.splitlines())
    return sorted(what for how, what in lines if how.startswith((">f", "*deleting")))


def test_rsync_a_both_ways_transfers_once(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    tool("rsync")
    rome = desk.local("Tree/Rome", "1.jpg", "ü 2.jpg", "3.mp4")
    paris = desk.local("Tree/Paris", "1.jpg", since=LONG_AGO + 1000)
    tree, back = f"{desk.directory}/Tree/", f"{desk.directory}/Back/"
    everything = ["Paris/1.jpg", *(f"Rome/{name}" for name in sorted(rome))]
    with sshfs() as there:
        assert changes(there("rsync", "-ai", tree, "./")) == everything
        # Times came before the RENAMEs, which rsync waits for.
        desk.user.keeps([*rome.values(), *paris.values()])
    uploads = desk.user.world.demo.counts()["requests"]["POST /assets"]
    with sshfs() as there:
        assert changes(there("rsync", "-ai", tree, "./")) == []
        assert changes(there("rsync", "-ai", "./", back)) == everything
    with sshfs() as there:
        assert changes(there("rsync", "-ai", "./", back)) == []
    for folder in ("Rome", "Paris"):
        assert looked_at(Path(back) / folder) == looked_at(Path(tree) / folder)
    assert desk.user.world.demo.counts()["requests"]["POST /assets"] == uploads
    desk.done(rome.values(), paris.values())


def test_rsync_delete_makes_a_folder_the_same(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    tool("rsync")
    first = desk.local("Camera", "1.jpg", "2.jpg", "3.jpg")
    source = f"{desk.directory}/Camera/"
    with sshfs() as there:
        there("rsync", "-a", source, "Album/")
    second = desk.local("Camera", "2.jpg", "4.jpg", since=LONG_AGO + 500)
    (desk.directory / "Camera" / "1.jpg").unlink()
    with sshfs() as there:
        said = there("rsync", "-ai", "--delete", source, "Album/")
        assert changes(said) == ["1.jpg", "2.jpg", "4.jpg"]
    with sshfs() as there:
        assert changes(there("rsync", "-ai", "--delete", source, "Album/")) == []
        assert there.files("Album") == looked_at(Path(source))
    desk.holds("Album", [first["3.jpg"], *second.values()])
    desk.done(first.values(), second.values())


def test_rsync_of_a_folder_with_notes_in_it_takes_the_photos(
    sshfs: Mount, desk: Desk, tool: Callable[[str], str]
) -> None:
    tool("rsync")
    contents = desk.local("Camera", "1.jpg", "2.jpg")
    desk.local("Camera", "notes.txt")
    with sshfs() as there:
        done = there.attempt("rsync", "-a", f"{desk.directory}/Camera/", "Album/")
        assert done.returncode != 0
        assert "notes.txt" in done.stderr
        assert named(there.files("Album")) == contents
    desk.holds("Album", contents.values())
    desk.done(contents.values())


def test_a_photo_that_is_removed_while_somebody_looks_at_it_goes_to_the_trash(
    sshfs: Mount, desk: Desk
) -> None:
    """Until then both see it under a hidden name."""
    contents = desk.album("Album", "1.jpg", "2.jpg")
    with sshfs() as there:
        with (there.place / "Album" / "1.jpg").open("rb") as shown:
            there("rm", "Album/1.jpg")
            assert shown.read() == contents["1.jpg"]
        there("touch", "Album/3.jpg")
        eventually(lambda: sorted(there.files("Album")) == ["2.jpg", "3.jpg"], "the name to go")
    desk.holds("Album", [contents["2.jpg"]])
    desk.done(contents.values())


# -- rclone mount -----------------------------------------------------------------------------


def test_rclone_mount(rclone_mount: Mount, desk: Desk) -> None:
    old = desk.album("Other", "old.jpg", "gone.jpg")
    contents = desk.local("Camera", "1.jpg", "2.jpg", "3.jpg")
    camera = desk.directory / "Camera"
    with rclone_mount() as there:
        there("mkdir", "Album")
        there("cp", camera / "1.jpg", "Album")
        there("cp", KEEP_TIME, camera / "2.jpg", camera / "3.jpg", "Album")
        # rclone writes in the background, and a rename of what it still writes it gets wrong.
        desk.holds("Album", contents.values())
        desk.service.wait_until_done()
        line = there("ls", "-l", "--time-style=+%s", "Album").splitlines()[2]
        assert line.split()[4:] == ["60000", f"{LONG_AGO + 1:.0f}", "2.jpg"]
        for name in contents:
            there("cmp", camera / name, f"Album/{name}")
        there("mv", "Album/1.jpg", "Album/one.jpg")
        there("mv", "Album/2.jpg", "Other")
        there("mv", "Album/3.jpg", "Other/old.jpg")
        there("rm", "Other/gone.jpg")
        there("cp", camera / "3.jpg", "Album/one.jpg")
        desk.holds("Album", [contents["3.jpg"]])
        desk.holds("Other", [contents["2.jpg"], contents["3.jpg"]])
    with rclone_mount() as there:
        assert named(there.files("Album")) == {"one.jpg": contents["3.jpg"]}
        assert there.files("Other") == {
            "2.jpg": (contents["2.jpg"], LONG_AGO + 1),
            "old.jpg": (contents["3.jpg"], LONG_AGO + 2),
        }
        there("rm", "-r", "Album")
    assert [album["name"] for album in desk.user.albums()] == ["Other"]
    desk.done(old.values(), contents.values())
