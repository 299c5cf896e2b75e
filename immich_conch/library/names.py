"""Unique, safe names for albums and assets, and the checks for names that clients give.

Immich takes any text as a name, any number of times (FACTS.md); a folder has each name once, and a
name may not break a path, an `ls -l` line or a log.  Everything here is pure: the same set of
entries has the same names in whatever order it came, and nothing knows of Immich or SFTP.  Names
keep the form they are stored in (NFC or NFD); they are compared and looked up by `fold`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache

from attrs import frozen

from immich_conch.errors import BadName

MAX_NAME_BYTES = 255
"""UTF-8 bytes of one name: what ext4, NTFS and APFS take, so that a download can be stored."""

MAX_FOLDER_PATH_BYTES = 3_500
"""UTF-8 bytes of a nested album's whole path: with a file's name still below PATH_MAX (4096)."""

MAX_EXTENSION_BYTES = 32
"""UTF-8 bytes of an extension that is kept when a name is cut; longer ones are no extension."""

UNNAMED = "(unnamed)"
"""What an empty name is shown as."""

ID_DIGITS = 8
"""Digits of the id that tell two entries of one name apart."""

ID_DIGITS_STEP = 4
"""How many digits more are taken each time that was not enough."""

MAX_ID_DIGITS = 64
"""The most digits of an id in a name: a UUID has 32, and a mark must leave room for the name."""

DEFAULT_TEMPORARY = (
    "*.filepart",  # WinSCP
    "*.part",  # KIO, Dolphin, Firefox
    "*.partial",  # rclone
    "*.tmp",
    "*.temp",
    "*.tacitpart",  # FolderSync
    "*.crdownload",  # Chromium
    ".in.*",  # lftp, xfer:use-temp-file
    ".giosave*",  # gvfs, GNOME Files
    ".fuse_hidden*",  # libfuse, for a file that is removed while a program has it open
    "sed??????",  # sed -i on a mount
)
"""Names under which clients write what they are going to rename (CLIENTS.md, section 4)."""

COMPANIONS = frozenset(
    (
        ".aae",
        ".dop",
        ".gz",
        ".html",
        ".json",
        ".md5",
        ".pp3",
        ".sha1",
        ".sha256",
        ".thm",
        ".txt",
        ".xml",
        ".xmp",
        ".zip",
    )
)
"""Extensions that programs put behind a photo's whole name (`IMG.jpg.xmp`, `IMG.jpg.json`).

Such a name is a final one: to park it as temporary would answer OK for a file that never comes to
Immich, where a refusal of its type tells the user at once.
"""

_ONE_DOT = "\u2024"
_REPLACEMENT = "\ufffd"

_LOOKALIKES = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT)
    | dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT)
    | {ord("/"): "\u2215", 0x2028: "\u2424", 0x2029: "\u2424"}
)
_UNSAFE = re.compile("[/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@frozen
class Entry:
    """One album or asset that wants a name in a folder.

    `id` is unique in the set; Immich's UUIDs, or a UUID with something behind it where one asset
    has two names.  `name` is the wanted name, as Immich or the overlay has it.  `created` (POSIX
    seconds) decides who keeps a name.  `pinned` is the name the entry was already shown under.
    `still` is, for the motion part of a live photo, the id of the entry of its still.
    """

    id: str
    name: str
    created: float
    pinned: str | None = None
    still: str | None = None


def safe(name: str, separator: str | None = None) -> str:
    """The name as it can be shown; `safe(safe(name)) == safe(name)`.

    With `separator` the name is a path of folders and each component is made safe by itself, see
    `parts`.

    ====================================  ==================================================
    in Immich                             shown as
    ====================================  ==================================================
    ``/`` (where it is no separator)      ``∕`` U+2215 DIVISION SLASH
    control characters U+0000 - U+001F    their pictures, U+2400 - U+241F (newline: ``␊``)
    DEL U+007F                            ``␡`` U+2421
    C1 controls U+0080 - U+009F           U+FFFD
    U+2028, U+2029 (line, paragraph)      ``␤`` U+2424
    lone surrogates                       U+FFFD
    ``.`` and ``..`` as the whole name    ``․`` and ``․․``, U+2024 ONE DOT LEADER
    nothing                               ``(unnamed)``
    over 255 bytes of UTF-8               cut between characters, before the extension
    ====================================  ==================================================

    Left alone: bidirectional and zero-width characters.  They cannot end a line, they are part of
    correct Arabic, Hebrew, Persian and emoji names, and WhatsApp and macOS write them.
    """
    if separator and separator in name:
        return separator.join(parts(name, separator))
    if _UNSAFE.search(name):
        name = name.translate(_LOOKALIKES)
    if name in (".", ".."):
        return _ONE_DOT * len(name)
    if not name:
        return UNNAMED
    return name if _size(name) <= MAX_NAME_BYTES else _extended(name, "")


def parts(name: str, separator: str | None) -> list[str]:
    """The folders that an album's name is a path of, each made safe.

    Without `separator` there is one.  A path over `MAX_FOLDER_PATH_BYTES` is one folder as well,
    its separators replaced by U+2215, for no client could open what lies at its end.
    """
    if separator and separator in name:
        path = [safe(part) for part in name.split(separator)]
        if _size(separator.join(path)) <= MAX_FOLDER_PATH_BYTES:
            return path
        name = name.replace(separator, "\u2215")
    return [safe(name)]


def fold(name: str, casefold: bool = False) -> str:
    """The key under which a name is compared and looked up: NFC, without case if wanted."""
    if name.isascii():
        return name.lower() if casefold else name
    if casefold:
        # Unicode's canonical caseless match (3.13, D145), its result composed again.
        name = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", name)


def assign(
    entries: Iterable[Entry],
    *,
    folders: bool = False,
    casefold: bool = False,
    separator: str | None = None,
    reserved: Collection[str] = frozenset(),
) -> dict[str, str]:
    """A unique name for each entry, by id; the same set gives the same names in any order.

    Of entries that want one name the one pinned to it keeps it, else the earliest `created`, else
    the smallest id.  Each other gets ` ~` and the first eight digits of its id, before the
    extension of a file or at the end of a folder's name; more digits where that name is some
    entry's own or given already.  So nobody loses a wanted name to a made one.  Nobody gets a
    name whose key (`fold`) is `reserved`.  Two entries of one id that differ raise ValueError, for
    one of them would be hidden.

    A motion part follows its still: where both want one name but for the extension and the still
    gets digits, the part gets the still's digits, so that the two stay together for programs that
    pair them by name.
    """
    known: dict[str, Entry] = {}
    own: dict[str, str] = {}
    for entry in set(entries):
        if entry.id in known:
            raise ValueError(f"two entries of the id {entry.id}")
        known[entry.id] = entry
        own[entry.id] = safe(entry.name if entry.pinned is None else entry.pinned, separator)
    losers, taken = _contest(known.values(), own, casefold, reserved)
    following = _following(known, own, {entry.id for entry in losers}, casefold)
    followers = {part.id for parts in following.values() for part in parts}
    if followers:
        rest = [entry for entry in known.values() if entry.id not in followers]
        losers, taken = _contest(rest, own, casefold, reserved)

    def give(group: Sequence[Entry], marks: Iterable[str]) -> bool:
        """One mark for all of a group; whether there was one that is free for all."""
        for digits in marks:
            made = {}
            for entry in group:
                head, slash, last = "", "", own[entry.id]
                if separator:
                    head, slash, last = last.rpartition(separator)
                shown = head + slash + _extended(last, f" ~{digits}", folder=folders)
                made[fold(shown, casefold)] = entry.id, shown
            if len(made) < len(group):
                return False  # cut to what fits they would be one name, whatever the mark
            if taken.isdisjoint(made):
                taken.update(made)
                own.update(made.values())
                return True
        return False

    for entry in sorted(losers, key=_rank):
        parts = following.pop(entry.id, [])
        if not give([entry, *parts], _marks(entry.id)):
            for one in (entry, *parts):
                give([one], _marks(one.id))
    # What is left follows a still that is shown with digits from before.
    for still_id in sorted(following):
        mark = _mark_of(known[still_id], own[still_id])
        for part in sorted(following[still_id], key=_rank):
            if mark is None or not give([part], [mark]):
                give([part], _marks(part.id))
    return own


def _contest(
    entries: Iterable[Entry], own: Mapping[str, str], casefold: bool, reserved: Collection[str]
) -> tuple[list[Entry], set[str]]:
    """Those that lose the name they want, and the keys of all names that are not free."""
    rivals: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        rivals[fold(own[entry.id], casefold)].append(entry)
    taken = {*rivals, *reserved}
    losers: list[Entry] = []
    for wanted, group in rivals.items():
        if wanted in reserved:
            losers += group
        elif len(group) > 1:
            losers += sorted(group, key=_rank)[1:]
    return losers, taken


def _following(
    known: Mapping[str, Entry], own: Mapping[str, str], losers: set[str], casefold: bool
) -> dict[str, list[Entry]]:
    """Motion parts that are to have the digits of their still, by the still; each name once."""
    following: dict[str, dict[str, Entry]] = {}
    for part in sorted(known.values(), key=_rank):
        still = known.get(part.still or "")
        if still is None or still.still is not None or part.pinned is not None:
            continue
        if still.id not in losers and _mark_of(still, own[still.id]) is None:
            continue
        if same_stem(part.name, still.name, casefold):
            following.setdefault(still.id, {}).setdefault(fold(own[part.id], casefold), part)
    return {still_id: list(parts.values()) for still_id, parts in following.items()}


def same_stem(one: str, other: str, casefold: bool = False) -> bool:
    """Whether two names are one but for their extensions."""
    first, second = (split_extension(safe(name))[0] for name in (one, other))
    return fold(first, casefold) == fold(second, casefold)


def _mark_of(entry: Entry, shown: str) -> str | None:
    """The digits that an entry is shown with though it does not want them."""
    stem = split_extension(shown)[0]
    wanted = split_extension(safe(entry.name))[0]
    if not stem.startswith(f"{wanted} ~"):
        return None
    return stem.removeprefix(f"{wanted} ~") or None


def marked(name: str, entry_id: str, taken: Callable[[str], bool]) -> str:
    """A file's name with the first mark of its id that gives one which is not `taken`."""
    for digits in _marks(entry_id):
        shown = _extended(name, f" ~{digits}")
        if not taken(shown):
            return shown
    raise AssertionError("there is always another mark")


def check_new(name: str) -> str:
    """The name to store for a file or folder that a client makes; raises BadName.

    What is refused is what `safe` would change, so a file always shows up under the name it was
    given; look-alikes are names like any other.  The form (NFC, NFD) is kept, unless only the
    composed one fits into 255 bytes.
    """
    if not name:
        raise BadName("A name cannot be empty.")
    if name in (".", ".."):
        raise BadName("This name is reserved.")
    if "/" in name:
        raise BadName("A name cannot hold a slash.")
    if _UNSAFE.search(name):
        raise BadName("A name cannot hold control characters or line breaks.")
    if _size(name) > MAX_NAME_BYTES:
        name = unicodedata.normalize("NFC", name)
        if _size(name) > MAX_NAME_BYTES:
            raise BadName(f"This name is too long ({MAX_NAME_BYTES} bytes of UTF-8 at most).")
    return name


def split_extension(name: str) -> tuple[str, str]:
    """The name without its last extension, and that with its dot; both joined are the name.

    A dot file has no extension (`.jpg`) unless it has a second dot (`.foo.jpg`); a dot at the end
    begins none.
    """
    dot = name.rfind(".")
    if dot in (-1, len(name) - 1) or not name[:dot].strip("."):
        return name, ""
    return name[:dot], name[dot:]


def is_temporary(name: str, patterns: Sequence[str], takes: Callable[[str], bool]) -> bool:
    """Whether a client is going to rename what it writes under this name (BEHAVIOUR, section 5).

    So it is if the name matches one of `patterns` in any case, or if its last extension is none
    that Immich `takes` while the name without it ends in one that it takes.  In a pattern `*`
    and `[…]` mean what a shell means, and `?` is any character but a dot, for else `sed??????`
    would hold back a photo named `sed01.jpg`.
    """
    if patterns and _pattern(tuple(patterns)).match(name):
        return True
    stem, last = split_extension(name)
    if not last or takes(last) or last.lower() in COMPANIONS:
        return False
    inner = split_extension(stem)[1]
    return bool(inner) and takes(inner)


def media_extension(name: str, takes: Callable[[str], bool]) -> str:
    """The extension that tells the type, also behind a temporary name; empty if none does.

    `IMG.jpg` and `IMG.jpg.8f2c.partial` are both `.jpg`.
    """
    while True:
        stem, extension = split_extension(name)
        if takes(extension) or not extension:
            return extension if takes(extension) else ""
        name = stem


@lru_cache(maxsize=16)
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns; there are as many lists as settings and tests."""
    shells = (
        re.sub(r"\[!?\]?[^]]*\]|\?", lambda hit: "[!.]" if hit[0] == "?" else hit[0], pattern)
        for pattern in patterns
    )
    return re.compile("|".join(translate(shell) for shell in shells), re.IGNORECASE)


def _rank(entry: Entry) -> tuple[bool, float, str]:
    """Who comes first for a name: what was shown under it, then the earlier one."""
    return entry.pinned is None, entry.created, entry.id


def _marks(entry_id: str) -> Iterator[str]:
    """Ever longer marks for an entry: digits of its id, then all of them and a count."""
    digits = "".join(char for char in entry_id if char.isascii() and char.isalnum())
    digits = digits[:MAX_ID_DIGITS]
    length = ID_DIGITS
    while digits:
        yield digits[:length]
        if length >= len(digits):
            break
        length += ID_DIGITS_STEP
    count = 2
    while True:
        yield f"{digits}-{count}"
        count += 1


def _size(name: str) -> int:
    """Bytes of UTF-8; lone surrogates count as the three bytes of what replaces them."""
    return len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))


def _extended(name: str, mark: str, folder: bool = False) -> str:
    """`name` with a mark before its extension, cut so that all of it fits into one name."""
    stem, extension = (name, "") if folder else split_extension(name)
    if _size(extension) > MAX_EXTENSION_BYTES:
        stem, extension = name, ""
    room = MAX_NAME_BYTES - _size(mark) - _size(extension)
    if _size(stem) > room:
        stem = stem.encode()[:room].decode(errors="ignore")
    return stem + mark + extension
