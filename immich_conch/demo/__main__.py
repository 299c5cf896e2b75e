"""`python -m immich_conch.demo`: the demo as a process of its own, on 127.0.0.1."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from twisted.internet import reactor as _reactor

from immich_conch.demo.immich import KEEP_ALIVE, VERSIONS, DemoImmich
from immich_conch.demo.library import seed


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m immich_conch.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=2283, help="0 takes any free one")
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[-1])
    parser.add_argument("--dir", help="keep everything there; else it goes with the process")
    parser.add_argument("--control", action="store_true", help="serve /control for tests")
    parser.add_argument("--keep-alive", type=float, default=KEEP_ALIVE, metavar="SECONDS")
    content = parser.add_mutually_exclusive_group()
    content.add_argument("--seed", action="store_true", help="with the demo user (the default)")
    content.add_argument("--empty", action="store_true", help="with nobody and nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Serve until the process is told to stop."""
    options = _arguments(arguments)
    demo = DemoImmich(options.version, directory=options.dir, control=options.control)
    if not options.empty:
        seed(demo)
    reactor: Any = _reactor
    port = reactor.listenTCP(options.port, demo.site(options.keep_alive), interface="127.0.0.1")
    reactor.addSystemEventTrigger("after", "shutdown", demo.close)
    print(f"listening on http://127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
