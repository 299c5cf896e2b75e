"""Which values of two parameters meet in every run.

What a client asks over SFTP and what a version of Immich answers are two sides of the service, each
tested for itself by the tests beside this folder.  So each value of either side meets one of the
other here; `IMMICH_CONCH_TEST_FULL=1` runs each with each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product

import pytest

FULL = bool(os.environ.get("IMMICH_CONCH_TEST_FULL"))

#: The versions of Immich that the demo speaks.
VERSIONS = ("2.5.6", "3.1.0")
#: Which rclone: the one that is installed, and the newest.
RCLONES = ("installed", "new")
#: Those that are fixtures; others are plain values.
FIXTURES = ("rclone", "world", "tree")


def meet(**parameters: Sequence[object]) -> pytest.MarkDecorator:
    """Each value of each parameter, in turn, as often as the longest has values."""
    values = list(parameters.values())
    rows = range(max(map(len, values)))
    met = [tuple(some[row % len(some)] for some in values) for row in rows]
    return pytest.mark.parametrize(
        tuple(parameters),
        list(product(*values)) if FULL else met,
        indirect=[name for name in parameters if name in FIXTURES],
    )
