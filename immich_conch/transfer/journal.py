"""The journal on the disk: what an entry says.

The service and its administrator's tool both read it; neither needs the other for that.
"""

from __future__ import annotations

import json
from typing import Any

#: Version of the journal's format.
FORMAT = 1

_REQUIRED: dict[str, dict[str, tuple[type, ...]]] = {
    "upload": {
        "user": (str,),
        "album": (str,),
        "name": (str,),
        "time": (int, float, type(None)),
        "arrived": (int, float),
        "size": (int,),
        "sha1": (str,),
        "state": (str,),
    },
    "removal": {"user": (str,), "album": (str,), "name": (str,), "asset": (str,)},
}


def read_entry(path: str) -> dict[str, Any]:
    """A journal entry, checked; raises ValueError with the reason."""
    try:
        with open(path, "rb") as file:
            entry = json.loads(file.read(1 << 20))
    except OSError as error:
        raise ValueError(error.strerror) from None
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise ValueError("it has another format")
    if not isinstance(entry.get("id"), str):
        raise ValueError("it has no id")
    entry.setdefault("kind", "upload")
    required = _REQUIRED.get(entry["kind"])
    if required is None:
        raise ValueError("it is of an unknown kind")
    for key, kinds in required.items():
        if key not in entry or not isinstance(entry[key], kinds) or isinstance(entry[key], bool):
            raise ValueError(f"{key} is missing or wrong")
    return entry
