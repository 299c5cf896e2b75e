"""Clients in good faith: what each of them does again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import paramiko
from rawsftp import CLOSE, HANDLE, NAME, OPEN, OPENDIR, READDIR, STAT, STATUS, Raw, string

from .actor import LIBRARY, LIMIT, Actor, Told, TooLong, call
from .ledger import ABSENT


class OpenSSH(Actor):
    """sftp: uploads with and without times, overwrites, downloads, removals."""

    def step(self) -> None:
        name, data = self.new(large=self.dice.random() < 0.1)
        if self.kept and self.dice.random() < 0.2:
            name = self.dice.choice(sorted(self.kept))
        (self.directory / "up").write_bytes(data)
        times = self.dice.choice(("-p", ""))
        self.uploading(
            {name: data}, lambda: self.sftp(f"put {times} up {self.album}/{name}"), listens=True
        )
        wanted = self.dice.choice(sorted(self.library))
        self.sftp(f"get {LIBRARY}/{wanted} down\nls -l {self.album}")
        self.same(wanted, (self.directory / "down").read_bytes(), self.library[wanted])
        if gone := self.surplus():
            commands = "\n".join(f"rm {self.album}/{name}" for name in gone)
            self.removing(gone, lambda: self.sftp(commands))


class Rclone(Actor):
    """copy, check, sync; and a copy down."""

    def rclone(self, *arguments: str | Path) -> str:
        """Run it, with one try."""
        config = self.directory / "rclone.conf"
        if not config.exists():
            hidden = call(["rclone", "obscure", self.user.password], self.directory).strip()
            config.write_text(
                f"[there]\ntype = sftp\nhost = 127.0.0.1\nport = {self.service.port}\n"
                f"user = {self.user.email}\npass = {hidden}\n"
            )
        options = ("--retries", "1", "--low-level-retries", "1", "--timeout", "30s")
        cache = ("--cache-dir", self.directory / "cache")
        return call(["rclone", "--config", config, *cache, *options, *arguments], self.directory)

    def step(self) -> None:
        up = self.directory / "up"
        up.mkdir(exist_ok=True)
        files = dict(self.new() for _ in range(self.dice.randrange(1, 4)))
        for name, data in files.items():
            (up / name).write_bytes(data)
        there = f"there:{self.album}"
        # What an earlier call did not get in is taken along.
        local = {path.name: path.read_bytes() for path in up.iterdir()}
        files = {name: data for name, data in local.items() if name not in self.kept}
        self.uploading(files, lambda: self.rclone("copy", up, there), listens=True)
        if self.dice.random() < 0.5:
            # What an earlier sync that failed has still to remove is there only.
            self.rclone("check", "--one-way", up, there)
        if gone := self.surplus():
            for name in gone:
                (up / name).unlink()
            self.removing(gone, lambda: self.rclone("sync", up, there))
        down = self.directory / "down"
        self.rclone("copy", f"there:{LIBRARY}", down, "--include", "1*.jpg")
        for path in list(down.iterdir()):
            self.same(path.name, path.read_bytes(), self.library[path.name])
            path.unlink()


class Lftp(Actor):
    """mirror up and down."""

    def lftp(self, commands: str) -> str:
        """Run commands, one a line."""
        connect = "ssh -a -x -F /dev/null -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        script = self.directory / "script.lftp"
        script.write_text(
            f'set sftp:connect-program "{connect}"\nset sftp:auto-confirm yes\n'
            "set net:max-retries 1\nset net:timeout 30\nset cmd:fail-exit yes\n"
            f'open -u "{self.user.email},{self.user.password}" '
            f"sftp://127.0.0.1:{self.service.port}\n{commands}\n"
        )
        return call(["lftp", "-f", script], self.directory)

    def step(self) -> None:
        up, down = self.directory / "up", self.directory / "down"
        for place in (up, down):
            place.mkdir(exist_ok=True)
            for path in place.iterdir():
                path.unlink()
        files = dict(self.new() for _ in range(2))
        for name, data in files.items():
            (up / name).write_bytes(data)
        self.uploading(files, lambda: self.lftp(f"mirror -R up {self.album}"), listens=True)
        self.lftp(f"mirror --include-glob=2*.jpg {LIBRARY} down")
        for path in down.iterdir():
            self.same(path.name, path.read_bytes(), self.library[path.name])
        if gone := self.surplus():
            names = " ".join(f"{self.album}/{name}" for name in gone)
            self.removing(gone, lambda: self.lftp(f"rm {names}"))


class Curl(Actor):
    """Uploads and downloads; it does not look at CLOSE's answer."""

    def curl(self, path: str, *arguments: str) -> str:
        """Run it."""
        options = ("-sS", "--insecure", "--max-time", str(LIMIT - 5))
        user = ("--user", f"{self.user.email}:{self.user.password}")
        url = f"sftp://127.0.0.1:{self.service.port}/{path}"
        return call(["curl", *options, *user, *arguments, url], self.directory)

    def step(self) -> None:
        name, data = self.new()
        (self.directory / "up").write_bytes(data)
        self.uploading(
            {name: data}, lambda: self.curl(f"{self.album}/{name}", "-T", "up"), listens=False
        )
        wanted = self.dice.choice(sorted(self.library))
        self.curl(f"{LIBRARY}/{wanted}", "-o", "down")
        self.same(wanted, (self.directory / "down").read_bytes(), self.library[wanted])


class Paramiko(Actor):
    """A library in a thread: uploads, reads at random, listings that have to be right."""

    def step(self) -> None:
        try:
            with paramiko.Transport(("127.0.0.1", self.service.port)) as transport:
                transport.banner_timeout = transport.auth_timeout = LIMIT
                transport.connect(username=self.user.email, password=self.user.password)
                there = paramiko.SFTPClient.from_transport(transport)
                assert there is not None
                there.get_channel().settimeout(LIMIT)  # type: ignore[union-attr]
                self._work(there)
        except TimeoutError as error:
            raise TooLong(f"paramiko waited {LIMIT:.0f} s: {error!r}") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Told(f"paramiko: {error!r}") from None

    def _work(self, there: paramiko.SFTPClient) -> None:
        (self.directory / "up").write_bytes((new := self.new())[1])
        name = new[0]
        self.uploading(
            dict([new]),
            lambda: there.put(str(self.directory / "up"), f"{self.album}/{name}"),
            listens=False,
        )
        self.listed(there.listdir(self.album))
        wanted = self.dice.choice(sorted(self.library))
        data = self.library[wanted]
        with there.open(f"{LIBRARY}/{wanted}") as file:
            for _ in range(3):
                at = self.dice.randrange(len(data))
                file.seek(at)
                self.same(wanted, file.read(10_000), data[at : at + 10_000])
        if gone := self.surplus():
            self.removing(gone, lambda: [there.remove(f"{self.album}/{name}") for name in gone])


class Asyncssh(Actor):
    """Several transfers side by side on one connection."""

    def step(self) -> None:
        try:
            asyncio.run(asyncio.wait_for(self._work(), LIMIT))
        except TimeoutError:
            raise TooLong(f"asyncssh was not done within {LIMIT:.0f} s") from None
        except (OSError, asyncssh.Error) as error:
            raise Told(f"asyncssh: {error!r}") from None

    async def _work(self) -> None:
        async with (
            asyncssh.connect(
                "127.0.0.1",
                self.service.port,
                username=self.user.email,
                password=self.user.password,
                known_hosts=None,
                client_keys=None,
                agent_path=None,
                config=None,
            ) as connection,
            connection.start_sftp_client() as there,
        ):
            files = dict(self.new(large=number == 0) for number in range(3))
            results = await asyncio.gather(
                *(self._put(there, name, data) for name, data in files.items()),
                *(self._get(there, name) for name in self.dice.sample(sorted(self.library), 2)),
                return_exceptions=True,
            )
            self.listed([n for n in map(str, await there.listdir(self.album)) if n.strip(".")])
            for name in self.surplus():
                sure = False
                try:
                    await there.remove(f"{self.album}/{name}")
                    sure = True
                finally:
                    self.kept.pop(name, None)
                    self.ledger.told(self.place, name, ABSENT, sure=sure)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _put(self, there: asyncssh.SFTPClient, name: str, data: bytes) -> None:
        local = self.directory / name
        local.write_bytes(data)
        sure = False
        try:
            await there.put(str(local), f"{self.album}/{name}", preserve=self.dice.random() < 0.5)
            sure = await self._still_there(there, name)
        finally:
            self.tell({name: data}, sure)
            local.unlink()

    async def _still_there(self, there: asyncssh.SFTPClient, name: str) -> bool:
        """Whether the connection outlived a CLOSE; asyncssh takes it for answered if it did not."""
        try:
            await there.stat(f"{self.album}/{name}")
        except (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost):
            return False
        except asyncssh.SFTPError:
            return True  # an answer, whatever it says: the listing will tell
        return True

    async def _get(self, there: asyncssh.SFTPClient, name: str) -> None:
        async with there.open(f"{LIBRARY}/{name}", "rb") as file:
            self.same(name, await file.read(), self.library[name])


class Pipeliner(Actor):
    """Sends many requests without waiting and counts: each has to be answered, once."""

    def step(self) -> None:
        sent = answered = 0
        try:
            with Raw(self.service, self.user) as there:
                paths = [f"/{LIBRARY}/{name}" for name in sorted(self.library)] + ["/none/such"]
                numbers = []
                for _ in range(150):
                    path = string(self.dice.choice(paths))
                    kind = self.dice.choice((STAT, STAT, STAT, OPENDIR, OPEN))
                    more = (b"\0\0\0\1", b"\0\0\0\0") if kind == OPEN else ()
                    numbers.append(there.send(kind, path, *more))
                    sent += 1
                handles = []
                for number in numbers:
                    reply = there.answer(number)
                    answered += 1
                    if reply.kind == HANDLE:
                        handles.append(reply.string)
                for handle in handles[: len(handles) // 2]:
                    sent += 1
                    reply = there.answer(there.send(CLOSE, string(handle)))
                    answered += 1
                # The other half is left open, as by a client that crashes.
                listing = there.ask(OPENDIR, string(f"/{LIBRARY}"))
                if listing.kind == HANDLE:
                    page = there.ask(READDIR, string(listing.string))
                    if page.kind not in (NAME, STATUS):
                        self.ledger.found(f"READDIR was answered by {page.kind}")
        except TimeoutError:
            raise TooLong(f"{sent - answered} of {sent} requests have no answer") from None
        except (OSError, EOFError, AssertionError, paramiko.SSHException) as error:
            raise Told(f"raw: {error!r}") from None
        finally:
            self.ledger.count("requests sent", sent)
            self.ledger.count("requests answered", answered)


GOOD: tuple[type[Actor], ...] = (OpenSSH, Rclone, Lftp, Curl, Paramiko, Asyncssh, Pipeliner)
