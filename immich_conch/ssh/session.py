"""The ssh-connection service and its one kind of channel, the session.

Conch answers a stale message with a KeyError, opens a receive window again before the data is
dealt with, and keeps what it cannot send in one ever-growing string.  Here messages for channels
that are gone are dropped, the window follows what the subsystem reports as dealt with, and what
waits to be sent is a counted queue that the subsystem can see.  A session runs a subsystem of the
avatar or says that there is no shell; what the subsystem speaks is not known here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from twisted.conch.error import ConchError
from twisted.conch.ssh.connection import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    SSHConnection,
)

from immich_conch.ssh.channel import SessionChannel
from immich_conch.ssh.quiet import QuietLogger
from immich_conch.ssh.wire import PacketError, Reader, string

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _Connection = Any
else:
    _Connection = SSHConnection

MAX_CHANNELS = 16
"""Channels of one connection; OpenSSH's MaxSessions is 10, rclone and sshfs use a few."""

WINDOW_BYTES = 2**23
"""The receive window of a connection's first channel: at 100 ms round trip some 60 MB/s.  Conch's
own 128 KiB are 1 MB/s, OpenSSH's 2 MiB are 16 MB/s."""

FURTHER_WINDOW_BYTES = 2**21
"""That of its other channels, which clients open for little things: what a client can make us
hold with sixteen of them stays below 40 MiB."""

MIN_WINDOW_BYTES = 2**19
"""Less than this could not hold the largest SFTP packet together with what is not yet acked."""

CHANNEL_PACKET_BYTES = 2**16
"""The largest piece of data taken in one message."""

SMALLEST_PEER_PACKET = 1024
"""A peer that takes less at a time only costs work; RFC 4253, section 6.1 asks for 32768."""

# RFC 4250, section 4.1.2: numbers of the user authentication, to be ignored once it is over.
_AUTH_MESSAGES = range(50, 80)
_DATA_HEAD = struct.Struct("!LL")  # the channel and the data's length
_ADJUST = struct.Struct("!LL")  # the channel and the bytes
_CHANNEL_MESSAGES = range(MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_FAILURE + 1)


class Connection(_Connection):
    """The channels of one logged-in client.

    Only sessions are opened: no forwarding of ports, agents or displays.
    """

    _log = QuietLogger()

    def __init__(self, window: int = WINDOW_BYTES, max_channels: int = MAX_CHANNELS) -> None:
        super().__init__()
        self.window = max(window, MIN_WINDOW_BYTES)
        self.max_channels = max_channels
        #: Whether a channel was opened, asked or given something since somebody looked.
        self.stirred = False

    @property
    def busy(self) -> bool:
        """Whether any channel has something open or under way."""
        return any(channel.busy for channel in self.channels.values())

    # -- messages in

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Take a message; raises PacketError, which ends the connection."""
        if messageNum in _CHANNEL_MESSAGES:
            fields = Reader(packet)
            number = fields.uint32()
            channel = self.channels.get(number)
            self.stirred = True
            if channel is not None:
                self._for_channel(messageNum, channel, fields)
            elif number >= self.localChannelID:
                raise PacketError(f"message {messageNum} for a channel that never was")
            # Else it crossed our CLOSE (trap 12): nobody is there to care.
        elif messageNum == MSG_CHANNEL_OPEN:
            self.stirred = True
            self.ssh_CHANNEL_OPEN(packet)
        elif messageNum == MSG_GLOBAL_REQUEST:
            self.ssh_GLOBAL_REQUEST(packet)
        elif messageNum in (MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE):
            # One that answers nothing we asked would run into an empty list.
            if self.deferreds["global"]:
                super().packetReceived(messageNum, packet)
        elif messageNum not in _AUTH_MESSAGES:
            self.transport.sendUnimplemented()

    def channel_data(self, plain: bytes, at: int, end: int) -> None:
        """Take `plain[at:end]`, a MSG_CHANNEL_DATA, without a copy; raises PacketError."""
        if end - at >= _DATA_HEAD.size:
            number, size = _DATA_HEAD.unpack_from(plain, at)
            at += _DATA_HEAD.size
            channel = self.channels.get(number)
            if channel is not None and at + size <= end:
                self.stirred = True
                self._data(channel, memoryview(plain)[at : at + size], channel.pieceReceived)
                return
            at -= _DATA_HEAD.size
        self.packetReceived(MSG_CHANNEL_DATA, plain[at:end])

    def window_adjusted(self, plain: bytes, at: int, end: int) -> None:
        """Take `plain[at:end]`, a MSG_CHANNEL_WINDOW_ADJUST; raises PacketError.

        Some clients send one for every answer that they get.
        """
        if end - at >= _ADJUST.size:
            number, more = _ADJUST.unpack_from(plain, at)
            channel = self.channels.get(number)
            if channel is not None:
                self.stirred = True
                channel.addWindowBytes(more)
                return
        self.packetReceived(MSG_CHANNEL_WINDOW_ADJUST, plain[at:end])

    def _for_channel(self, number: int, channel: SessionChannel, fields: Reader) -> None:
        if number == MSG_CHANNEL_DATA:
            self._data(channel, fields.string(), channel.dataReceived)
        elif number == MSG_CHANNEL_WINDOW_ADJUST:
            channel.addWindowBytes(fields.uint32())
        elif number == MSG_CHANNEL_REQUEST:
            self._channel_request(channel, fields)
        elif number == MSG_CHANNEL_EOF:
            channel.eofReceived()
        elif number == MSG_CHANNEL_CLOSE:
            channel.closeReceived()
        elif number == MSG_CHANNEL_EXTENDED_DATA:
            kind = fields.uint32()
            self._data(channel, fields.string(), lambda data: channel.extReceived(kind, data))
        # Confirmations and answers belong to channels and requests of ours; we make none.

    def _data(self, channel: SessionChannel, data: bytes | memoryview, take: Any) -> None:
        size = len(data)
        if size > channel.localWindowLeft or size > channel.localMaxPacket:
            self._log.info(
                "{peer}: more data than the window allows, closing the channel",
                peer=self.transport.peer,
            )
            channel.abort()
            return
        channel.localWindowLeft -= size
        take(data)

    def _channel_request(self, channel: SessionChannel, fields: Reader) -> None:
        kind, answer = fields.string(), fields.boolean()
        accepted, then = channel.request(kind, fields.rest())
        if answer and not channel.localClosed:
            self.transport.sendPacket(
                MSG_CHANNEL_SUCCESS if accepted else MSG_CHANNEL_FAILURE,
                self.channelsToRemoteChannel[channel].to_bytes(4, "big"),
            )
        if then is not None:
            then()

    def ssh_GLOBAL_REQUEST(self, packet: bytes) -> None:
        """Forwarding, keep-alives and the like: refused, which is all a keep-alive wants."""
        fields = Reader(packet)
        fields.string()
        if fields.boolean():
            self.transport.sendPacket(MSG_REQUEST_FAILURE, b"")

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """Open a session, or say why not (RFC 4254, section 5.1)."""
        fields = Reader(packet)
        kind, remote = fields.string(), fields.uint32()
        window, largest = fields.uint32(), fields.uint32()
        if kind != b"session":
            self._refuse_open(remote, OPEN_UNKNOWN_CHANNEL_TYPE, b"only sessions are opened here")
        elif len(self.channels) >= self.max_channels:
            self._refuse_open(remote, OPEN_RESOURCE_SHORTAGE, b"too many channels")
        elif largest < SMALLEST_PEER_PACKET:
            self._refuse_open(remote, OPEN_ADMINISTRATIVELY_PROHIBITED, b"packets are too small")
        else:
            self._open(remote, window, largest)

    def _open(self, remote: int, theirs: int, largest: int) -> None:
        window = min(self.window, FURTHER_WINDOW_BYTES) if self.channels else self.window
        channel = SessionChannel(
            localWindow=window,
            localMaxPacket=CHANNEL_PACKET_BYTES,
            remoteWindow=theirs,
            remoteMaxPacket=min(largest, CHANNEL_PACKET_BYTES),
            conn=self,
            avatar=self.transport.avatar,
        )
        channel.id = self.localChannelID
        self.localChannelID += 1
        self.channels[channel.id] = channel
        self.channelsToRemoteChannel[channel] = remote
        self.localToRemoteChannel[channel.id] = remote
        numbers = (remote, channel.id, channel.localWindowSize, channel.localMaxPacket)
        self.transport.sendPacket(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            b"".join(number.to_bytes(4, "big") for number in numbers),
        )

    def _refuse_open(self, remote: int, reason: int, text: bytes) -> None:
        self.transport.sendPacket(
            MSG_CHANNEL_OPEN_FAILURE,
            remote.to_bytes(4, "big") + reason.to_bytes(4, "big") + string(text) + string(b""),
        )

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """Conch's own way to open a channel is not used."""
        raise ConchError(OPEN_UNKNOWN_CHANNEL_TYPE, "unknown channel")

    # -- messages out

    def sendData(self, channel: SessionChannel, pieces: list[bytes | memoryview]) -> None:
        """Send pieces that together fit the peer's window and packet as one message."""
        size = sum(map(len, pieces))
        head = self.channelsToRemoteChannel[channel].to_bytes(4, "big") + size.to_bytes(4, "big")
        self.transport.send_pieces(MSG_CHANNEL_DATA, (head, *pieces))

    def adjustWindow(self, channel: SessionChannel, bytesToAdd: int) -> None:
        """Let the peer send more; as Conch's, without a log event each time."""
        if not channel.localClosed:
            channel.localWindowLeft += bytesToAdd
            self.transport.sendPacket(
                MSG_CHANNEL_WINDOW_ADJUST,
                self.channelsToRemoteChannel[channel].to_bytes(4, "big")
                + bytesToAdd.to_bytes(4, "big"),
            )

    def sendClose(self, channel: SessionChannel) -> None:
        """Close a channel from our side, once."""
        if channel.localClosed:
            return
        self.transport.sendPacket(
            MSG_CHANNEL_CLOSE, self.channelsToRemoteChannel[channel].to_bytes(4, "big")
        )
        channel.localClosed = True
        if channel.remoteClosed:
            self.channelClosed(channel)

    def sendEOF(self, channel: SessionChannel) -> None:
        """Say that no more data follows."""
        self.transport.sendPacket(
            MSG_CHANNEL_EOF, self.channelsToRemoteChannel[channel].to_bytes(4, "big")
        )

    @property
    def can_write(self) -> bool:
        """Whether channel data would leave now."""
        return bool(self.transport.can_write)

    def resume_writing(self) -> None:
        """The transport has room again."""
        for channel in list(self.channels.values()):
            if not self.can_write:
                break
            channel.flush()
