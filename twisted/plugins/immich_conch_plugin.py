"""The twistd drop-in: `twistd immich-sftp`."""

from twisted.application.service import ServiceMaker

immich_sftp = ServiceMaker(
    "immich-sftp", "immich_conch.tap", "Immich albums and assets over SFTP.", "immich-sftp"
)
