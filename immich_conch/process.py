"""What the process is set up for: many open files, and many objects that stay.

`tap` calls `prepare` once, for nothing here belongs to one service of several in a process.
"""

from __future__ import annotations

import gc
import resource

DESCRIPTORS = 65_536
"""Open files and connections wanted; the hard limit may be lower.

Every upload on its way keeps a file open, and the usual soft limit is 1024.
"""

YOUNG_OBJECTS = 50_000
"""New objects after which Python looks for cycles among them.

With its own 700, what one listing of a large folder holds for a moment is taken for something
that stays, and everything else in memory is searched again and again: a sixth of the time of a
walk, and a quarter of that in which a mirror is loaded.  Some 5 MB of cycles may wait.
"""


def prepare() -> None:
    """Raise the limits; what cannot be raised stays as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    young, *old = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:  # 0 is never
        gc.set_threshold(YOUNG_OBJECTS, *old)
