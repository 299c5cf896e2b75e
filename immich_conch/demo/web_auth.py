"""`/auth`, `/users`, `/api-keys`, `/admin/users`: who is who."""

from __future__ import annotations

from typing import Any

from immich_conch.demo.answers import api_key, user_brief, user_me
from immich_conch.demo.dates import js
from immich_conch.demo.refusals import Refusal, check_email
from immich_conch.demo.routing import Answer, Call, Route


def _log_in(call: Call) -> Answer:
    data = call.json()
    email = check_email(call.modern, data.get("email"))
    password = call.fields(password="string!")["password"]
    found = call.state.log_in(email, password)
    if found is None:
        raise Refusal(401, "Incorrect email or password")
    user, token = found
    return Answer(
        201,
        {
            "accessToken": token,
            "userId": user.id,
            "userEmail": user.email,
            "name": user.name,
            "isAdmin": user.admin,
            "profileImagePath": "",
            "shouldChangePassword": True,
            "isOnboarded": False,
        },
    )


def _log_out(call: Call) -> Answer:
    if call.session is not None:
        call.state.end_session(call.session)
    return Answer(200, {"successful": True, "redirectUri": "/auth/login?autoLaunch=0"})


def _validate(call: Call) -> Answer:
    return Answer(200, {"authStatus": True})


def _status(call: Call) -> Answer:
    return Answer(200, {"pinCode": False, "password": True, "isElevated": False})


def _me(call: Call) -> Answer:
    return Answer(200, user_me(call.user))


def _users(call: Call) -> Answer:
    return Answer(200, [user_brief(user, js) for user in call.state.users.values()])


def _preferences(call: Call) -> Answer:
    body: dict[str, dict[str, Any]] = {
        "albums": {"defaultAssetOrder": "desc"},
        "folders": {"enabled": False, "sidebarWeb": False},
        "memories": {"enabled": True, "duration": 5},
        "people": {"enabled": True, "sidebarWeb": False},
        "sharedLinks": {"enabled": True, "sidebarWeb": False},
        "ratings": {"enabled": False},
        "tags": {"enabled": False, "sidebarWeb": False},
        "emailNotifications": {"enabled": True, "albumInvite": True, "albumUpdate": True},
        "download": {"archiveSize": 4294967296, "includeEmbeddedVideos": False},
        "purchase": {"showSupportBadge": True, "hideBuyButtonUntil": "2022-02-12T00:00:00.000Z"},
        "cast": {"gCastEnabled": False},
    }
    if call.modern:
        body["people"]["minimumFaces"] = 3
        body["recentlyAdded"] = {"sidebarWeb": False}
    return Answer(200, body)


def _create_key(call: Call) -> Answer:
    data = call.fields(name="string", permissions="array!")
    if call.key is not None and "all" not in call.key.permissions:
        excess = [p for p in data["permissions"] if p not in call.key.permissions]
        if excess:
            raise Refusal(400, "Cannot grant permissions you do not have")
    key, secret = call.state.add_key(
        call.user, data.get("name", "API Key"), [str(p) for p in data["permissions"]]
    )
    return Answer(201, {"secret": secret, "apiKey": api_key(key)})


def _my_key(call: Call) -> Answer:
    if call.key is None:
        raise Refusal(403, "Not authenticated with an API Key")
    return Answer(200, api_key(call.key))


def _list_keys(call: Call) -> Answer:
    keys = [key for key in call.state.keys.values() if key.user_id == call.user.id]
    return Answer(200, [api_key(key) for key in keys])


def _delete_key(call: Call) -> Answer:
    wanted = call.id()
    for key in list(call.state.keys.values()):
        if key.id == wanted and key.user_id == call.user.id:
            call.state.end_key(key)
            return Answer(204)
    raise Refusal(400, "API Key not found")


def _create_user(call: Call) -> Answer:
    if not call.user.admin:
        raise Refusal(403, "Forbidden")
    data = call.fields(name="string!", password="string!", quotaSizeInBytes="number?")
    email = check_email(call.modern, call.json().get("email"))
    try:
        user = call.state.add_user(
            email, data["password"], data["name"], data.get("quotaSizeInBytes")
        )
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    return Answer(201, user_me(user))


ROUTES = (
    Route("POST", "/auth/login", _log_in, public=True),
    Route("POST", "/auth/logout", _log_out),
    Route("POST", "/auth/validateToken", _validate),
    Route("GET", "/auth/status", _status),
    Route("GET", "/users/me", _me, "user.read"),
    Route("GET", "/users", _users, "user.read"),
    Route("GET", "/users/me/preferences", _preferences, "userPreference.read"),
    Route("POST", "/api-keys", _create_key, "apiKey.create"),
    Route("GET", "/api-keys", _list_keys, "apiKey.read"),
    Route("GET", "/api-keys/me", _my_key),
    Route("DELETE", "/api-keys/{id}", _delete_key, "apiKey.delete"),
    Route("POST", "/admin/users", _create_user, "adminUser.create"),
)
