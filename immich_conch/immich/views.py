"""What a session asks that goes beyond albums: searches, tags, people, months.

A search is read in steps that go on where the last one ended *in time*, not at an offset: every
step asks for what was taken at or after the newest asset so far.  So nothing slips to a page read
already while the library changes, which would be absence invented (rule 2).  Each step asks twice,
with and without sizes, because a search with them leaves out assets whose metadata Immich has not
read yet.  Tried against 3.1.0 and 2.5.6, which answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

from immich_conch.errors import BadAnswer, Refused
from immich_conch.immich import answers
from immich_conch.immich.limits import MAX_LISTING, PAGE
from immich_conch.immich.model import Asset, Person, Tag, User
from immich_conch.immich.requests import part

if TYPE_CHECKING:
    from immich_conch.immich.requests import Credential
    from immich_conch.immich.session import Server

T = TypeVar("T")

GROUP_TRIES = 10
"""How often a large group of one time is read before it counts as not to be listed."""

MILLISECOND = timedelta(milliseconds=1)


class Viewing:
    """The part of a session that views need; see IImmich."""

    __slots__ = ()

    server: Server
    credential: Credential
    user: User

    async def search(
        self, criteria: Mapping[str, Any], after: str = ""
    ) -> tuple[list[Asset], str | None]:
        """Own assets that match and were taken at `after` or later, and where the rest begins."""
        query = {**criteria, "order": "asc", "size": PAGE}
        if after:
            query["takenAfter"] = after
        found, more = await self._page(query, 1)
        following = None
        if more:
            # Times are told in whole milliseconds and compared finer, so the bound is a floor.
            newest = found[-1].taken
            following = _text(newest)
            if following == after:
                following = _text(newest, MILLISECOND)
                found = await self._of_one_time({**query, "takenBefore": following})
            else:
                # Whatever is of that very time comes with the next step, and then all of it.
                found = [asset for asset in found if asset.taken < newest]
        return [asset for asset in found if asset.owner_id == self.user.id], following

    async def _of_one_time(self, query: dict[str, Any]) -> list[Asset]:
        """What was taken at one time, where that is more than a page.

        2.5.6 sorts by the time alone, and each page may sort such a group otherwise.  The pages'
        lengths always tell how many there are, so the group is read until so many are known.
        """
        known: dict[str, Asset] = {}
        for attempt in range(GROUP_TRIES):
            # Another order and other pages bring others to light.
            query["order"] = "desc" if attempt % 2 else "asc"
            query["size"] = max(1, PAGE - attempt // 2 * PAGE // 10)
            count, page, more = 0, 1, True
            while more:
                found, more = await self._page(query, page)
                known.update((asset.id, asset) for asset in found)
                count += len(found)
                page += 1
            if len(known) >= count:
                return sorted(known.values(), key=lambda asset: (asset.taken, asset.id))
        raise BadAnswer("Immich does not list all photos that were taken at one moment.")

    async def _page(self, query: dict[str, Any], number: int) -> tuple[list[Asset], bool]:
        """A page of a search, with sizes where Immich knows them; whether another follows."""

        async def ask(exif: bool) -> answers.Page:
            return await self._ask(
                "POST",
                "/search/metadata",
                answers.Page.from_json,
                data={**query, "page": number, "withExif": exif},
                limit=MAX_LISTING,
            )

        asked = [Deferred.fromCoroutine(ask(exif)) for exif in (False, True)]
        try:
            bare, whole = await gatherResults(asked, consumeErrors=True)
        except FirstError as error:
            for one in asked:
                one.cancel()
            error.subFailure.raiseException()
        known = {asset.id: asset for asset in whole.assets}
        return [known.get(asset.id, asset) for asset in bare.assets], bare.more

    async def people(self) -> list[Person]:
        """All people that Immich shows to the user, the named ones first."""
        found: dict[str, Person] = {}
        page, more = 1, True
        while more:
            params = {"page": str(page), "size": str(PAGE), "withHidden": "false"}
            listed, more = await self._ask("GET", "/people", answers.people, params=params)
            found.update((person.id, person) for person in listed)
            page += 1
        return list(found.values())

    async def months(self) -> list[str]:
        """The months of the user's own timeline (`2024-05`)."""
        params = {"visibility": "timeline"}
        return await self._ask("GET", "/timeline/buckets", answers.months, params=params)

    async def tags(self) -> list[Tag]:
        """All tags of the user."""
        return await self._ask("GET", "/tags", answers.tags, limit=MAX_LISTING)

    async def make_tag(self, value: str) -> Tag:
        """The tag of a path; it and what is above it are made where they are not there."""
        return (await self._ask("PUT", "/tags", answers.tags, data={"tags": [value]}))[0]

    async def delete_tag(self, tag_id: str) -> None:
        """Delete a tag and those below it."""
        path = f"/tags/{part(tag_id)}"
        await self.server.http.done("DELETE", path, self.credential.headers)

    async def tag(self, tag_id: str, asset_id: str) -> None:
        """Give an asset a tag; `duplicate` is the only word that is fine."""
        await self._tagged("PUT", tag_id, asset_id, "duplicate")

    async def untag(self, tag_id: str, asset_id: str) -> None:
        """Take a tag off an asset; `not_found` is the only word that is fine."""
        await self._tagged("DELETE", tag_id, asset_id, "not_found")

    async def _tagged(self, method: str, tag_id: str, asset_id: str, fine: str) -> None:
        path = f"/tags/{part(tag_id)}/assets"
        told = await self._ask(method, path, answers.per_id, data={"ids": [asset_id]})
        if told.get(asset_id, "") not in (None, fine):
            word = told.get(asset_id, "no answer")
            raise Refused(f"Immich did not change the asset's tags: {word}.")

    async def _ask(self, method: str, path: str, parse: Callable[[Any], T], **more: Any) -> T:
        ask = partial(self.server.http.read, method, path, self.credential.headers, parse)
        return await ask(**more)


def _text(seconds: float, more: timedelta = timedelta()) -> str:
    """A time as searches take it, in whole milliseconds downwards."""
    moment = datetime.fromtimestamp(seconds, UTC)
    moment += more - timedelta(microseconds=moment.microsecond % 1000)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
