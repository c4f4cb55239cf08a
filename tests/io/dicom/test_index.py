import os
import sqlite3
from pathlib import Path

import pydicom
import pytest
from dicom_series import stored, write_ct, write_enhanced_ct
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from refusal import refused

from medgen.io.dicom import header as dicom_header
from medgen.io.dicom.elements import plain
from medgen.io.dicom.header import TAGS, read_header, shared
from medgen.io.dicom.index import indexed
from medgen.io.dicom.series import list_series


@pytest.fixture
def studies(tmp_path):
    write_ct(tmp_path / "in/a", stored(4), SeriesDescription="Thorax ä", SpecificCharacterSet="ISO_IR 100")
    write_ct(tmp_path / "in/b/c", stored(3))
    write_enhanced_ct(tmp_path / "in/b/e.dcm", stored(4))
    (tmp_path / "in/notes.txt").write_text("not DICOM")
    return tmp_path / "in"


def test_only_new_or_changed_files_are_read_again(studies, tmp_path):
    database = tmp_path / "out/index.sqlite"
    first = indexed(studies, database)
    assert (first.read, len(first.images)) == (9, 8)
    again = indexed(studies, database)
    assert again.read == 0 and again.images == first.images
    write_ct(studies / "a", stored(5))  # changes four, adds one
    (studies / "b/c/001.dcm").unlink()
    third = indexed(studies, database)
    assert third.read == 5 and len(third.images) == 8
    assert third.images == indexed(studies).images  # equals the result without an index
    assert indexed(studies, database).read == 0


def test_a_file_of_another_time_is_read_again(studies, tmp_path):
    indexed(studies, tmp_path / "i")
    os.utime(studies / "a/000.dcm", (1, 1))
    assert indexed(studies, tmp_path / "i").read == 1


def test_rewritten_file_of_same_size_and_time_is_read_again(studies, tmp_path):
    """Two slices of one size swap names, as after unpacking an archive that keeps times."""
    first, second = studies / "a/000.dcm", studies / "a/001.dcm"
    for path in (first, second):
        os.utime(path, (1, 1))
    places = {p: h["ImagePositionPatient"] for p, h in indexed(studies, tmp_path / "i").images if p.parent.name == "a"}
    contents = first.read_bytes(), second.read_bytes()
    assert len(contents[0]) == len(contents[1])
    for path, content in zip((second, first), contents, strict=True):
        path.write_bytes(content)
        os.utime(path, (1, 1))
    again = indexed(studies, tmp_path / "i")
    assert again.read == 2 and dict(again.images)[first]["ImagePositionPatient"] == places[second] != places[first]


def test_equal_header_values_are_shared_and_unchanged(studies, tmp_path):
    for _ in range(2):  # from the files, then from the database
        images = dict(indexed(studies, tmp_path / "i").images)
        assert all(repr(header) == repr(read_header(path)) for path, header in images.items())
        one, other = images[studies / "a/000.dcm"], images[studies / "b/c/001.dcm"]
        assert one["PixelSpacing"] is other["PixelSpacing"] and one["PatientID"] is other["PatientID"]
        frames = images[studies / "b/e.dcm"]["frames"]
        assert frames[0]["ImageOrientationPatient"] is frames[1]["ImageOrientationPatient"]
    assert repr(shared({"a": 1.0, "b": [1, 2]}, known := {}) | shared({"c": 1, "d": [1.0, 2.0]}, known)) == (
        "{'a': 1.0, 'b': [1, 2], 'c': 1, 'd': [1.0, 2.0]}"
    )


@pytest.mark.parametrize("spoil", ["damaged", "of another folder", "of another version"])
def test_unsuitable_index_is_rebuilt(studies, tmp_path, spoil):
    database = tmp_path / "i"
    indexed(studies, database)
    if spoil == "damaged":
        database.write_bytes(b"SQLite format 3\0 but no more" * 50)
    else:
        column = "folder" if spoil == "of another folder" else "version"
        with sqlite3.connect(database) as connection:
            connection.execute(f"UPDATE about SET {column} = 'x'")
        connection.close()
    assert indexed(studies, database).read == 9
    assert indexed(studies, database).read == 0


def test_a_broken_file_is_a_fault_and_nothing_is_kept_of_a_folder_without_dicom(studies, tmp_path):
    (studies / "a/002.dcm").write_bytes(b"")
    for _ in range(2):
        found = indexed(studies, tmp_path / "i")
        assert list(found.faults) == [studies / "a/002.dcm"] and len(found.images) == 7
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.txt").write_text("x")
    assert indexed(tmp_path / "empty", tmp_path / "none").read == 1 and not (tmp_path / "none").exists()
    with refused("dicom-folder-not-indexed"):
        indexed(studies, tmp_path / "empty/a.txt/i")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, None])
def test_fast_header_reader_equals_pydicom(studies, syntax):

    for path in (studies / "a/000.dcm", studies / "b/e.dcm"):
        if syntax is not None:
            ds = pydicom.dcmread(path)
            ds.file_meta.TransferSyntaxUID = syntax
            ds.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        expected = plain(pydicom.dcmread(path), TAGS)
        assert {k: v for k, v in read_header(path).items() if k not in ("frames", "others")} == expected
    assert list_series(studies / "a")[0].description == "Thorax ä"


@pytest.mark.parametrize(
    "ending, code", [("", "dicom-lost-slice"), (".dcm", "dicom-unreadable"), (".17", "dicom-lost-slice")]
)
@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_empty_file_named_like_the_slices_is_a_lost_slice(tmp_path, ending, code, content):
    write_ct(tmp_path / "in", stored(4))
    for path in (tmp_path / "in").iterdir():
        path.rename(path.with_suffix(ending))
    for other in ("in/notes.txt", "notes" + ending * (ending != ".dcm")):
        (tmp_path / other).touch()
    lost = tmp_path / f"in/003{ending}"
    lost.write_bytes(content)
    for _ in range(2):
        found = indexed(tmp_path, tmp_path / "i/i.sqlite")
        assert list(found.faults) == [lost] and len(found.images) == 3
    with refused(code, names=f"003{ending}"):
        list_series(tmp_path / "in")


def test_names_of_another_encoding_are_indexed(tmp_path):
    """Names in Latin-1, as in old Windows exports, are not UTF-8, so SQLite does not accept them as text."""
    write_ct(tmp_path / "x", stored(3))
    folder = os.fsencode(tmp_path / "in") + b"/M\xfcller"
    os.renames(os.fsencode(tmp_path / "x"), folder)
    os.rename(folder + b"/000.dcm", folder + b"/\xe4.dcm")
    with open(folder + b"/\xf6.dcm", "wb") as file:
        file.write(b"no DICOM")
    for read in (4, 0):
        found = indexed(Path(os.fsdecode(folder)).parent, tmp_path / "i")
        assert (found.read, len(found.images), len(found.faults)) == (read, 3, 1)
        assert "\\udcf6.dcm is not a readable DICOM file" in next(iter(found.faults.values()))
    os.remove(folder + b"/\xe4.dcm")
    assert len(indexed(Path(os.fsdecode(folder)).parent, tmp_path / "i").images) == 2


def test_an_unreadable_subfolder_is_one_fault(studies, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(place):
        if Path(place).name == "c":
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    found = indexed(studies, tmp_path / "i")
    assert len(found.images) == 5 and list(found.faults) == [studies / "b/c"]
    assert "b/c cannot be read (Permission denied)" in found.faults[studies / "b/c"]
    (studies / "b/e.dcm").unlink()
    with refused("folder-unlistable", names="b/c"):
        list_series(studies / "b")
    monkeypatch.undo()
    assert len(indexed(studies, tmp_path / "i").images) == 7


def test_read_failure_is_not_cached(studies, tmp_path, monkeypatch):
    def failing(path, *args):
        if Path(path).name == "001.dcm":
            raise PermissionError(13, "Permission denied")
        return open(path, *args)

    monkeypatch.setattr(dicom_header, "open", failing, raising=False)
    found = indexed(studies, tmp_path / "i")
    assert len(found.images) == 6 and len(found.faults) == 2
    monkeypatch.undo()  # like chmod: neither size nor time of the files changes
    again = indexed(studies, tmp_path / "i")
    assert len(again.images) == 8 and not again.faults and again.read == 2


@pytest.mark.parametrize("inside", [False, True])
def test_links_to_folders_are_followed_once_and_loops_are_not(tmp_path, inside):
    store = tmp_path / "in/z_store" if inside else tmp_path / "store"
    for name in "ab":
        write_ct(store / name, stored(4, 6, 6))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"link_{name}").symlink_to(store / name)
    (tmp_path / "in/again").symlink_to(store / "a")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/above").symlink_to(tmp_path)
    found = indexed(tmp_path / "in")
    assert len(found.images) == 8 and not found.faults
    folders = {path.parent.relative_to(tmp_path / "in").as_posix() for path, _ in found.images}
    assert folders == ({"z_store/a", "z_store/b"} if inside else {"again", "link_b"})
    assert sum(len(series.files) for series in list_series(tmp_path / "in")) == 8


def test_broken_link_to_a_slice_is_an_error(tmp_path):
    write_ct(tmp_path / "a", stored(4, 6, 6))
    (tmp_path / "a/003.dcm").unlink()
    (tmp_path / "a/003.dcm").symlink_to(tmp_path / "annex/nothing")
    assert "is a link to a missing file" in indexed(tmp_path).faults[tmp_path / "a/003.dcm"]
    with refused("file-dangling-link"):
        list_series(tmp_path / "a")


def test_the_database_has_the_permissions_of_the_umask(tmp_path):
    write_ct(tmp_path / "in", stored(3, 8, 9))
    before = os.umask(0o002)
    try:
        indexed(tmp_path / "in", tmp_path / "index.sqlite")
    finally:
        os.umask(before)
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o777 == 0o664
