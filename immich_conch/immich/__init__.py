"""Immich's HTTP API: nothing in here knows about SFTP."""
