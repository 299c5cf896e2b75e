"""`/server`: what anybody may know, and what needs credentials."""

from __future__ import annotations

import shutil
from typing import Any

from immich_conch.demo.media import media_types
from immich_conch.demo.routing import Answer, Call, Route


def _ping(call: Call) -> Answer:
    return Answer(200, {"res": "pong"})


def _version(call: Call) -> Answer:
    major, minor, patch = call.core.version
    body: dict[str, Any] = {"major": major, "minor": minor, "patch": patch}
    if call.modern:
        body["prerelease"] = None
    return Answer(200, body)


def _features(call: Call) -> Answer:
    body = {
        "smartSearch": False,
        "facialRecognition": False,
        "duplicateDetection": False,
        "map": True,
        "reverseGeocoding": True,
        "importFaces": False,
        "sidecar": True,
        "search": True,
        "trash": call.state.trash_enabled,
        "oauth": False,
        "oauthAutoLaunch": False,
        "ocr": False,
        "passwordLogin": True,
        "configFile": False,
        "email": False,
    }
    if call.modern:
        body["realtimeTranscoding"] = False
    return Answer(200, body)


def _config(call: Call) -> Answer:
    body: dict[str, Any] = {
        "loginPageMessage": "",
        "trashDays": 30,
        "userDeleteDelay": 7,
        "oauthButtonText": "Login with OAuth",
        "isInitialized": True,
        "isOnboarded": True,
        "externalDomain": "",
        "publicUsers": True,
        "mapDarkStyleUrl": "https://tiles.immich.cloud/v1/style/dark.json",
        "mapLightStyleUrl": "https://tiles.immich.cloud/v1/style/light.json",
        "maintenanceMode": False,
    }
    if call.modern:
        body["minFaces"] = 3
    return Answer(200, body)


def _media_types(call: Call) -> Answer:
    return Answer(200, media_types(call.modern))


def _about(call: Call) -> Answer:
    version = "v" + ".".join(map(str, call.core.version))
    return Answer(
        200,
        {
            "version": version,
            "versionUrl": f"https://github.com/immich-app/immich/releases/tag/{version}",
            "licensed": False,
            "nodejs": "v24.15.0",
            "exiftool": "13.59",
            "ffmpeg": "5.1.9",
            "libvips": "8.17.3",
            "imagemagick": "",
        },
    )


def _human(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _storage(call: Call) -> Answer:
    disk = shutil.disk_usage(call.state.storage.root)
    return Answer(
        200,
        {
            "diskSize": _human(disk.total),
            "diskUse": _human(disk.used),
            "diskAvailable": _human(disk.free),
            "diskSizeRaw": disk.total,
            "diskUseRaw": disk.used,
            "diskAvailableRaw": disk.free,
            "diskUsagePercentage": round(100 * disk.used / disk.total, 2),
        },
    )


ROUTES = (
    Route("GET", "/server/ping", _ping, public=True),
    Route("GET", "/server/version", _version, public=True),
    Route("GET", "/server/features", _features, public=True),
    Route("GET", "/server/config", _config, public=True),
    Route("GET", "/server/media-types", _media_types, public=True),
    Route("GET", "/server/about", _about, "server.about"),
    Route("GET", "/server/storage", _storage, "server.storage"),
)
