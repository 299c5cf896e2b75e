"""Work beside the clients, in a thread that ends with a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def running(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Let `work` run until the block ends, which sets its event; raises what it raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work, stop)
        try:
            yield
        finally:
            stop.set()
        result.result()
