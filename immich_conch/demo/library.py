"""What a fresh demo holds: one user and a little library that is the same every time.

`tools/make_demo_pictures.py` paints the pictures from this table; the times are their EXIF dates
(UTC), and what a client sees as their modification times.
"""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime
from importlib.resources import files

from attrs import frozen

from immich_conch.demo.immich import DemoImmich

EMAIL = "demo@example.com"
PASSWORD = "demo"


@frozen
class Picture:
    """One file of the demo: where it lies, when it was taken, and how it is painted."""

    file: str
    album: str
    taken: datetime
    palette: str
    motif: str = ""


def _at(year: int, month: int, day: int, hour: int, minute: int) -> datetime:
    return datetime(year, month, day, hour, minute, 20, tzinfo=UTC)


PICTURES = (
    Picture("IMG_0112.jpg", "Lake District", _at(2023, 5, 18, 5, 42), "dawn", "trees"),
    Picture("IMG_0119.jpg", "Lake District", _at(2023, 5, 18, 11, 3), "noon", "boats"),
    Picture("IMG_0127.jpg", "Lake District", _at(2023, 5, 19, 19, 51), "dusk", "trees"),
    Picture("Harbour.jpg", "Summer by the Sea", _at(2023, 8, 2, 10, 15), "sea", "boats"),
    Picture("Old town.jpg", "Summer by the Sea", _at(2023, 8, 3, 16, 40), "noon", "houses"),
    Picture("Last evening.jpg", "Summer by the Sea", _at(2023, 8, 9, 20, 22), "dusk", "boats"),
    Picture("Sunrise.mp4", "Summer by the Sea", _at(2023, 8, 5, 5, 58), "sea", "boats"),
    Picture("PXL_20240113_101500.jpg", "Winter Walks", _at(2024, 1, 13, 10, 15), "snow", "trees"),
    Picture("PXL_20240113_163012.jpg", "Winter Walks", _at(2024, 1, 13, 16, 30), "night", "houses"),
    Picture("PXL_20240204_091244.jpg", "Winter Walks", _at(2024, 2, 4, 9, 12), "snow", "houses"),
    Picture("Balloons 1.jpg", "Balloon Festival", _at(2024, 6, 22, 4, 37), "dawn", "balloons"),
    Picture("Balloons 2.jpg", "Balloon Festival", _at(2024, 6, 22, 6, 2), "noon", "balloons"),
    Picture("Night glow.jpg", "Balloon Festival", _at(2024, 6, 22, 21, 48), "night", "balloons"),
)


def seed(demo: DemoImmich) -> None:
    """Put user and library into a demo that has nobody yet; one that has is left alone.

    Ids are the same every time, too.  The pictures are package data.
    """
    if demo.state.users:
        return
    ids = random.Random(EMAIL)
    usual, demo.state.new_id = (
        demo.state.new_id,
        lambda: str(uuid.UUID(int=ids.getrandbits(128), version=4)),
    )
    folder = files("immich_conch.demo") / "pictures"
    try:
        user = demo.add_user(EMAIL, PASSWORD, "Demo", admin=True)
        for name in dict.fromkeys(picture.album for picture in PICTURES):
            assets = [
                demo.add_asset(
                    user,
                    picture.file,
                    (folder / picture.file).read_bytes(),
                    picture.taken.timestamp(),
                )
                for picture in PICTURES
                if picture.album == name
            ]
            demo.add_album(user, name, assets)
    finally:
        demo.state.new_id = usual
