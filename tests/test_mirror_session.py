"""The Immich session that a mirror lives by: when it is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import VERSIONS, quiet, rig, until


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_session_is_not_logged_out_under_an_open_stream(
    tmp_path: Path, version: str
) -> None:
    # Immich never ends the stream of a session that is logged out: who waits for it waits a minute.
    async with rig(tmp_path, version, mirror_max_assets=1000, mirror_keep=0.0) as r:
        r.album("Rome", r.asset("a.jpg"))
        r.demo.faults.add("hang", route="/sync/stream", count=None, seconds=0.2)
        session = await r.session()
        assert list(await session.ls()) == ["Rome"]  # by listings: the load has only begun
        streams = r.demo.requests["POST /sync/stream"]
        assert streams > 0
        session.hang_up()
        await quiet(3)
        assert r.demo.requests["POST /auth/logout"] == 0
        await until(lambda: r.demo.requests["POST /auth/logout"] == 1)
        assert r.demo.state.sessions == {}
        assert list(await (await r.session()).ls("/Rome")) == ["a.jpg"]
