"""Whether directories of a container outlive it; says so where they do not.

Host keys that go with the container make every client stop with an alarm, and a spool that goes
with it takes uploads along that were answered OK.  The container's own file system, a tmpfs and a
volume without a name all go at the latest with `docker compose down`; what a mount is, the kernel
tells in `/proc/self/mountinfo` (proc(5)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

#: Made by Docker and by Podman in the root of every container.
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
MOUNTINFO = "/proc/self/mountinfo"
CGROUP = "/proc/1/cgroup"

_CONTAINER_GROUP = re.compile(r"docker|containerd|kubepods|libpod|lxc")
#: Docker gives a volume that nobody named the name of 64 hexadecimal digits.
_NAMELESS = re.compile(r"/[0-9a-f]{64}/_data$")
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))
_OCTAL = re.compile(r"\\([0-7]{3})")


@frozen
class _Mount:
    """A line of mountinfo: what of the file system is mounted, where, and its type."""

    root: str
    point: str
    type: str

    @property
    def lasts(self) -> bool:
        return self.point != "/" and self.type not in _IN_MEMORY and not _NAMELESS.search(self.root)


def unmounted(paths: Iterable[str], mountinfo_text: str) -> list[str]:
    """Those of the absolute `paths` that lie on no volume which outlives the container."""
    mounts = [mount for line in mountinfo_text.splitlines() if (mount := _mount(line)) is not None]
    return [path for path in paths if not _lasts(path, mounts)]


def _lasts(path: str, mounts: Iterable[_Mount]) -> bool:
    found: _Mount | None = None
    for mount in mounts:
        below = mount.point.rstrip("/") + "/"
        # Of two mounts on one point the later one hides the earlier one.
        if (path.rstrip("/") + "/").startswith(below) and (
            found is None or len(mount.point) >= len(found.point)
        ):
            found = mount
    return found is not None and found.lasts


def _mount(line: str) -> _Mount | None:
    before, dash, after = line.partition(" - ")
    fields, types = before.split(), after.split()
    if not dash or len(fields) < 5 or not types:
        return None
    return _Mount(_plain(fields[3]), _plain(fields[4]), types[0])


def _plain(field: str) -> str:
    """Blanks and backslashes stand in mountinfo as three octal digits."""
    return _OCTAL.sub(lambda hit: chr(int(hit[1], 8)), field)


def in_container(marks: Iterable[str] = CONTAINER_MARKS, cgroup: str = CGROUP) -> bool:
    """Whether this process runs in a container, as far as can be seen."""
    if any(os.path.exists(mark) for mark in marks):
        return True
    try:
        return _CONTAINER_GROUP.search(Path(cgroup).read_text()) is not None
    except OSError:
        return False


def warnings(directories: Mapping[str, str]) -> list[str]:
    """A line for each directory that goes with the container; none outside of containers.

    `directories` maps what is kept ("the host keys") to where.
    """
    if not in_container():
        return []
    try:
        text = Path(MOUNTINFO).read_text(errors="replace")
    except OSError:
        return []
    return [
        f"NO VOLUME: {what} in {place} go with this container. Mount a named volume there; "
        "see README, section Docker."
        for what, place in directories.items()
        if unmounted([os.path.realpath(place)], text)
    ]
