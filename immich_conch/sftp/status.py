"""The one place where an error becomes an SFTP v3 status.

Section 10 of the behaviour contract as code.  Version 3 (draft-ietf-secsh-filexfer-02, section 7)
has the codes 0 to 8; 6 and 7 say something about the client's own connection and must not be sent
by a server.  What nobody foresaw becomes "internal error", and a log entry with the trace.
"""

from __future__ import annotations

import asyncio
import errno
import os

from twisted.conch.ssh.filetransfer import (
    FX_BAD_MESSAGE,
    FX_CONNECTION_LOST,
    FX_EOF,
    FX_FAILURE,
    FX_NO_CONNECTION,
    FX_NO_SUCH_FILE,
    FX_OK,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
    SFTPError,
)
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.errors import (
    BadCredentials,
    ConchError,
    Denied,
    Malformed,
    NotFound,
    SessionRevoked,
    Unsupported,
)

_log = Logger()

MAX_TEXT_BYTES = 1024
"""The longest status text; it is shown on one line by every client known."""

_SENDABLE = frozenset(range(FX_OK, FX_OP_UNSUPPORTED + 1)) - {FX_NO_CONNECTION, FX_CONNECTION_LOST}

_CONCH_CODES: tuple[tuple[type[ConchError], int], ...] = (
    (NotFound, FX_NO_SUCH_FILE),
    (Denied, FX_PERMISSION_DENIED),
    (SessionRevoked, FX_PERMISSION_DENIED),
    (BadCredentials, FX_PERMISSION_DENIED),
    (Unsupported, FX_OP_UNSUPPORTED),
    (Malformed, FX_BAD_MESSAGE),
    # Refused, Unreachable and whatever else there will be: FAILURE with the reason as text.
    (ConchError, FX_FAILURE),
)

_ERRNO_CODES = {
    errno.ENOENT: FX_NO_SUCH_FILE,
    errno.EACCES: FX_PERMISSION_DENIED,
    errno.EPERM: FX_PERMISSION_DENIED,
    errno.EROFS: FX_PERMISSION_DENIED,
    errno.ENOSYS: FX_OP_UNSUPPORTED,
    errno.EOPNOTSUPP: FX_OP_UNSUPPORTED,
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def to_status(error: BaseException) -> tuple[int, bytes]:
    """The status code and its text, UTF-8 of at most MAX_TEXT_BYTES, for an error."""
    code, text = _judge(error)
    return (code if code in _SENDABLE else FX_FAILURE), _bounded(text)


def _judge(error: BaseException) -> tuple[int, str]:
    if isinstance(error, ConchError):
        for kind, code in _CONCH_CODES:
            if isinstance(error, kind):
                return code, error.text
    if isinstance(error, SFTPError):
        message = error.message
        if isinstance(message, bytes):
            message = message.decode("utf-8", "replace")
        return int(error.code), str(message)
    if isinstance(error, OSError):
        return _judge_os_error(error)
    if isinstance(error, EOFError):
        return FX_EOF, "end of file"
    if isinstance(error, NotImplementedError):
        return FX_OP_UNSUPPORTED, Unsupported.default
    if isinstance(error, (CancelledError, asyncio.CancelledError)):
        return FX_FAILURE, "the request was cancelled"
    _log.failure("A request failed for a reason nobody foresaw", failure=Failure(error))
    return FX_FAILURE, "internal error"


def _judge_os_error(error: OSError) -> tuple[int, str]:
    # Never str(error): it names paths of this machine.
    if error.errno in _NO_SPACE:
        return FX_FAILURE, "no space left"
    if error.errno is None:
        _log.failure("An error without a number", failure=Failure(error))
        return FX_FAILURE, "internal error"
    return _ERRNO_CODES.get(error.errno, FX_FAILURE), os.strerror(error.errno)


def _bounded(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data
    return data[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode("utf-8")
