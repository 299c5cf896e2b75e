"""Bytes on the way: the upload spool, the commits into Immich, the download window."""
