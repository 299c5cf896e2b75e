"""From a request to the function that answers it: routes, credentials, permissions, answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attrs import define, field, frozen

from immich_conch.demo.albums import Albums
from immich_conch.demo.answers import Answers
from immich_conch.demo.assets import Assets
from immich_conch.demo.entities import ApiKey, Session, User
from immich_conch.demo.refusals import (
    Refusal,
    bad_option,
    check_uuid,
    missing_permission,
    wrong_type,
)
from immich_conch.demo.state import State
from immich_conch.demo.upload import UploadBody


@define(eq=False)
class Core:
    """What every handler works on."""

    state: State
    albums: Albums
    assets: Assets
    answers: Answers
    version: tuple[int, int, int]

    @property
    def modern(self) -> bool:
        """Whether 3.x is played."""
        return self.version[0] >= 3


@frozen
class Answer:
    """A status, and either JSON, or bytes piece by piece with their `length` if it is known."""

    status: int
    json: Any = None
    headers: Mapping[str, str] = field(factory=dict)
    pieces: Iterator[bytes] | None = None
    length: int | None = None


@define(eq=False)
class Call:
    """One request, understood as far as its route and its credentials."""

    core: Core
    params: dict[str, str]
    query: dict[str, str]
    header: Callable[[str], str | None] = field(repr=False)
    body: bytes = field(repr=False)
    upload: UploadBody | None
    session: Session | None
    key: ApiKey | None
    _user: User | None
    quota_full: bool = False
    head: bool = False

    @property
    def state(self) -> State:
        """The tables."""
        return self.core.state

    @property
    def modern(self) -> bool:
        """Whether 3.x is played."""
        return self.core.modern

    @property
    def user(self) -> User:
        """Who asks; only where the route wants credentials."""
        assert self._user is not None
        return self._user

    def id(self, name: str = "id") -> str:
        """A UUID from the path; raises Refusal."""
        return check_uuid(self.modern, name, self.params[name])

    def json(self) -> dict[str, Any]:
        """The body; raises Refusal where it is no JSON object."""
        if not self.body.strip():
            return {}
        try:
            data = json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, "Unexpected token in JSON") from error
        if not isinstance(data, dict):
            raise wrong_type(self.modern, "body", "object", data)
        return data

    def fields(self, **types: str) -> dict[str, Any]:
        """The named fields that are there, each checked; a `!` after the type means required.

        Types are zod's words: string, number, boolean, array, object; a `?` allows null.
        """
        kinds: dict[str, Any] = {
            "string": str,
            "number": (int, float),
            "boolean": bool,
            "array": list,
            "object": dict,
        }
        data = self.json()
        found = {}
        for name, wanted in types.items():
            expected = wanted.rstrip("!?")
            value = data.get(name)
            if name not in data or (value is None and "?" not in wanted):
                if wanted.endswith("!") or name in data:
                    raise wrong_type(self.modern, name, expected, value)
                continue
            right = isinstance(value, kinds[expected])
            if expected == "number" and isinstance(value, bool):
                right = False
            if not right and value is not None:
                raise wrong_type(self.modern, name, expected, value)
            found[name] = value
        return found

    def ids(self, name: str = "ids") -> list[str]:
        """A required list of UUIDs; raises Refusal."""
        values = self.fields(**{name: "array!"})[name]
        return [check_uuid(self.modern, name, value) for value in values]

    def option(self, path: str, value: Any, options: Iterable[str]) -> str:
        """One of an enumeration; raises Refusal."""
        choices = list(options)
        if value not in choices:
            raise bad_option(self.modern, path, choices)
        return str(value)


@frozen
class Route:
    """`permission` None takes any credentials; `public` takes none at all."""

    method: str
    pattern: str
    handler: Callable[[Call], Answer]
    permission: str | None = None
    public: bool = False
    by_key: bool = True

    @property
    def name(self) -> str:
        """As requests are counted: `GET /albums/{id}`."""
        return f"{self.method} {self.pattern}"


class Routes:
    """All routes, found by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_length: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
        for route in routes:
            parts = route.pattern.split("/")
            self._by_length.setdefault((route.method, len(parts)), []).append((parts, route))
        for found in self._by_length.values():
            # What is spelt out wins over a placeholder: /assets/copy over /assets/{id}.
            found.sort(key=lambda pair: [part.startswith("{") for part in pair[0]])

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a path without `/api`, and the values of its placeholders."""
        parts = path.split("/")
        wanted = "GET" if method == "HEAD" else method
        for pattern, route in self._by_length.get((wanted, len(parts)), ()):
            params = {}
            for have, want in zip(parts, pattern, strict=True):
                if want.startswith("{"):
                    params[want[1:-1]] = have
                elif have != want:
                    break
            else:
                return route, params
        return None


def authenticate(
    state: State, header: Callable[[str], str | None]
) -> tuple[User, Session | None, ApiKey | None]:
    """Whose credentials the headers carry; raises a 401 Refusal."""
    bearer = header("Authorization") or ""
    token = header("x-immich-user-token") or header("x-immich-session-token")
    if token is None and bearer.lower().startswith("bearer "):
        token = bearer[7:].strip()
    if token:
        session = state.session_of(token)
        if session is None:
            raise Refusal(401, "Invalid user token")
        return state.users[session.user_id], session, None
    secret = header("x-api-key")
    if secret:
        key = state.key_of(secret)
        if key is None:
            raise Refusal(401, "Invalid API key")
        return state.users[key.user_id], None, key
    raise Refusal(401, "Authentication required")


def check_permission(route: Route, key: ApiKey | None) -> None:
    """Raise a 403 Refusal where an API key may not use a route."""
    if key is None or not route.by_key or "all" in key.permissions:
        return
    if route.permission is not None and route.permission not in key.permissions:
        raise missing_permission(route.permission)
