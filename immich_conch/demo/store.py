"""The tables on disk: one SQLite file, written row by row in one transaction a request.

Only changed rows are written, so that an upload into an album of ten thousand costs three rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from immich_conch.demo.entities import row


class Store:
    """Rows by kind and id in `directory`/state.sqlite."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(directory / "state.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS rows"
            " (kind TEXT, id TEXT, data TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID"
        )
        self._changed: dict[tuple[str, str], Any] = {}

    def load(self, kind: str) -> Iterator[dict[str, Any]]:
        """The stored rows of a kind."""
        for (data,) in self._db.execute("SELECT data FROM rows WHERE kind = ?", (kind,)):
            yield json.loads(data)

    def put(self, kind: str, key: str, entity: Any) -> None:
        """Note that a row is new or changed; None that it is gone."""
        self._changed[kind, key] = entity

    def flush(self) -> None:
        """Write what was noted, all of it or nothing."""
        if not self._changed:
            return
        gone = [key for key, entity in self._changed.items() if entity is None]
        kept = [
            (*key, json.dumps(entity if isinstance(entity, dict) else row(entity)))
            for key, entity in self._changed.items()
            if entity is not None
        ]
        self._db.execute("BEGIN")
        try:
            self._db.executemany("DELETE FROM rows WHERE kind = ? AND id = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", kept)
        except sqlite3.Error:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._changed.clear()

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._db.close()
