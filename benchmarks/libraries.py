"""The library that is walked, and the local tree of as many files that sshd serves.

The demo's is made up: two thirds of the assets in one album, the rest over the others.  A user's
own is only looked at: the local tree is made from what a walk of ours returned.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

from benchmarks.clients import Client, Tree, files_in, is_folder
from benchmarks.peers import USER, CannotMeasure, Immich

#: POSIX seconds of the first made-up file.
TAKEN = 1_500_000_000.0
BIG = "Big"


@frozen
class Library:
    """What is walked, listed and asked for, the same on both servers."""

    #: The local copy: files of the same names, sizes and times that take no room on the disk.
    place: Path
    #: Every folder, the root ("") too.
    folders: tuple[str, ...]
    files: int
    #: The folder with the most files, those files, and the album that it is, if that is known.
    big: str
    big_files: tuple[str, ...]
    big_id: str

    @property
    def entries(self) -> int:
        """Files and folders but the root, as `rclone lsf -R` lists them."""
        return self.files + len(self.folders) - 1

    def __str__(self) -> str:
        return (
            f"{self.files} files in {len(self.folders) - 1} folders, "
            f"{len(self.big_files)} of them in the largest"
        )


def put_file(path: Path, size: int, modified: float) -> None:
    """A file of zeros without blocks."""
    with path.open("wb") as file:
        file.truncate(size)
    os.utime(path, (modified, modified))


def make_up(server: Immich, place: Path, files: int, albums: int) -> Library:
    """Fill the demo, and a local tree with the same."""
    big = files * 2 // 3
    names = tuple(f"IMG_{number:05d}.jpg" for number in range(files))
    entries = [
        {"name": name, "size": 1000 + number, "modified": TAKEN + number}
        for number, name in enumerate(names)
    ]
    ids = server.call("POST", "/control/assets", {"email": USER, "assets": entries})["ids"]
    share = (files - big) // (albums - 1)
    cuts = [(BIG, 0, big)]
    for number in range(albums - 1):
        low = big + number * share
        high = files if number == albums - 2 else low + share
        cuts.append((f"Album {number:03d}", low, high))
    made = []
    for name, low, high in cuts:
        album = {"email": USER, "name": name, "assets": ids[low:high]}
        made.append(server.call("POST", "/control/albums", album)["id"])
        folder = place / name
        folder.mkdir(parents=True)
        for number in range(low, high):
            put_file(folder / names[number], 1000 + number, TAKEN + number)
    folders = ("", *(name for name, _, _ in cuts))
    return Library(place, folders, files, BIG, names[:big], made[0])


def copy_of(tree: Tree, place: Path) -> tuple[str, tuple[str, ...]]:
    """Make the local tree of what a walk returned; the folder with the most files, and these."""
    for path, entries in tree:
        folder = place / path
        folder.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            if is_folder(entry):
                (folder / entry.filename).mkdir(parents=True, exist_ok=True)
            else:
                put_file(folder / entry.filename, entry.st_size or 0, entry.st_mtime or 0)
    path, entries = max(tree, key=lambda one: files_in([one]))
    return path, tuple(entry.filename for entry in entries if not is_folder(entry))


def album_called(server: Immich, name: str) -> str:
    """The id of the only album of a name, own or shared; empty where no name tells which it is."""
    with server.session() as session:
        albums = session.call("GET", "/api/albums") + session.call("GET", "/api/albums?shared=true")
    ids = {album["id"] for album in albums if album["albumName"] == name}
    return str(ids.pop()) if len(ids) == 1 else ""


def look_at(server: Immich, client: Client, place: Path) -> Library:
    """A user's own library, read and nothing else."""
    tree = client.tree()
    files = files_in(tree)
    if not files:
        raise CannotMeasure("there are no files in the albums of this user")
    big, names = copy_of(tree, place)
    folders = tuple(path for path, _ in tree)
    return Library(place, folders, files, big, names, album_called(server, big))
