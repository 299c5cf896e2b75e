"""Hostile clients, message by message: what they may cost, and that they are told or cut off.

Slow-loris at the beginning, window floods, stale channels and pipelined guesses have their tests in
`test_ssh_transport.py`, `test_ssh_channels.py` and `test_sftp_packets.py`; here are the others.
`lines` lets no traceback pass.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from ssh_server import PASSWORD, host_keys
from test_ssh_rekey import logged_in
from test_ssh_transport import Link, lines, link
from twisted.conch.ssh.transport import MSG_EXT_INFO, MSG_KEXINIT

from immich_conch.ssh.packets import AFTER_LOGIN_BYTES
from immich_conch.ssh.transport import FAILURE_DELAY

__all__ = ["host_keys", "lines", "link"]


# -- found by fuzzing


@pytest.mark.parametrize("number", [80, 90, 93, 94, 98, 255])
def test_a_message_for_users_before_the_log_in_ends_the_connection(
    link: Link, lines: list[Any], number: int
) -> None:
    """Conch wrote each of them into the log, with all that is in it."""
    link.secure()
    for _ in range(5):
        link.send(number, b"secret")
    link.pump()
    assert link.down.disconnecting and len(lines) == 1 and "secret" not in repr(lines)


def test_a_log_in_message_that_is_not_known_is_answered_and_not_logged(
    link: Link, lines: list[Any]
) -> None:
    link.secure()
    for number in (51, 52, 53, 60, 79):
        link.send(number, b"secret")
    link.pump()
    link.guess(PASSWORD)
    link.pump()
    assert 52 in link.client.got and lines == []


def test_guesses_that_wait_are_not_tried_for_who_has_been_cut_off(link: Link) -> None:
    link.secure()
    for password in ("wrong", PASSWORD, "other"):
        link.guess(password)
    link.send(MSG_KEXINIT, b"")
    link.pump()
    assert link.down.disconnecting
    link.wait(FAILURE_DELAY)
    link.wait(FAILURE_DELAY)
    assert link.world.tried == [b"wrong"] and link.world.logouts == 0


def test_what_a_client_says_it_can_costs_nothing_however_long_it_is(link: Link) -> None:
    """Conch took a sixth of a second of computing for each of these."""
    logged_in(link)
    pairs = (AFTER_LOGIN_BYTES - 100) // 8
    began = time.process_time()
    link.server.dispatchMessage(MSG_EXT_INFO, struct.pack("!L", pairs) + bytes(8) * pairs)
    assert time.process_time() - began < 0.1
    assert not link.down.disconnecting
