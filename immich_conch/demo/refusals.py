"""How Immich says no: one exception, worded as 2.5.6 or as 3.1.0.

2.5.6 validates with class-validator (a list of sentences, `error`, `statusCode`,
`correlationId`); 3.1.0 with zod (`Validation failed` and a list of issues).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_UUID_PATTERN = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12})$"
)
_UUID = re.compile(_UUID_PATTERN)
_EMAIL_PATTERN = (
    r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$"
)
_EMAIL = re.compile(_EMAIL_PATTERN)
_DATE_PATTERN = (
    r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|"
    r"\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|"
    r"(?:02)-(?:0[1-9]|1\d|2[0-8])))T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
    r"(?:Z|([+-](?:[01]\d|2[0-3]):[0-5]\d)))$"
)


class Refusal(Exception):
    """An answer that is no success.  `issues` are 3.x's; a list as `message` is 2.x's."""

    def __init__(
        self,
        status: int,
        message: str | list[str],
        issues: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.issues = issues
        self.headers = dict(headers or {})

    def body(self, modern: bool, correlation: str) -> dict[str, Any]:
        """The JSON of the answer in the dialect."""
        body: dict[str, Any] = {"message": self.message}
        if modern:
            if self.issues is not None:
                body["errors"] = self.issues
            return body
        if self.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            body["error"] = HTTPStatus(self.status).phrase
        return {**body, "statusCode": self.status, "correlationId": correlation}


def no_access(permission: str) -> Refusal:
    """Not found and not allowed look alike in Immich: both are 400."""
    return Refusal(400, f"Not found or no {permission} access")


def missing_permission(permission: str) -> Refusal:
    """The API key lacks a permission."""
    return Refusal(403, f"Missing required permission: {permission}")


def _invalid(modern: bool, sentences: list[str], issue: dict[str, Any]) -> Refusal:
    if modern:
        return Refusal(400, "Validation failed", [issue])
    return Refusal(400, sentences)


def kind_of(value: Any) -> str:
    """What zod calls the type of a JSON value; None stands for one that is not there."""
    for types, name in (
        (bool, "boolean"),
        (str, "string"),
        (int | float, "number"),
        (list, "array"),
        (dict, "object"),
    ):
        if isinstance(value, types):
            return name
    return "undefined"


def wrong_type(modern: bool, path: str, expected: str, value: Any) -> Refusal:
    """A field is missing or of the wrong type."""
    article = "an" if expected[0] in "aeiou" else "a"
    return _invalid(
        modern,
        [f"{path} must be {article} {expected}"],
        {
            "expected": expected,
            "code": "invalid_type",
            "path": [path],
            "message": f"Invalid input: expected {expected}, received {kind_of(value)}",
        },
    )


def too_big(modern: bool, path: str, maximum: int) -> Refusal:
    """A number is above its limit."""
    return _invalid(
        modern,
        [f"{path} must not be greater than {maximum}"],
        {
            "origin": "number",
            "code": "too_big",
            "maximum": maximum,
            "inclusive": True,
            "path": [path],
            "message": f"Too big: expected number to be <={maximum}",
        },
    )


def too_small(modern: bool, path: str, minimum: int) -> Refusal:
    """A number is below its limit."""
    return _invalid(
        modern,
        [f"{path} must not be less than {minimum}"],
        {
            "origin": "number",
            "code": "too_small",
            "minimum": minimum,
            "inclusive": True,
            "path": [path],
            "message": f"Too small: expected number to be >={minimum}",
        },
    )


def bad_option(modern: bool, path: str, options: list[str]) -> Refusal:
    """A value is none of an enumeration."""
    return _invalid(
        modern,
        [f"{path} must be one of the following values: {', '.join(options)}"],
        {
            "code": "invalid_value",
            "values": options,
            "path": [path],
            "message": "Invalid option: expected one of " + "|".join(f'"{o}"' for o in options),
        },
    )


def check_uuid(modern: bool, path: str, value: Any) -> str:
    """The id, or a Refusal if it is no UUID."""
    if isinstance(value, str) and _UUID.fullmatch(value):
        return value.lower()
    raise _invalid(
        modern,
        [f"{path} must be a UUID"],
        {
            "origin": "string",
            "code": "invalid_format",
            "format": "uuid",
            "pattern": f"/{_UUID_PATTERN}/",
            "path": [path],
            "message": "Invalid UUID",
        },
    )


def check_email(modern: bool, value: Any) -> str:
    """The address, or a Refusal if it is none."""
    if not isinstance(value, str):
        raise wrong_type(modern, "email", "string", value)
    if _EMAIL.fullmatch(value) and "." in value.rpartition("@")[2]:
        return value
    raise _invalid(
        modern,
        ["email must be an email"],
        {
            "origin": "string",
            "code": "invalid_format",
            "format": "email",
            "pattern": f"/{_EMAIL_PATTERN}/",
            "path": ["email"],
            "message": "Invalid input: expected email, received string",
        },
    )


def missing_dates(modern: bool, paths: list[str]) -> Refusal:
    """Required times of an upload are not there."""
    if modern:
        return Refusal(
            400,
            "Validation failed",
            [
                {
                    "expected": "string",
                    "code": "invalid_type",
                    "path": [path],
                    "message": "Invalid input: expected ISO 8601 datetime string, "
                    "received undefined",
                }
                for path in paths
            ],
        )
    sentences: list[str] = []
    for path in paths:
        sentences += [f"{path} must be a Date instance", f"{path} should not be empty"]
    return Refusal(400, sentences)


def bad_date(modern: bool, path: str) -> Refusal:
    """A time of an upload is none."""
    if not modern:
        return Refusal(400, f"{path} must be a date string")
    issue = {
        "origin": "string",
        "code": "invalid_format",
        "format": "datetime",
        "pattern": f"/{_DATE_PATTERN}/",
        "path": [path],
        "message": "Invalid input: expected ISO 8601 datetime string, received string",
    }
    return Refusal(400, "Validation failed", [issue])
