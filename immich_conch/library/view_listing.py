"""The files of one view's folder, named one by one as they come in.

A view can hold the whole library, so its first files are shown while the others are still on
their way.  Each file keeps the name that it was given: what comes first, which is what was taken
first, has its own name, and what comes later and wants the same gets a mark (`IMG ~1a2b3c4d.jpg`)
made of its id.  Names shown before stay as long as the folder is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import Factory, define, field
from twisted.internet.defer import Deferred

from immich_conch.errors import once_more
from immich_conch.immich.model import Asset
from immich_conch.library import metadata, names
from immich_conch.library.naming import File, Folder


@define(eq=False)
class Listing:
    """Files as they come in; `began` and `ended` are clock seconds.

    `before` is what the folder showed until now, whose names stay; `reserved` are the keys of
    names that folders beside the files have.
    """

    began: float
    key: Callable[[str], str]
    before: Folder | None = None
    reserved: frozenset[str] = frozenset()
    folder: Folder = Factory(lambda: Folder(validator=(), members={}))
    #: All files that were ever in it, in order; those that left are not in `folder` any more.
    order: list[File] = field(factory=list)
    ended: float | None = None
    error: Exception | None = None
    #: Whether it may be wrong by a change of our own.
    stale: bool = False
    _gone: set[str] = field(factory=set)
    _waiters: list[Deferred[None]] = field(factory=list)

    @property
    def running(self) -> bool:
        """Whether more may come in."""
        return self.ended is None and self.error is None

    def take(self, assets: Iterable[Asset]) -> None:
        """Some more assets; those that were taken out meanwhile stay out."""
        for asset in assets:
            if asset.id not in self._gone:
                self._show(asset)
        self._tell()

    def enter(self, asset: Asset) -> None:
        """We put an asset in."""
        self._gone.discard(asset.id)
        self._show(asset)
        self._tell()

    def leave(self, asset_id: str) -> None:
        """We took an asset out."""
        self._gone.add(asset_id)
        self.folder.assets.pop(asset_id, None)
        for file in self.folder.by_asset.pop(asset_id, ()):
            self.folder.files.pop(file.name, None)
            self.folder.by_key.pop(self.key(file.name), None)

    def shows(self, file: File) -> bool:
        """Whether a file that was in it still is."""
        return self.folder.by_key.get(self.key(file.name)) is file

    def end(self, at: float) -> None:
        """That was all."""
        self.ended = at
        self.before = None
        self._tell()

    def fail(self, error: Exception) -> None:
        """It cannot be completed; whoever waits, or will, gets the error."""
        self.error = error
        self._tell()

    async def more_than(self, count: int) -> bool:
        """Wait for more than `count` files; whether there are.  Raises what kept them away."""
        while len(self.order) <= count and self.running:
            await self._wait()
        if self.error is not None:
            raise once_more(self.error)
        return len(self.order) > count

    async def whole(self) -> Folder:
        """Wait for all of it; raises what kept it away."""
        while self.running:
            await self._wait()
        if self.error is not None:
            raise once_more(self.error)
        return self.folder

    async def find(self, name: str) -> File | None:
        """The file of a name, as soon as it is known whether there is one."""
        key = self.key(name)
        while key not in self.folder.by_key and self.running:
            await self._wait()
        if self.error is not None and key not in self.folder.by_key:
            raise once_more(self.error)
        return self.folder.by_key.get(key)

    def _show(self, asset: Asset) -> None:
        folder = self.folder
        if asset.id in folder.assets:
            return
        name = self._name(asset)
        file = File(name, asset, metadata.own_link(asset))
        folder.assets[asset.id] = asset
        folder.files[name] = folder.by_key[self.key(name)] = file
        folder.by_asset[asset.id] = (file,)
        self.order.append(file)

    def _name(self, asset: Asset) -> str:
        for file in self.before.by_asset.get(asset.id, ()) if self.before is not None else ():
            if not self._taken(file.name, asset.id):
                return file.name
        own = names.safe(asset.name)
        if not self._taken(own, asset.id):
            return own
        return names.marked(own, asset.id, lambda name: self._taken(name, asset.id))

    def _taken(self, name: str, asset_id: str) -> bool:
        key = self.key(name)
        if key in self.reserved or key in self.folder.by_key:
            return True
        earlier = None if self.before is None else self.before.by_key.get(key)
        return earlier is not None and earlier.asset.id != asset_id

    async def _wait(self) -> None:
        waiter: Deferred[None] = Deferred(self._forget)
        self._waiters.append(waiter)
        await waiter

    def _forget(self, waiter: Deferred[None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:  # one that was told before may have cancelled it
                waiter.callback(None)
