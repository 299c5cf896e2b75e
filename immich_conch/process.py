"""What the process is set up for: many open files, many objects that stay, no core dumps.

`tap` calls `prepare` once, for nothing here belongs to one service of several in a process.
"""

from __future__ import annotations

import ctypes
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

_PR_SET_DUMPABLE = 4
"""`PR_SET_DUMPABLE` of <sys/prctl.h>; prctl(2)."""


def prepare() -> None:
    """Raise the limits, give up core dumps; what cannot be had stays as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    young, *old = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:  # 0 is never
        gc.set_threshold(YOUNG_OBJECTS, *old)
    keep_memory_private()


def give_back() -> None:
    """Give the system what is free in the heap (blocking, some milliseconds: call it in a thread).

    glibc by itself gives back what is free at the heap's end only.  What stays of an upload that
    waits are 5 KiB, but they lie behind the buffers that it came in, and each such upload kept 100
    KiB of the system's memory.  Other C libraries have no such call, and other habits.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)


def keep_memory_private() -> None:
    """No core dump, and no other process of this user reads our memory or environment.

    In memory are the passwords of log-ins under way and the tokens of all sessions.  The limit
    alone does not keep them from a program that the kernel pipes dumps to (core(5)); not being
    dumpable does, and it closes /proc/PID/mem and ptrace to everybody but root (ptrace(2)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (AttributeError, OSError):
        # prctl is Linux's; other systems keep the limit alone.
        return
