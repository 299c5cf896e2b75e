"""Host keys and spool that would go with their container are told of, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from immich_conch import volumes

NAMELESS = "5f" * 32
ROOT = "610 520 0:52 / / rw,relatime master:214 - overlay overlay rw,lowerdir=/l/A:/l/B\n"
PROC = "611 610 0:55 / /proc rw,nosuid - proc proc rw\n"
NAMED = "702 610 8:1 /var/lib/docker/volumes/sftp/_data /data rw master:1 - ext4 /dev/sda1 rw\n"
ANONYMOUS = f"702 610 8:1 /var/lib/docker/volumes/{NAMELESS}/_data /data rw - ext4 /dev/sda1 rw\n"
BOUND = "703 610 8:1 /srv/my\\040photos/spool /data/spool rw - ext4 /dev/sda1 rw\n"
MEMORY = "704 610 0:60 / /data/spool rw - tmpfs tmpfs rw\n"

PATHS = ["/data/host-keys", "/data/spool"]


@pytest.mark.parametrize(
    ("mountinfo", "lost"),
    [
        (ROOT + PROC, PATHS),
        (ROOT + PROC + NAMED, []),
        (ROOT + ANONYMOUS, PATHS),
        (ROOT + BOUND, ["/data/host-keys"]),
        (ROOT + ANONYMOUS + BOUND, ["/data/host-keys"]),
        (ROOT + NAMED + MEMORY, ["/data/spool"]),
        # The later mount of one point hides the earlier one.
        (ROOT + NAMED + ANONYMOUS, PATHS),
        (ROOT + ANONYMOUS + NAMED, []),
        # Lines that are none do not hide those that are.
        ("\nnonsense\n" + ROOT + "702 610 - ext4\n" + NAMED, []),
        ("", PATHS),
    ],
)
def test_what_lies_on_no_lasting_volume_is_found(mountinfo: str, lost: list[str]) -> None:
    assert volumes.unmounted(PATHS, mountinfo) == lost


def test_a_mount_beside_a_path_is_not_above_it() -> None:
    assert volumes.unmounted(["/data-old/spool"], ROOT + NAMED) == ["/data-old/spool"]


def test_blanks_in_a_mount_point_are_understood() -> None:
    line = "703 610 8:1 /srv/x /my\\040data rw - ext4 /dev/sda1 rw\n"
    assert volumes.unmounted(["/my data/spool"], ROOT + line) == []


def test_a_container_is_known_by_its_marks(tmp_path: Path) -> None:
    mark, cgroup = tmp_path / ".dockerenv", tmp_path / "cgroup"
    assert not volumes.in_container([str(mark)], str(cgroup))
    cgroup.write_text("0::/init.scope\n")
    assert not volumes.in_container([str(mark)], str(cgroup))
    cgroup.write_text("0::/system.slice/docker-0123.scope\n")
    assert volumes.in_container([str(mark)], str(cgroup))
    cgroup.unlink()
    mark.touch()
    assert volumes.in_container([str(mark)], str(cgroup))


def test_the_warning_names_what_is_lost_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(ROOT + BOUND)
    monkeypatch.setattr(volumes, "MOUNTINFO", str(mountinfo))
    monkeypatch.setattr(volumes, "in_container", lambda: True)
    [line] = volumes.warnings({"the host keys": PATHS[0], "uploads on their way": PATHS[1]})
    assert "the host keys in /data/host-keys" in line


def test_outside_of_a_container_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "in_container", lambda: False)
    assert volumes.warnings({"the host keys": "/data/host-keys"}) == []
