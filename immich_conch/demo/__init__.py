"""An Immich of our own: the test double and the embedded default.  Imports nothing else of ours."""

from immich_conch.demo.immich import DemoImmich

__all__ = ["DemoImmich"]
