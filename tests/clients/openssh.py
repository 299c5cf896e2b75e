"""OpenSSH's sftp, scp and ssh with a password, without a terminal."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attrs import frozen
from harness import CLIENT, Service, User, run

BATCHES = Path(__file__).parent / "batches"

#: Nothing of the machine's own configuration, and one try.
OPTIONS = (
    *("-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1"),
    *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"),
)


@frozen
class OpenSSH:
    """The clients in a directory of their own; SSH_ASKPASS answers for the user."""

    directory: Path
    askpass: Path

    @classmethod
    def make(cls, directory: Path) -> OpenSSH:
        """Write the little program that tells the password."""
        askpass = directory / "askpass"
        askpass.write_text('#!/bin/sh\nprintf "%s\\n" "$CLIENT_PASSWORD"\n')
        askpass.chmod(0o700)
        return cls(directory, askpass)

    def environment(self, password: str) -> dict[str, str]:
        """What makes ssh ask the little program and not a terminal."""
        return {
            "SSH_ASKPASS": str(self.askpass),
            "SSH_ASKPASS_REQUIRE": "force",
            "CLIENT_PASSWORD": password,
        }

    def _run(
        self,
        command: list[str],
        password: str,
        check: bool,
        limit: float,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.CompletedProcess[str]:
        return run(
            command,
            cwd=self.directory,
            env=self.environment(password),
            check=check,
            limit=limit,
            stdin=stdin,
        )

    def command(self, service: Service, user: User, batch: Path, *options: str) -> list[str]:
        """The command line of sftp."""
        return [
            # -b sets BatchMode, which never asks for a password; the first value counts.
            *("sftp", "-o", "BatchMode=no", *options, *OPTIONS, "-P", str(service.port)),
            *("-o", f"User={user.email}", "-b", str(batch), "127.0.0.1"),
        ]

    def sftp(
        self,
        service: Service,
        user: User,
        commands: str | Path,
        *options: str,
        check: bool = True,
        limit: float = CLIENT,
        password: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run sftp on a batch file, or on commands."""
        batch = commands
        if isinstance(batch, str):
            batch = self.directory / "batch"
            batch.write_text(str(commands) + "\n")
        command = self.command(service, user, batch, *options)
        return self._run(command, password or user.password, check, limit)

    def scp(
        self,
        service: Service,
        user: User,
        *arguments: str,
        check: bool = True,
        limit: float = CLIENT,
    ) -> subprocess.CompletedProcess[str]:
        """Run scp; the other side is `there:`."""
        command = [
            *("scp", "-q", *OPTIONS, "-o", f"User={user.email}", "-P", str(service.port)),
            *("-o", "HostName=127.0.0.1"),
            *arguments,
        ]
        return self._run(command, user.password, check, limit)

    def ssh(
        self,
        service: Service,
        user: User,
        *arguments: str,
        limit: float = CLIENT,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh itself."""
        command = [
            *("ssh", *OPTIONS, "-o", f"User={user.email}", "-p", str(service.port)),
            *("127.0.0.1", *arguments),
        ]
        return self._run(command, user.password, False, limit, stdin)
