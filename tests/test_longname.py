"""The longname: FileZilla takes type and size from it, so it is a real `ls -l` line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from immich_conch.library.names import safe
from immich_conch.sftp.longname import HALF_A_YEAR, longname

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC
LINE = re.compile(
    r"([-dl?][-rwx]{9}) +(\d+) (\S+) +(\S+) +(\d+) ([A-Z][a-z]{2}) +(\d+) +(\d\d:\d\d|\d{4}) (.*)"
)


def test_a_new_file_has_its_time_of_day() -> None:
    line = longname("IMG.jpg", 0o100644, 1024, NOW - 60, NOW, "anna", "users")
    assert line == "-rw-r--r--    1 anna     users        1024 Jun 15 15:05 IMG.jpg"


def test_an_old_folder_has_its_year() -> None:
    line = longname("Rome", 0o040555, 0, 86_400 * 2, NOW, "markus-the-great", "g", nlink=12)
    assert line == "dr-xr-xr-x   12 markus-the-great g               0 Jan  3  1970 Rome"


@pytest.mark.parametrize(
    ("mtime", "shown"),
    [
        (NOW - HALF_A_YEAR + 1, "Dec 15 03:06"),
        (NOW - HALF_A_YEAR, "Dec 15  2024"),
        (NOW, "Jun 15 15:06"),
        (NOW + 1, "Jun 15  2025"),
        (2**32 - 1, "Feb  7  2106"),
        (0, "Jan  1  1970"),
    ],
)
def test_half_a_year_and_the_future_decide_between_time_and_year(mtime: float, shown: str) -> None:
    assert f" {shown} a" in longname("a", 0o100644, 1, mtime, NOW, "o", "g")


def test_a_size_that_is_not_known_is_still_a_line() -> None:
    assert LINE.fullmatch(longname("a", 0o100644, None, NOW, NOW, "", "a b"))


@given(
    st.text().map(safe),
    st.sampled_from([0o040000, 0o100000]),
    st.integers(0, 0o777),
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1),
    st.text(),
    st.text(),
)
def test_a_client_that_takes_the_line_apart_gets_everything_back(
    name: str, kind: int, bits: int, size: int, mtime: int, owner: str, group: str
) -> None:
    line = longname(name, kind | bits, size, mtime, NOW, owner, group)
    match = LINE.fullmatch(line)
    assert match is not None
    assert match[1][0] == ("d" if kind == 0o040000 else "-")
    back = sum(1 << 8 - at for at, char in enumerate(match[1][1:]) if char != "-")
    assert (back, int(match[5]), match[9]) == (bits, size, name)
