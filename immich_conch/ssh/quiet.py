"""A logger for subclasses of Conch's, whose debugging lines tell of every key and channel."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger


class QuietLogger(Logger):
    """Drops what is logged at debug: twistd writes every level (CONCH.md, trap 8)."""

    def debug(self, format: str | None = None, **kwargs: Any) -> None:
        """Nothing."""
