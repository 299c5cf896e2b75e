"""`/sync`: the stream and its checkpoints.  API keys get 403, whatever they may do."""

from __future__ import annotations

from collections.abc import Iterator

from immich_conch.demo.entities import Session
from immich_conch.demo.refusals import Refusal
from immich_conch.demo.routing import Answer, Call, Route
from immich_conch.demo.stream import MODERN_ONLY, REQUEST_TYPES, Stream, seq_of

_PORTION = 64 * 1024
"""Bytes of lines that are written at a time."""


def _session(call: Call) -> Session:
    if call.session is None:
        raise Refusal(403, "Sync endpoints cannot be used with API keys")
    return call.session


def _portions(lines: Iterator[bytes]) -> Iterator[bytes]:
    portion = bytearray()
    for line in lines:
        portion += line
        if len(portion) >= _PORTION:
            yield bytes(portion)
            portion.clear()
    if portion:
        yield bytes(portion)


def _stream(call: Call) -> Answer:
    session = _session(call)
    data = call.fields(types="array!", reset="boolean")
    known = [t for t in REQUEST_TYPES if call.modern or t not in MODERN_ONLY]
    types = [call.option("types", value, known) for value in data["types"]]
    if data.get("reset"):
        _start_over(call, session)
    lines = Stream(call.state, call.user, session).lines(types)
    headers = {"Content-Type": "application/jsonlines+json"}
    return Answer(200, headers=headers, pieces=_portions(lines))


def _start_over(call: Call, session: Session) -> None:
    session.checkpoints.clear()
    session.completed = None
    session.reset = False
    call.state.save_session(session)


def _get_acks(call: Call) -> Answer:
    return Answer(
        200,
        [{"type": kind, "ack": ack} for kind, ack in _session(call).checkpoints.items()],
    )


def _set_acks(call: Call) -> Answer:
    session = _session(call)
    for ack in call.fields(acks="array!")["acks"]:
        kind, *ids = str(ack).split("|")
        if kind == "SyncResetV1":
            _start_over(call, session)
            break
        try:
            seq_of(ids[0])
        except (IndexError, ValueError) as error:
            raise Refusal(400, f"Invalid ack type: {kind}") from error
        session.checkpoints[kind] = str(ack)
        if kind == "SyncCompleteV1":
            session.completed = call.state.now()
    call.state.save_session(session)
    return Answer(204)


def _drop_acks(call: Call) -> Answer:
    session = _session(call)
    types = call.fields(types="array").get("types")
    for kind in list(session.checkpoints) if types is None else types:
        session.checkpoints.pop(kind, None)
    call.state.save_session(session)
    return Answer(204)


ROUTES = (
    Route("POST", "/sync/stream", _stream, "sync.stream", by_key=False),
    Route("GET", "/sync/ack", _get_acks, "syncCheckpoint.read", by_key=False),
    Route("POST", "/sync/ack", _set_acks, "syncCheckpoint.update", by_key=False),
    Route("DELETE", "/sync/ack", _drop_acks, "syncCheckpoint.delete", by_key=False),
)
