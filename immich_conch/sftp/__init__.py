"""SFTP version 3 over Conch."""
