"""Byte fuzzing of the SSH transport, of userauth, of channels and of SFTP.

`python -m tests.fuzz --help` runs it; `README.rst` says how it works and what it looks for.
"""
