"""Names: every album and asset has one of its own, and it is safe in a path and in a line."""

from __future__ import annotations

import unicodedata
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from immich_conch.errors import BadName
from immich_conch.library import names
from immich_conch.library.names import Entry, assign, check_new, fold, is_temporary, parts, safe

TAKEN = frozenset((".jpg", ".jpeg", ".heic", ".dng", ".mov", ".mp4", ".png"))


def takes(extension: str) -> bool:
    return extension.lower() in TAKEN


# Few letters and few ids, so that names and marks really collide.
tricky = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(), max_size=400),
    st.text("aA./\n\x85\u2028e\u0301é~ 0123", max_size=14),
    st.sampled_from(["", ".", "..", "a.jpg", "A.jpg", "a ~00000000.jpg", "\ud800", "a" * 300]),
    st.builds(lambda stem, ext: stem * 60 + ext, st.text(min_size=1), st.text("ab.", max_size=40)),
)
ids = st.builds(
    lambda number: str(UUID(int=number)),
    st.one_of(st.integers(0, 40), st.integers(0, 40).map(lambda n: n << 96)),
)
entries = st.lists(
    st.builds(
        Entry,
        id=ids,
        name=tricky,
        created=st.integers(0, 3).map(float),
        pinned=st.one_of(st.none(), st.none(), tricky),
    ),
    unique_by=lambda entry: entry.id,
    max_size=12,
)


def identity(number: int) -> str:
    return str(UUID(int=number << 96))


@given(tricky, st.sampled_from([None, "/"]))
@example("a/./../b", "/")
@example("/" * 3000, "/")
def test_a_safe_name_is_a_fixed_point(name: str, separator: str | None) -> None:
    shown = safe(name, separator)
    assert safe(shown, separator) == shown
    assert safe(name, separator) == shown


@given(tricky)
def test_a_safe_name_fits_a_path_and_a_line(name: str) -> None:
    shown = safe(name)
    assert shown not in ("", ".", "..")
    assert "/" not in shown
    assert len(shown.splitlines()) == 1
    assert 0 < len(shown.encode()) <= 255
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)


@given(tricky)
def test_what_a_client_may_create_is_shown_as_it_was_given(name: str) -> None:
    try:
        stored = check_new(name)
    except BadName:
        assert safe(name) != name
    else:
        assert safe(stored) == stored
        assert fold(stored) == fold(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("IMG 1.jpg", "IMG 1.jpg"),
        ("Trips/Rome", "Trips∕Rome"),
        ("a\nb", "a␊b"),
        ("a\x00\x7f\x85", "a␀␡\ufffd"),
        ("a\u2028b", "a␤b"),
        ("\ud83d", "\ufffd"),
        (".", "․"),
        ("..", "․․"),
        ("...", "..."),
        ("", "(unnamed)"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("é" * 200 + ".jpg", "é" * 125 + ".jpg"),
        ("a." + "x" * 300, "a." + "x" * 253),
        ("\u202eIMG\u200d", "\u202eIMG\u200d"),
    ],
)
def test_unsafe_names_are_shown_by_look_alikes(name: str, shown: str) -> None:
    assert safe(name) == shown


def test_a_nested_album_keeps_its_slashes_and_each_part_is_safe() -> None:
    assert safe("Trips/../Rome\n", "/") == "Trips/․․/Rome␊"
    assert safe("/Trips//Rome", "/") == "(unnamed)/Trips/(unnamed)/Rome"


def test_a_path_too_deep_for_any_client_becomes_one_folder() -> None:
    shown = safe("a/" * 3000, "/")
    assert "/" not in shown
    assert shown.startswith("a∕a∕")


@given(entries, st.booleans(), st.booleans(), st.sampled_from([None, "/", " - "]), st.randoms())
def test_the_same_set_gives_the_same_unique_names_in_any_order(
    given_entries: list[Entry], folders: bool, casefold: bool, separator: str | None, rng: object
) -> None:
    shown = assign(given_entries, folders=folders, casefold=casefold, separator=separator)
    assert set(shown) == {entry.id for entry in given_entries}
    keys = {fold(name, casefold) for name in shown.values()}
    assert len(keys) == len(given_entries)
    for name in shown.values():
        assert safe(name, separator) == name
        assert all(0 < len(part.encode()) <= 255 for part in name.split("/"))
    shuffled = list(given_entries)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert shown == assign(shuffled, folders=folders, casefold=casefold, separator=separator)


@given(entries, st.sets(tricky), st.booleans(), st.sampled_from([None, "/"]))
def test_nobody_gets_a_reserved_name(
    given_entries: list[Entry], taken: set[str], casefold: bool, separator: str | None
) -> None:
    reserved = {fold(safe(name, separator), casefold) for name in taken}
    shown = assign(given_entries, casefold=casefold, separator=separator, reserved=reserved)
    keys = {fold(name, casefold) for name in shown.values()}
    assert len(keys) == len(given_entries)
    assert not keys & reserved


def test_a_file_called_like_a_folder_beside_it_gets_digits_of_its_id() -> None:
    one = Entry(identity(1), "Rome.jpg", 1.0)
    assert assign([one], reserved={"Rome.jpg"}) == {one.id: "Rome ~00000001.jpg"}


def test_an_albums_name_falls_into_folders_where_it_can_be_opened() -> None:
    assert parts("Trips/../Rome", "/") == ["Trips", "․․", "Rome"]
    assert parts("Trips - Rome/Oslo", " - ") == ["Trips", "Rome∕Oslo"]
    assert parts("Trips/Rome", None) == parts("Trips/Rome", "") == ["Trips∕Rome"]
    [whole] = parts("a - " * 3000, " - ")
    assert " - " not in whole


@given(entries, st.booleans())
def test_whoever_alone_wants_a_name_has_it(given_entries: list[Entry], casefold: bool) -> None:
    shown = assign(given_entries, casefold=casefold)
    wanted = {
        entry.id: safe(entry.name if entry.pinned is None else entry.pinned)
        for entry in given_entries
    }
    keys = [fold(name, casefold) for name in wanted.values()]
    for entry_id, name in wanted.items():
        if keys.count(fold(name, casefold)) == 1:
            assert shown[entry_id] == name


@given(entries, st.text(max_size=6))
def test_a_later_arrival_renames_nobody_who_wants_that_name(
    given_entries: list[Entry], name: str
) -> None:
    before = [Entry(entry.id, name, entry.created) for entry in given_entries]
    late = Entry(str(UUID(int=2**128 - 1)), name, 9.0)
    shown = assign(before)
    after = assign([*before, late])
    assert {entry_id: after[entry_id] for entry_id in shown} == shown


def test_the_earlier_photo_keeps_its_name_and_the_later_gets_digits_of_its_id() -> None:
    early = Entry("ffffffff-0000-4000-8000-000000000000", "IMG.jpg", 1.0)
    late = Entry("0123abcd-0000-4000-8000-000000000000", "IMG.jpg", 2.0)
    assert assign([late, early]) == {early.id: "IMG.jpg", late.id: "IMG ~0123abcd.jpg"}
    assert assign([late, early], folders=True)[late.id] == "IMG.jpg ~0123abcd"


def test_nested_albums_of_one_name_differ_in_their_last_folder() -> None:
    first, second = Entry(identity(1), "Trips/Rome", 1.0), Entry(identity(2), "Trips/Rome", 2.0)
    shown = assign([first, second], folders=True, separator="/")
    assert shown[second.id] == "Trips/Rome ~00000002"


def test_composed_and_decomposed_forms_are_one_name_and_keep_their_form() -> None:
    first, second = Entry(identity(1), "e\u0301.jpg", 1.0), Entry(identity(2), "é.jpg", 2.0)
    assert assign([first, second]) == {first.id: "e\u0301.jpg", second.id: "é ~00000002.jpg"}
    assert fold("e\u0301.jpg") == fold("é.jpg")


def test_case_tells_names_apart_unless_the_server_is_for_windows() -> None:
    first, second = Entry(identity(1), "STRASSE.jpg", 1.0), Entry(identity(2), "straße.JPG", 2.0)
    assert set(assign([first, second]).values()) == {"STRASSE.jpg", "straße.JPG"}
    assert assign([first, second], casefold=True)[second.id] == "straße ~00000002.JPG"


def test_a_made_name_takes_nobodys_own() -> None:
    first, second = Entry(identity(1), "IMG.jpg", 1.0), Entry(identity(2), "IMG.jpg", 2.0)
    rightful = Entry(identity(3), "IMG ~00000002.jpg", 9.0)
    shown = assign([first, second, rightful])
    assert shown[rightful.id] == "IMG ~00000002.jpg"
    assert shown[second.id] == "IMG ~000000020000.jpg"


def test_ids_that_begin_alike_get_more_digits() -> None:
    alike = [Entry(f"00000000-0000-4000-8000-00000000000{n}", "a.jpg", float(n)) for n in range(4)]
    assert list(assign(alike).values()).count("a.jpg") == 1
    assert len(set(assign(alike).values())) == 4


def test_names_stay_unique_even_where_every_mark_is_some_entrys_own_name() -> None:
    first, second = Entry(identity(1), "a", 1.0), Entry(identity(2), "a", 2.0)
    digits = second.id.replace("-", "")
    squatters = [
        Entry(identity(10 + length), f"a ~{digits[:length]}", 3.0) for length in range(1, 33)
    ]
    shown = assign([first, second, *squatters])
    assert shown[second.id] == f"a ~{digits}-2"
    assert len(set(shown.values())) == len(shown)


def test_a_pinned_name_stays_when_the_rightful_owner_is_gone() -> None:
    kept = Entry(identity(2), "IMG.jpg", 2.0, pinned="IMG ~00000002.jpg")
    assert assign([kept]) == {kept.id: "IMG ~00000002.jpg"}


def test_a_pinned_name_stays_when_an_older_photo_of_that_name_moves_in() -> None:
    shown_before = Entry(identity(2), "IMG.jpg", 2.0, pinned="IMG.jpg")
    newcomer = Entry(identity(1), "IMG.jpg", 1.0)
    shown = assign([newcomer, shown_before])
    assert shown == {newcomer.id: "IMG ~00000001.jpg", shown_before.id: "IMG.jpg"}


def test_two_names_of_one_asset_can_both_be_shown() -> None:
    asset = identity(7)
    shown = assign([Entry(asset, "a.jpg", 1.0), Entry(f"{asset}#1", "a.jpg", 1.0)])
    assert shown == {asset: "a.jpg", f"{asset}#1": "a ~00000007.jpg"}


def test_an_entry_listed_twice_is_one_entry() -> None:
    twice = Entry(identity(1), "a.jpg", 1.0)
    assert assign([twice, twice]) == {twice.id: "a.jpg"}


def test_two_different_entries_of_one_id_are_an_error_not_a_hidden_file() -> None:
    with pytest.raises(ValueError, match="two entries"):
        assign([Entry("1", "a", 1.0), Entry("1", "b", 1.0)])


@pytest.mark.parametrize("entry_id", ["", "---", "ab", "x" * 400])
def test_any_id_makes_a_mark(entry_id: str) -> None:
    shown = assign([Entry("0", "a" * 300, 1.0), Entry(entry_id, "a" * 300, 2.0)])
    assert len(set(shown.values())) == 2
    assert all(len(name) <= 255 for name in shown.values())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "a\0", "\x85", "\ud800", "é" * 128])
def test_a_client_cannot_create_what_cannot_be_shown(name: str) -> None:
    with pytest.raises(BadName):
        check_new(name)


def test_a_client_may_send_look_alikes_and_long_decomposed_names() -> None:
    assert check_new("a∕b␊․") == "a∕b␊․"
    assert check_new("e\u0301.jpg") == "e\u0301.jpg"
    assert check_new("e\u0301" * 100) == "é" * 100


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        ("IMG.jpg", "IMG", ".jpg"),
        ("a.tar.gz", "a.tar", ".gz"),
        (".jpg", ".jpg", ""),
        (".foo.jpg", ".foo", ".jpg"),
        ("..jpg", "..jpg", ""),
        ("IMG", "IMG", ""),
        ("IMG.", "IMG.", ""),
        ("", "", ""),
    ],
)
def test_extensions(name: str, stem: str, extension: str) -> None:
    assert names.split_extension(name) == (stem, extension)


@given(tricky)
def test_stem_and_extension_make_up_the_name(name: str) -> None:
    assert "".join(names.split_extension(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("IMG.jpg.8f2c01ab.partial", id="rclone 1.75"),
        pytest.param("IMG.jpg.filepart", id="WinSCP"),
        pytest.param("IMG.JPG.FILEPART", id="WinSCP, upper case"),
        pytest.param("IMG.jpg.part", id="KIO"),
        pytest.param(".giosaveAB12cd", id="gvfs"),
        pytest.param(".fuse_hidden0000000300000001", id="libfuse"),
        pytest.param(".IMG.jpg.Ab3dEf", id="rsync over sshfs"),
        pytest.param(".in.IMG.jpg", id="lftp with use-temp-file"),
        pytest.param(".in.IMG.jpg.", id="lftp with use-temp-file and a dot"),
        pytest.param("sedaB3x9Z", id="sed -i"),
        pytest.param("IMG.jpg.tacitpart", id="FolderSync"),
        pytest.param("IMG.jpg.tmp", id="tmp"),
        pytest.param("IMG.temp", id="temp"),
        pytest.param("VID.mp4.crdownload", id="Chromium"),
    ],
)
def test_the_names_clients_write_under_before_they_rename_are_temporary(name: str) -> None:
    assert is_temporary(name, names.DEFAULT_TEMPORARY, takes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("IMG.jpg", id="most clients"),
        pytest.param("IMG.HEIC", id="upper case"),
        pytest.param(".IMG.jpg", id="dot file"),
        pytest.param("IMG.part.jpg", id="part in the middle"),
        pytest.param("IMG.jpg.mov", id="two media extensions"),
        pytest.param("sed01.jpg", id="a photo that looks like sed's"),
        pytest.param("sedan_2024.jpg", id="a car"),
        pytest.param("partial.jpg", id="partial"),
        pytest.param("IMG.jpg.xmp", id="sidecar"),
        pytest.param("IMG.jpg.json", id="Takeout"),
        pytest.param("notes.txt", id="not a medium"),
        pytest.param("IMG", id="no extension"),
        pytest.param(".jpg", id="only an extension"),
        pytest.param("IMG.jpg-1b4e28ba-2fa1-11d2-883f-0016d3cca427", id="Cyberduck"),
    ],
)
def test_final_names_are_not_temporary(name: str) -> None:
    assert not is_temporary(name, names.DEFAULT_TEMPORARY, takes)


def test_the_list_of_temporary_names_is_the_administrators() -> None:
    assert is_temporary("up-1.jpg", ["UP-[0-9?].*"], takes)
    assert is_temporary("up-?.jpg", ["UP-[0-9?].*"], takes)
    assert not is_temporary("up-x.jpg", ["UP-[0-9?].*"], takes)
    assert not is_temporary("IMG.part", [], takes)


# -- live photos ----------------------------------------------------------------------------------

#: Stills and their parts, of few names; a part may name any entry, also one that is none's still.
pairs = st.lists(
    st.builds(
        Entry,
        id=st.integers(0, 7).map(identity),
        name=st.sampled_from(["a.heic", "a.mov", "b.heic", "b.mov", "a ~00000001.mov", "a" * 300]),
        created=st.integers(0, 3).map(float),
        pinned=st.sampled_from([None, None, None, "a.mov", "a ~00000003.heic", "b.heic"]),
        still=st.one_of(st.none(), st.integers(0, 9).map(identity)),
    ),
    unique_by=lambda entry: entry.id,
    max_size=8,
)


@given(pairs, st.booleans(), st.randoms())
def test_live_photos_have_unique_names_in_any_order(
    given_entries: list[Entry], casefold: bool, rng: object
) -> None:
    shown = assign(given_entries, casefold=casefold)
    assert set(shown) == {entry.id for entry in given_entries}
    assert len({fold(name, casefold) for name in shown.values()}) == len(given_entries)
    assert all(safe(name) == name for name in shown.values())
    shuffled = list(given_entries)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert shown == assign(shuffled, casefold=casefold)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 3)), max_size=6
    )
)
def test_a_part_has_the_digits_of_its_still(live: list[tuple[str, int, int]]) -> None:
    given_entries = []
    for number, (stem, taken, uploaded) in enumerate(live):
        still_id, part_id = identity(number + 1), identity(number + 101)
        given_entries.append(Entry(still_id, f"{stem}.heic", taken))
        given_entries.append(Entry(part_id, f"{stem}.mov", uploaded, still=still_id))
    shown = assign(given_entries)
    for number in range(len(live)):
        name = shown[identity(number + 1)]
        if name not in ("a.heic", "b.heic"):
            assert shown[identity(number + 101)] == name.replace(".heic", ".mov")


def test_a_part_follows_a_still_that_was_shown_with_digits_before() -> None:
    still = Entry(identity(1), "a.heic", 2.0, pinned="a ~00000001.heic")
    part = Entry(identity(2), "a.mov", 1.0, still=still.id)
    assert assign([still, part])[part.id] == "a ~00000001.mov"
    # What it was shown as itself comes first, and so does a name of its own.
    assert assign([still, Entry(part.id, "a.mov", 1.0, "a.mov", still.id)])[part.id] == "a.mov"
    assert assign([still, Entry(part.id, "clip.mov", 1.0, None, still.id)])[part.id] == "clip.mov"
