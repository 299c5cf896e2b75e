"""An SFTP server on Twisted Conch that shows Immich albums as folders and assets as files."""

__version__ = "0.1.0"
