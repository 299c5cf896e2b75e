"""Recorded sessions: what real clients said, in the clear, message by message.

A file is a sequence of strings with four bytes of length before each: first the client's line of
identification without its end, then the payloads of its packets.  `record.py` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from immich_conch.ssh.wire import Reader, string

DIRECTORY = Path(__file__).parent / "corpus"

Messages = list[bytes]

_SERVICE_REQUEST, _KEXINIT, _FIRST_OF_CHANNELS = 5, 20, 80
_CHANNEL_DATA = 94


def write(name: str, messages: Iterable[bytes]) -> None:
    """Keep a session."""
    (DIRECTORY / f"{name}.session").write_bytes(b"".join(map(string, messages)))


def read(path: Path) -> Messages:
    """A session's messages."""
    data = path.read_bytes()
    fields, messages, at = Reader(data), [], 0
    while at < len(data):
        messages.append(fields.string())
        at += 4 + len(messages[-1])
    return messages


def _all() -> list[Messages]:
    return [read(path) for path in sorted(DIRECTORY.glob("*.session"))]


def sessions() -> list[Messages]:
    """From the TCP connection on, the identification first."""
    return [messages for messages in _all() if messages[1][0] == _KEXINIT]


def after_keys() -> list[Messages]:
    """From the request for ssh-userauth on."""
    found = []
    for messages in _all():
        start = next(i for i, m in enumerate(messages[1:], 1) if m[0] == _SERVICE_REQUEST)
        found.append(messages[start:])
    return found


def userauth() -> list[Messages]:
    """The log-ins alone."""
    return [[m for m in messages if m[0] < _FIRST_OF_CHANNELS] for messages in after_keys()]


def channels() -> list[Messages]:
    """What follows the log-ins."""
    found = [[m for m in messages if m[0] >= _FIRST_OF_CHANNELS] for messages in after_keys()]
    return [messages for messages in found if messages]


def sftp() -> list[Messages]:
    """The SFTP packets, without their lengths."""
    found = []
    for messages in channels():
        streams: dict[int, bytes] = {}
        for message in messages:
            if message[0] == _CHANNEL_DATA:
                fields = Reader(message[1:])
                channel = fields.uint32()
                streams[channel] = streams.get(channel, b"") + fields.string()
        for stream in streams.values():
            packets, at = [], 0
            while at < len(stream):
                size = int.from_bytes(stream[at : at + 4], "big")
                packets.append(stream[at + 4 : at + 4 + size])
                at += 4 + size
            found.append(packets)
    return found
