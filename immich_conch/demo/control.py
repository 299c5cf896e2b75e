"""`/control`: how tests in other processes see and change the demo.  Off unless asked for.

GET state and counts, POST users, assets, albums, faults, keys, settings; everything is JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from immich_conch.demo.dates import js
from immich_conch.demo.routing import Answer

if TYPE_CHECKING:
    from immich_conch.demo.entities import Album
    from immich_conch.demo.immich import DemoImmich


class Control:
    """The control routes of one DemoImmich."""

    def __init__(self, demo: DemoImmich) -> None:
        self._demo = demo

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Answer a request below `/control/`; 400 names what was wrong with it."""
        handlers: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("GET", "/control/state"): self._state,
            ("GET", "/control/counts"): self._counts,
            ("POST", "/control/users"): self._users,
            ("POST", "/control/keys"): self._keys,
            ("POST", "/control/assets"): self._assets,
            ("POST", "/control/albums"): self._albums,
            ("POST", "/control/faults"): self._faults,
            ("DELETE", "/control/faults"): self._clear_faults,
            ("POST", "/control/settings"): self._settings,
            ("POST", "/control/link"): self._link,
        }
        handler = handlers.get((method, path))
        if handler is None:
            return Answer(404, {"message": f"Cannot {method} {path}"})
        try:
            return Answer(200, handler(json.loads(body) if body else {}))
        except (KeyError, TypeError, ValueError) as error:
            return Answer(400, {"message": f"{type(error).__name__}: {error}"})

    def _state(self, data: dict[str, Any]) -> Any:
        """All there is; with an `email` only the albums and assets of that user.

        Albums of others that hold an asset of theirs are among them.
        """
        state = self._demo.state
        one = self._demo.user(data["email"]).id if "email" in data else None

        def wanted(album: Album) -> bool:
            if one in (None, album.owner_id):
                return True
            return any(state.assets[asset_id].owner_id == one for asset_id in album.assets)

        def asset(asset_id: str) -> dict[str, Any]:
            found = state.assets[asset_id]
            return {
                "id": found.id,
                "name": found.name,
                "sha1": found.checksum,
                "size": found.size,
                "owner": state.users[found.owner_id].email,
                "fileModifiedAt": js(found.modified),
                "visibility": found.visibility,
                "trashed": found.deleted is not None,
                "livePhotoVideoId": found.live_video,
                "favorite": found.favorite,
                "tags": [state.tags[tag_id].value for tag_id in found.tags],
                "metadata": {key: note.value for key, note in found.notes.items()},
            }

        return {
            "albums": [
                {
                    "id": album.id,
                    "name": album.name,
                    "description": album.description,
                    "owner": state.users[album.owner_id].email,
                    "assets": [asset(asset_id) for asset_id in album.assets],
                }
                for album in state.albums.values()
                if wanted(album)
            ],
            "loose": [
                asset(found.id)
                for found in state.assets.values()
                if not found.albums and one in (None, found.owner_id)
            ],
            **self._counts(data),
        }

    def _counts(self, data: dict[str, Any]) -> Any:
        """What can be counted without looking at anything."""
        return {
            "sessions": len(self._demo.state.sessions),
            "requests": dict(self._demo.requests),
            "faults": len(self._demo.faults),
        }

    def _users(self, data: dict[str, Any]) -> Any:
        user = self._demo.add_user(
            data["email"], data["password"], data.get("name", "User"), data.get("quota")
        )
        return {"id": user.id}

    def _keys(self, data: dict[str, Any]) -> Any:
        user = self._demo.user(data["email"])
        return {"secret": self._demo.add_key(user, data.get("permissions", ["all"]))}

    def _assets(self, data: dict[str, Any]) -> Any:
        """`email`, and a list of `assets` with name, modified (POSIX seconds), size or content.

        Other fields of an entry are those of `entities.Asset`.
        """
        user = self._demo.user(data["email"])
        ids = []
        for entry in data["assets"]:
            content = entry.get("content")
            asset = self._demo.add_asset(
                user,
                entry["name"],
                None if content is None else base64.b64decode(content),
                entry["modified"],
                size=entry.get("size"),
                **entry.get("fields", {}),
            )
            ids.append(asset.id)
        return {"ids": ids}

    def _albums(self, data: dict[str, Any]) -> Any:
        album = self._demo.add_album(
            self._demo.user(data["email"]),
            data["name"],
            [self._demo.state.assets[asset_id] for asset_id in data.get("assets", ())],
            data.get("description", ""),
            data.get("shared"),
        )
        return {"id": album.id}

    def _faults(self, data: dict[str, Any]) -> Any:
        self._demo.faults.add(**data)
        return {"faults": len(self._demo.faults)}

    def _clear_faults(self, data: dict[str, Any]) -> Any:
        self._demo.faults.clear()
        return {"faults": 0}

    def _settings(self, data: dict[str, Any]) -> Any:
        """Whether there is a `trash`; whether live photos are linked by themselves (`links`)."""
        if "trash" in data:
            self._demo.trash_enabled = bool(data["trash"])
        if "links" in data:
            self._demo.links_live_photos = bool(data["links"])
        return {"trash": self._demo.trash_enabled, "links": self._demo.links_live_photos}

    def _link(self, data: dict[str, Any]) -> Any:
        """Link the halves of live photos that have been read; how many stills have a part now."""
        return {"live": self._demo.link_live_photos()}
