"""What can go wrong, in the user's words, one class each.

Every error that may reach an SFTP client is a subclass of `ConchError`; its text is what the
user reads.  `sftp/status.py` alone knows which SFTP status a class becomes (section 10 of the
behaviour contract); nothing in here knows about SFTP, SSH or HTTP.
"""

from __future__ import annotations

from typing import TypeVar


class ConchError(Exception):
    """Something went wrong; the text tells a user what to do about it."""

    default = "The request failed."

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.default)

    @property
    def text(self) -> str:
        """The sentence for the user."""
        return str(self.args[0])


E = TypeVar("E", bound=Exception)


def once_more(error: E) -> E:
    """An error that was kept, to be raised again.

    Each raise adds the frames it goes through to the error, and frames keep their buffers and
    sessions: what is raised for every WRITE of a file would keep all their bytes.
    """
    return error.with_traceback(None)


class NotFound(ConchError):
    """There is no such album, file or asset, or it is gone."""

    default = "No such file or folder."


class Denied(ConchError):
    """This user may not do that: role, permission, read-only, hidden album, type not taken."""

    default = "Permission denied."


class MissingPermission(Denied):
    """The API key lacks a permission.  `permission` is Immich's name for it, or empty."""

    def __init__(self, permission: str = "") -> None:
        super().__init__(
            f"The API key lacks the permission {permission}."
            if permission
            else "The API key lacks a permission that this needs."
        )
        self.permission = permission


class Refused(ConchError):
    """Immich, or this service, says no for a reason that a retry does not change."""

    default = "Immich refused the request."


class AlreadyExists(Refused):
    """The name is taken."""

    default = "A file or folder of this name exists already."


class NotEmpty(Refused):
    """The folder is not empty, or uploads in it are still on their way."""

    default = "The folder is not empty."


class QuotaExceeded(Refused):
    """The user's Immich quota is used up."""

    default = "The Immich quota is exceeded."


class NoSpace(Refused):
    """The spool's disk or one of its limits is full."""

    default = "No space left in the upload spool."


class BadName(Refused):
    """The name cannot be used: not UTF-8, too long, or not to be kept by Immich."""

    default = "This name cannot be used."


class Unsupported(ConchError):
    """The operation does not exist here."""

    default = "This operation is not supported."


class Unreachable(ConchError):
    """Immich could not be reached, timed out or answered 5xx after retries; a later try may work.

    `retry_after` is the pause in seconds that Immich asked for, or None.
    """

    default = "Immich is not reachable."

    def __init__(self, text: str = "", retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class BadAnswer(Unreachable):
    """Immich, or something in front of it, answered what it never should."""

    default = "Immich is not reachable (its answer was not understood)."


class SessionRevoked(ConchError):
    """The Immich session or API key is no longer accepted; the connection has to end."""

    default = "The Immich session has ended; please log in again."


class BadCredentials(ConchError):
    """Immich does not know this user, password or API key."""

    default = "Wrong user name or password."


class TooOld(ConchError):
    """The Immich server is older than this service supports."""

    default = "This Immich server is too old; 2.0 or newer is needed."


class NoMirror(ConchError):
    """A library cannot be followed by Immich's sync stream; ask for listings instead."""

    default = "Immich offers no sync stream here."


class MirrorTooLarge(NoMirror):
    """The library has more assets than are to be held in memory."""

    default = "The library is too large to be mirrored."


class Malformed(ConchError):
    """A request broke the protocol; the session goes on."""

    default = "Malformed request."


class SettingsError(Exception):
    """A setting is missing, unknown or wrong.  The text names the place and the reason."""
