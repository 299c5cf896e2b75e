"""The types a version of Immich takes, by extension, as its `/server/media-types` lists them."""

from __future__ import annotations

from pathlib import PurePosixPath

_VIDEO_TEXT = (
    ".3gp .3gpp .avi .flv .insv .m2t .m2ts .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ts"
    " .vob .webm .wmv"
)
_IMAGE_TEXT = (
    ".avif .bmp .gif .jpeg .jpg .png .webp .3fr .ari .arw .cap .cin .cr2 .cr3 .crw .dcr .dng .erf"
    " .fff .iiq .k25 .kdc .mrw .nef .nrw .orf .ori .pef .psd .raf .raw .rw2 .rwl .sr2 .srf .srw"
    " .x3f .heic .heif .hif .insp .jp2 .jpe .jxl .mpo .svg .tif .tiff"
)
_VIDEO, _IMAGE = _VIDEO_TEXT.split(), _IMAGE_TEXT.split()
_SINCE_3 = frozenset((".mxf", ".ts", ".mpo"))
_MIME = {
    ".3gp": "video/3gpp",
    ".3gpp": "video/3gpp",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".jp2": "image/jp2",
    ".jpe": "image/jpeg",
    ".jpg": "image/jpeg",
    ".m4v": "video/x-m4v",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mpg": "video/mpeg",
    ".svg": "image/svg+xml",
    ".tif": "image/tiff",
    ".wmv": "video/x-ms-wmv",
}


def media_types(modern: bool) -> dict[str, list[str]]:
    """The answer of `/server/media-types`."""

    def taken(extensions: list[str]) -> list[str]:
        return [e for e in extensions if modern or e not in _SINCE_3]

    return {"video": taken(_VIDEO), "image": taken(_IMAGE), "sidecar": [".xmp"]}


def extension(name: str) -> str:
    """The last extension in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def asset_type(name: str, modern: bool) -> str | None:
    """`IMAGE`, `VIDEO`, or None for what Immich does not take."""
    end = extension(name)
    if end in _SINCE_3 and not modern:
        return None
    return "VIDEO" if end in _VIDEO else "IMAGE" if end in _IMAGE else None


def mime_type(name: str) -> str:
    """The content type of a file by its extension."""
    end = extension(name)
    major = "video" if end in _VIDEO else "image"
    return _MIME.get(end, f"{major}/{end[1:]}")
