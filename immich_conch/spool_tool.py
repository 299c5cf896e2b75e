"""`immich-conch spool`: what an administrator sees of the upload spool, and may do to it.

It reads the journal in the spool directory.  While the service runs, which holds the directory's
lock, `retry` and `drop` are left in `control/` for it to do; otherwise they are done right here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from immich_conch.errors import ConchError, SettingsError
from immich_conch.transfer.clearing import GONE, bury
from immich_conch.transfer.journal import read_entry
from immich_conch.transfer.spool import SET_ASIDE, Spool

#: Where commands for a running service and its answers lie.
CONTROL = "control"
#: Seconds that a running service is given to answer.
PATIENCE = 20.0
_ID = re.compile(r"[0-9a-f]{8,64}")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_size(size: float) -> str:
    """Bytes as `1.5 MiB`."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def human_age(seconds: float) -> str:
    """Seconds as `3 h`."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def entries(directory: str) -> list[dict[str, Any]]:
    """Every journal entry, set-aside ones included; what cannot be read says so."""
    found = []
    for place, aside in ((directory, False), (os.path.join(directory, SET_ASIDE), True)):
        if not os.path.isdir(place):
            continue
        present = os.listdir(place)
        ids = {name.partition(".")[0] for name in present if not name.startswith(".")}
        ids -= {name.partition(".")[0] for name in present if name.endswith(f".{GONE}")}
        for file_id in sorted(filter(_ID.fullmatch, ids)):
            found.append(_entry(place, file_id, aside))
    return found


def _entry(place: str, file_id: str, aside: bool) -> dict[str, Any]:
    try:
        entry = read_entry(os.path.join(place, f"{file_id}.json"))
    except ValueError as error:
        entry = {"state": "unreadable", "reason": str(error)}
    entry["id"] = file_id
    if entry.get("kind") == "removal":
        entry["state"] = "removal"
    if aside:
        entry["state"] = "set aside"
    try:
        entry["bytes"] = os.path.getsize(os.path.join(place, f"{file_id}.data"))
    except OSError:
        entry["bytes"] = 0
    return entry


def _line(entry: dict[str, Any], now: float) -> str:
    path = f"{entry.get('folder') or entry.get('album', '?')}/{entry.get('name', '?')}"
    age = human_age(now - entry["arrived"]) if "arrived" in entry else "-"
    user = entry.get("email") or entry.get("user", "?")
    return (
        f"{entry['id']}  {entry['state']:<10}  {human_size(entry['bytes']):>10}  {age:>7}  "
        f"{user}  {_printable(path)}  {_printable(str(entry.get('reason', '')))}".rstrip()
    )


def _printable(text: str) -> str:
    """Names come from clients; a terminal must not obey them."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _find(directory: str, wanted: str) -> dict[str, Any]:
    """The entry whose id begins with `wanted`; raises SettingsError."""
    matches = [entry for entry in entries(directory) if entry["id"].startswith(wanted)]
    if len(matches) != 1:
        what = "no upload" if not matches else f"{len(matches)} uploads"
        raise SettingsError(f"{wanted}: there is {what} whose id begins so")
    return matches[0]


def _command(directory: str, entry: dict[str, Any], action: str) -> str:
    if entry["state"] == "set aside":
        if action == "retry":
            raise SettingsError("it is set aside; move it back by hand while the service is down")
        bury(os.path.join(directory, SET_ASIDE), entry["id"])
        return "dropped"
    try:
        spool = Spool.make(directory)
    except SettingsError:
        return _ask_service(directory, entry["id"], action)
    try:
        if action == "drop":
            bury(directory, entry["id"])
            return "dropped"
        if entry["state"] not in ("refused", "sealed"):
            raise SettingsError(f"it is {entry['state']}; there is nothing to try again")
        bookkeeping = {key: value for key, value in entry.items() if key not in ("bytes", "id")}
        spool.note(entry["id"], {**bookkeeping, "state": "sealed", "reason": ""})
        return "will be tried again at the user's next log-in"
    except ConchError as error:
        raise SettingsError(error.text) from None
    finally:
        spool.close()


def _ask_service(directory: str, file_id: str, action: str) -> str:
    control = os.path.join(directory, CONTROL)
    answer = os.path.join(control, f"{file_id}.answer")
    os.makedirs(control, mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(answer)  # of somebody who did not wait for it
    fresh = os.path.join(control, f"{file_id}.new")
    with open(fresh, "w") as file:
        file.write(action)
    os.replace(fresh, os.path.join(control, f"{file_id}.request"))
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        try:
            with open(answer) as file:
                text = file.read()
        except FileNotFoundError:
            time.sleep(0.2)
            continue
        os.unlink(answer)
        if text != "ok":
            raise SettingsError(text)
        return "done by the running service"
    raise SettingsError("the running service has not answered; see its log")


def requests(directory: str) -> list[tuple[str, str]]:
    """What was asked of a running service: (id, action); each is handed out once."""
    control = os.path.join(directory, CONTROL)
    found = []
    # Made by the service, so that it is the service's even if root asks first.
    os.makedirs(control, mode=0o700, exist_ok=True)
    waiting = os.listdir(control)
    for name in waiting:
        file_id, _, kind = name.partition(".")
        if kind != "request" or not _ID.fullmatch(file_id):
            continue
        path = os.path.join(control, name)
        with open(path, errors="replace") as file:
            action = file.read(16)
        os.unlink(path)
        found.append((file_id, action))
    return found


def answer(directory: str, file_id: str, text: str) -> None:
    """Tell the administrator what became of a request: `ok`, or why not."""
    control = os.path.join(directory, CONTROL)
    fresh = os.path.join(control, f"{file_id}.saying")
    with open(fresh, "w") as file:
        file.write(text)
    os.replace(fresh, os.path.join(control, f"{file_id}.answer"))


def main(arguments: Sequence[str] | None = None, write: Callable[[str], Any] = print) -> int:
    """The console script; 0, or 1 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="immich-conch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    spool = commands.add_parser("spool", help="uploads on their way to Immich")
    spool.add_argument(
        "--spool-dir",
        default=os.environ.get("IMMICH_CONCH_SPOOL_DIR", "spool"),
        help="the service's spool directory [IMMICH_CONCH_SPOOL_DIR, or ./spool]",
    )
    actions = spool.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="every upload: id, state, size, age, user, path, reason")
    for action, text in (
        ("show", "all that is known of one"),
        ("retry", "try one again that Immich refused"),
        ("drop", "give one up: its bytes are gone for good"),
    ):
        actions.add_parser(action, help=text).add_argument("id", help="its id or a beginning of it")
    options = parser.parse_args(arguments)
    try:
        if not os.path.isdir(options.spool_dir):
            raise SettingsError(f"{options.spool_dir}: there is no such directory")
        if options.action == "list":
            for entry in entries(options.spool_dir):
                write(_line(entry, time.time()))
        else:
            entry = _find(options.spool_dir, options.id)
            if options.action == "show":
                write(json.dumps(entry, indent=2, ensure_ascii=True))
            else:
                write(_command(options.spool_dir, entry, options.action))
    except (SettingsError, OSError) as error:
        print(f"immich-conch: {error}", file=sys.stderr)
        return 1
    return 0
