"""Paint the demo's pictures and film its video: immich_conch/demo/pictures/.

Run by hand after a change, with Pillow and ffmpeg at hand:

    python tools/make_demo_pictures.py

Every picture is a small landscape of its own in a few KB; its EXIF date is the one that
`immich_conch/demo/library.py` gives it.  The same input paints the same picture.
"""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from immich_conch.demo.library import PICTURES, Picture  # noqa: E402

WIDTH, HEIGHT = 480, 320
_DATE_TIME, _EXIF, _DATE_TIME_ORIGINAL, _SOFTWARE = 0x0132, 0x8769, 0x9003, 0x0131

Colour = tuple[int, int, int]

PALETTES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "dawn": ((43, 45, 92), (246, 162, 120), (92, 74, 114), (38, 33, 61)),
    "noon": ((80, 157, 220), (214, 236, 247), (98, 145, 98), (47, 92, 66)),
    "dusk": ((28, 24, 66), (222, 96, 74), (70, 45, 82), (22, 17, 38)),
    "night": ((6, 10, 32), (32, 48, 92), (20, 28, 52), (8, 11, 24)),
    "sea": ((108, 176, 214), (235, 240, 226), (38, 110, 148), (228, 205, 160)),
    "snow": ((140, 170, 205), (240, 244, 250), (222, 230, 240), (120, 140, 165)),
}


def _mix(one: Colour, other: Colour, part: float) -> Colour:
    r, g, b = (round(a + (z - a) * part) for a, z in zip(one, other, strict=True))
    return r, g, b


def _ridge(seed: random.Random, base: float, height: float) -> list[tuple[int, float]]:
    waves = [(seed.uniform(0.5, 4), seed.uniform(0, 6.3), height / (n + 1)) for n in range(4)]
    return [
        (x, base + sum(a * math.sin(f * x / WIDTH * 6.3 + p) for f, p, a in waves))
        for x in range(0, WIDTH + 4, 4)
    ]


def _fill(draw: ImageDraw.ImageDraw, ridge: list[tuple[int, float]], colour: Colour) -> None:
    draw.polygon([(0, HEIGHT), *ridge, (WIDTH, HEIGHT)], fill=colour)


def paint(picture: Picture) -> Image.Image:
    """One landscape."""
    seed = random.Random(picture.file)  # noqa: S311
    top, bottom, far, near = PALETTES[picture.palette]
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for y in range(HEIGHT):
        draw.line([(0, y), (WIDTH, y)], fill=_mix(top, bottom, min(1, y / (HEIGHT * 0.7))))
    x, y, radius = seed.randint(60, 420), seed.randint(40, 120), seed.randint(14, 30)
    glow = _mix(bottom, (255, 250, 225), 0.8)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=glow)
    if picture.palette == "night":
        for _ in range(90):
            at = (seed.randrange(WIDTH), seed.randrange(HEIGHT * 2 // 3))
            draw.point(at, fill=(230, 230, 245))
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    draw = ImageDraw.Draw(image)
    for layer in range(3):
        part = layer / 2
        ridge = _ridge(seed, HEIGHT * (0.55 + 0.15 * layer), 26 - 6 * layer)
        _fill(draw, ridge, _mix(_mix(bottom, far, 0.6), near, part))
        if picture.motif == "trees" and layer:
            for tx, ty in ridge[:: seed.randint(4, 7)]:
                tall = seed.randint(14, 30)
                tree = [(tx - tall / 4, ty + 3), (tx + tall / 4, ty + 3), (tx, ty - tall)]
                draw.polygon(tree, fill=_mix(far, near, 0.9))
    if picture.motif == "boats":
        for _ in range(4):
            bx, by = seed.randint(30, 440), seed.randint(215, 260)
            draw.polygon([(bx, by), (bx + 34, by), (bx + 27, by + 9), (bx + 6, by + 9)], near)
            draw.polygon(
                [(bx + 15, by - 3), (bx + 15, by - 38), (bx + 33, by - 3)], (250, 250, 245)
            )
    if picture.motif == "houses":
        for hx in range(20, 440, 52):
            hy, wide = seed.randint(225, 250), seed.randint(30, 40)
            wall = _mix((238, 216, 186), (190, 110, 84), seed.random())
            draw.rectangle([hx, hy, hx + wide, HEIGHT], fill=wall)
            draw.polygon(
                [(hx - 4, hy), (hx + wide + 4, hy), (hx + wide / 2, hy - 20)], (132, 62, 52)
            )
            for wx in (hx + 7, hx + wide - 14):
                draw.rectangle([wx, hy + 12, wx + 7, hy + 22], fill=(252, 226, 140))
    if picture.motif == "balloons":
        for _ in range(3):
            bx, by, r = seed.randint(50, 430), seed.randint(40, 150), seed.randint(14, 26)
            hue = _mix((214, 64, 69), (245, 193, 76), seed.random())
            draw.ellipse([bx - r, by - r, bx + r, by + r], fill=hue)
            draw.polygon(
                [(bx - r * 0.7, by + r * 0.7), (bx + r * 0.7, by + r * 0.7), (bx, by + r * 1.6)],
                hue,
            )
            draw.rectangle([bx - 4, by + r * 1.7, bx + 4, by + r * 1.7 + 6], fill=(92, 60, 40))
    return image


def save(picture: Picture, folder: Path) -> None:
    """Paint a picture and give it its EXIF date."""
    exif = Image.Exif()
    stamp = picture.taken.strftime("%Y:%m:%d %H:%M:%S")
    exif[_DATE_TIME] = stamp
    exif[_SOFTWARE] = "immich-conch demo"
    exif.get_ifd(_EXIF)[_DATE_TIME_ORIGINAL] = stamp
    paint(picture).save(folder / picture.file, quality=62, optimize=True, exif=exif)


def film(picture: Picture, folder: Path) -> None:
    """A few seconds of a sun that crosses a landscape."""
    scene = paint(picture).resize((240, 160))
    with tempfile.TemporaryDirectory() as temporary:
        for frame in range(36):
            still = scene.copy()
            x = 10 + frame * 6
            y = 60 - round(34 * math.sin(frame / 35 * math.pi))
            ImageDraw.Draw(still).ellipse([x - 8, y - 8, x + 8, y + 8], fill=(255, 240, 190))
            still.save(Path(temporary) / f"{frame:03}.png")
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None:
            raise SystemExit("ffmpeg is needed for the video")
        stamp = picture.taken.strftime("%Y-%m-%dT%H:%M:%SZ")
        command = [ffmpeg, "-v", "error", "-y", "-framerate", "12", "-i", f"{temporary}/%03d.png"]
        command += ["-c:v", "libx264", "-crf", "30", "-preset", "veryslow", "-pix_fmt", "yuv420p"]
        command += ["-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
        command += ["-metadata", f"creation_time={stamp}", str(folder / picture.file)]
        subprocess.run(command, check=True)  # noqa: S603


def main() -> None:
    """Make all of them."""
    folder = ROOT / "immich_conch" / "demo" / "pictures"
    folder.mkdir(exist_ok=True)
    for picture in PICTURES:
        (film if picture.file.endswith(".mp4") else save)(picture, folder)
        print(f"{picture.file}: {(folder / picture.file).stat().st_size} bytes")


if __name__ == "__main__":
    main()
