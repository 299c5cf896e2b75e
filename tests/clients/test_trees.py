"""Whole trees of folders, up and down: lftp's mirror, OpenSSH's -r, rclone's commands.

Each test runs on each shape of tree in TREES, starts with local files and nothing in Immich, and
asks Immich in the end for every content that it ever had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define, field
from harness import Service, User, World, eventually, photo, sha1
from meeting import RCLONES, meet
from openssh import OpenSSH
from rclone import Rclone
from test_lftp import Lftp

#: Folders by their paths, with the files in each.
Shape = dict[str, tuple[str, ...]]


def flat() -> Shape:
    """Several albums side by side; two have a file of the same name."""
    return {
        "Rome 2014": ("IMG 1.jpg", "IMG_2.HEIC", "größe 😀.mp4"),
        "Paris": ("IMG 1.jpg", "b.png"),
        "Ålesund": ("c.gif",),
    }


def nested() -> Shape:
    """Albums below albums, below folders that are none, and beside them."""
    return {
        "Trips/2014/Rome 2014": ("IMG 1.jpg", "IMG_2.HEIC", "größe 😀.mp4"),
        "Trips/2014": ("IMG 1.jpg", "b.png"),
        "Ålesund": ("c.gif",),
    }


TREES = [flat, nested]

#: Names, bytes and times of files by their paths.
Files = dict[str, tuple[bytes, float]]


def looked_at(root: Path) -> Files:
    """All files below a folder."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def without_times(files: Files) -> dict[str, bytes]:
    """The same with the bytes only."""
    return {name: data for name, (data, _) in files.items()}


@define(eq=False)
class Tree:
    """A tree of local files and whose library it goes to.

    `first`, `second` and `third` are folders of it, `first` with three files, `second` with two.
    """

    service: Service
    user: User
    directory: Path
    first: str
    second: str
    third: str
    #: Every content that there ever was.
    contents: list[bytes] = field(factory=list)
    _clock: float = 1.4e9

    @property
    def root(self) -> Path:
        """The local folder."""
        return self.directory / "Tree"

    @property
    def tops(self) -> list[str]:
        """The folders in its root."""
        return sorted(path.name for path in self.root.iterdir())

    def write(self, path: str) -> None:
        """Make a file, or a new one in its place; each is some seconds younger than the last."""
        data = photo(40_000 + len(self.contents))
        self.contents.append(data)
        self._clock += 7
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)
        os.utime(self.root / path, (self._clock, self._clock))

    def files(self) -> Files:
        """What is there locally."""
        return looked_at(self.root)

    def change(self) -> list[str]:
        """One file goes, one is new, one is another, one is moved; the paths that went."""
        folder = sorted(self.root.glob(f"{self.first}/*"))
        gone, changed, moved = folder[:3]
        gone.unlink()
        self.write(str(changed.relative_to(self.root)))
        self.write(f"{self.second}/new.jpg")
        moved.rename(self.root / self.third / moved.name)
        return [str(path.relative_to(self.root)) for path in (gone, moved)]

    def in_immich(self) -> dict[str, str]:
        """Checksums of what is in albums, by album and Immich's own name."""
        return {
            f"{album['name']}/{asset['name']}": asset["sha1"]
            for album in self.user.albums()
            for asset in album["assets"]
            if not asset["trashed"]
        }

    def arrives(self) -> None:
        """Wait until Immich has what is there locally, and nothing else in its albums."""
        wanted = {path: sha1(data) for path, (data, _) in self.files().items()}
        eventually(
            lambda: self.in_immich() == wanted,
            lambda: f"{sorted(wanted)}, but there is {sorted(self.in_immich())}",
        )

    def uploads(self) -> int:
        """How many files Immich has received from anybody so far."""
        return int(self.user.world.demo.counts()["requests"].get("POST /assets", 0))

    def done(self) -> None:
        """Nothing is on its way any more, and nothing was lost."""
        self.service.wait_until_done()
        self.user.keeps(self.contents)


@pytest.fixture(params=TREES, ids=lambda shape: shape.__name__)
def tree(request: pytest.FixtureRequest, modern: World, modern_user: User, tmp_path: Path) -> Tree:
    shape: Shape = request.param()
    service = modern.service("trees", "--settle", "0.5")
    first, second, third = shape
    made = Tree(service, modern_user, tmp_path, first, second, third)
    for folder, names in shape.items():
        for name in names:
            made.write(f"{folder}/{name}")
    return made


@pytest.fixture
def lftp(tool: Callable[[str], str], tmp_path: Path) -> Lftp:
    return Lftp(tool("lftp"), tmp_path)


# -- lftp -------------------------------------------------------------------------------------


def test_lftp_mirrors_up_once_and_down_again(lftp: Lftp, tree: Tree) -> None:
    lftp(tree.service, tree.user, "mirror -R -P 3 Tree /")
    tree.arrives()
    before = tree.uploads()
    again = lftp(tree.service, tree.user, "mirror -R -v Tree /").stdout
    assert "Transferring" not in again
    assert tree.uploads() == before
    lftp(tree.service, tree.user, "mirror -P 3 / Down")
    assert looked_at(tree.directory / "Down") == tree.files()
    assert "Transferring" not in lftp(tree.service, tree.user, "mirror -v / Down").stdout
    tree.done()


def test_lftp_mirrors_with_delete_until_both_sides_are_the_same(lftp: Lftp, tree: Tree) -> None:
    lftp(tree.service, tree.user, "mirror -R Tree /")
    lftp(tree.service, tree.user, "mirror / Down")
    tree.change()
    shutil.rmtree(tree.root / tree.tops[-1])
    lftp(tree.service, tree.user, "mirror -R --delete Tree /")
    tree.arrives()
    lftp(tree.service, tree.user, "mirror --delete / Down")
    assert looked_at(tree.directory / "Down") == tree.files()
    tree.done()


def test_lftp_mmv_moves_many_files(lftp: Lftp, tree: Tree) -> None:
    files = without_times(tree.files())
    lftp(tree.service, tree.user, "mirror -R Tree /")
    lftp(tree.service, tree.user, f'mmv "{tree.first}/*" "{tree.third}"; mirror / Down')
    wanted = {
        f"{tree.third}/{Path(path).name}" if str(Path(path).parent) == tree.first else path: data
        for path, data in files.items()
    }
    assert without_times(looked_at(tree.directory / "Down")) == wanted
    tree.done()


# -- OpenSSH ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["", "p"], ids=["", "times"])
def test_sftp_puts_and_gets_whole_folders(openssh: OpenSSH, tree: Tree, keep: str) -> None:
    puts = "\n".join(f'put -r{keep} "Tree/{top}" /' for top in tree.tops)
    openssh.sftp(tree.service, tree.user, puts)
    tree.arrives()
    (tree.directory / "Down").mkdir()
    gets = "\n".join(f'get -r{keep} "{top}" Down/' for top in tree.tops)
    openssh.sftp(tree.service, tree.user, gets)
    down = looked_at(tree.directory / "Down")
    if keep:
        assert down == tree.files()
    assert without_times(down) == without_times(tree.files())
    before = tree.uploads()
    # The same bytes once more are no new assets.
    openssh.sftp(tree.service, tree.user, puts)
    tree.done()
    tree.arrives()
    assert tree.uploads() == before


def test_sftp_renames_files_and_folders(openssh: OpenSSH, tree: Tree) -> None:
    """Some of it while Immich has nothing yet of what was put."""
    files = without_times(tree.files())
    one, two = sorted(path for path in files if str(Path(path).parent) == tree.first)[:2]
    puts = "\n".join(f'put -r "Tree/{top}" /' for top in tree.tops)
    openssh.sftp(
        tree.service,
        tree.user,
        f'{puts}\nrename "{one}" "{tree.first}/neu ü.jpg"\nrename "{two}" "{tree.third}/two.HEIC"\n'
        f'rename "{tree.third}" "Renamed"',
    )
    wanted = {path: data for path, data in files.items() if path not in (one, two)}
    wanted[f"{tree.first}/neu ü.jpg"] = files[one]
    wanted[f"{tree.third}/two.HEIC"] = files[two]
    wanted = {path.replace(f"{tree.third}/", "Renamed/"): data for path, data in wanted.items()}
    (tree.directory / "Down").mkdir()
    tops = sorted({path.split("/")[0] for path in wanted})
    for _ in range(2):
        gets = "\n".join(f'get -r "{top}" Down/' for top in tops)
        openssh.sftp(tree.service, tree.user, gets)
        assert without_times(looked_at(tree.directory / "Down")) == wanted
        # And once more when all of it comes from Immich.
        tree.service.wait_until_done()
    tree.done()


# -- rclone -----------------------------------------------------------------------------------

NOTHING = "There was nothing to transfer"


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_copies_a_tree_once_and_finds_it_the_same(rclone: Rclone, tree: Tree) -> None:
    rclone(tree.service, tree.user, "copy", "Tree", "there:")
    tree.arrives()
    rclone(tree.service, tree.user, "check", "--download", "Tree", "there:")
    before = tree.uploads()
    again = rclone(tree.service, tree.user, "copy", "-vv", "Tree", "there:").stderr
    assert NOTHING in again
    assert tree.uploads() == before
    rclone(tree.service, tree.user, "copy", "there:", "Down")
    assert looked_at(tree.directory / "Down") == tree.files()
    tree.done()


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_sync_makes_either_side_like_the_other(rclone: Rclone, tree: Tree) -> None:
    rclone(tree.service, tree.user, "sync", "Tree", "there:")
    rclone(tree.service, tree.user, "sync", "there:", "Down")
    tree.change()
    shutil.rmtree(tree.root / tree.tops[-1])
    differs = rclone(tree.service, tree.user, "check", "Tree", "there:", check=False)
    assert differs.returncode != 0
    rclone(tree.service, tree.user, "sync", "Tree", "there:")
    tree.arrives()
    rclone(tree.service, tree.user, "check", "--download", "Tree", "there:")
    assert NOTHING in rclone(tree.service, tree.user, "sync", "-vv", "Tree", "there:").stderr
    rclone(tree.service, tree.user, "sync", "there:", "Down")
    assert looked_at(tree.directory / "Down") == tree.files()
    tree.done()


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_moves_a_tree_in_and_out(rclone: Rclone, tree: Tree) -> None:
    before = tree.files()
    rclone(tree.service, tree.user, "move", "Tree", "there:")
    assert tree.files() == {}
    tree.user.keeps(tree.contents)
    rclone(tree.service, tree.user, "move", "there:", "Down")
    assert looked_at(tree.directory / "Down") == before
    assert tree.in_immich() == {}
    tree.done()


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_moves_within_the_library_and_purges(rclone: Rclone, tree: Tree) -> None:
    files = tree.files()
    rclone(tree.service, tree.user, "copy", "Tree", "there:")
    first = sorted(path for path in files if str(Path(path).parent) == tree.first)
    before = tree.uploads()
    rclone(tree.service, tree.user, "moveto", f"there:{first[0]}", f"there:{tree.first}/neu.jpg")
    rclone(tree.service, tree.user, "moveto", f"there:{first[1]}", f"there:{tree.third}/one.HEIC")
    rclone(tree.service, tree.user, "moveto", f"there:{tree.third}", "there:Renamed")
    wanted = {path: found for path, found in files.items() if path not in first[:2]}
    wanted[f"{tree.first}/neu.jpg"] = files[first[0]]
    wanted[f"{tree.third}/one.HEIC"] = files[first[1]]
    wanted = {path.replace(f"{tree.third}/", "Renamed/"): found for path, found in wanted.items()}
    rclone(tree.service, tree.user, "copy", "there:", "Down")
    assert looked_at(tree.directory / "Down") == wanted
    assert tree.uploads() == before
    for top in sorted({path.split("/")[0] for path in wanted}):
        rclone(tree.service, tree.user, "purge", f"there:{top}")
    assert tree.user.albums() == []
    tree.done()


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_dedupe_finds_no_name_twice(rclone: Rclone, tree: Tree) -> None:
    """Two assets of one name in an album have names of their own here."""
    twins = [photo(1000), photo(2000)]
    tree.contents += twins
    tree.user.album("Twins", [tree.user.asset("IMG 1.jpg", data) for data in twins])
    rclone(tree.service, tree.user, "copy", "Tree", "there:")
    before = tree.in_immich()
    done = rclone(tree.service, tree.user, "dedupe", "--dedupe-mode", "list", "there:")
    assert "duplicates" not in done.stdout
    listed = rclone(tree.service, tree.user, "lsf", "there:Twins").stdout.splitlines()
    assert len(listed) == 2
    assert "IMG 1.jpg" in listed
    assert tree.in_immich() == before
    tree.done()


@meet(rclone=RCLONES, tree=TREES)
def test_rclone_bisync_carries_changes_both_ways(rclone: Rclone, tree: Tree) -> None:
    work = ["--workdir", str(tree.directory / "work")]
    rclone(tree.service, tree.user, "bisync", *work, "--resync", "Tree", "there:")
    tree.arrives()
    gone = tree.change()
    theirs = photo(30_000)
    tree.contents.append(theirs)
    tree.user.album("From Immich", [tree.user.asset("theirs.jpg", theirs, 1.5e9)])
    # bisync looks several times and stops where something new came in between.
    eventually(
        lambda: "theirs" in rclone(tree.service, tree.user, "lsf", "-R", "there:").stdout,
        "what came into Immich by itself",
    )
    rclone(tree.service, tree.user, "bisync", *work, "Tree", "there:")
    files = tree.files()
    assert files["From Immich/theirs.jpg"] == (theirs, 1.5e9)
    assert not set(gone) & set(files)
    tree.arrives()
    before = tree.uploads()
    again = rclone(tree.service, tree.user, "bisync", "-v", *work, "Tree", "there:").stderr
    assert "No changes found" in again
    assert tree.uploads() == before
    rclone(tree.service, tree.user, "check", "--download", "Tree", "there:")
    tree.done()
