"""Store series in an archive; images that it accepted are not sent again."""

import pytest
from refusal import refused

from medgen.pacs.server import HAD
from medgen.pacs.store import Storage


class Fake:
    name = "fake"

    def __init__(self):
        self.got, self.cut, self.outcomes = [], None, {}

    def store(self, files):
        for file in files:
            if self.cut == 0:
                self.cut = None
                raise ConnectionError("lost")
            if self.cut is not None:
                self.cut -= 1
            reason, is_stored = self.outcomes.get(file.name, ("", True))
            if is_stored:
                self.got.append((file.name, file.read_bytes()))
            yield file, reason, is_stored


@pytest.fixture
def series(tmp_path):
    (tmp_path / "case").mkdir()
    for n in range(5):
        (tmp_path / f"case/{n:05}.dcm").write_bytes(bytes([n]))
    return tmp_path / "case"


def test_accepted_images_are_not_sent_again_after_an_interruption(series, tmp_path):
    server = Fake()
    server.cut = 2
    server.outcomes = {"00002.dcm": ("refuses it (status C000)", False)}
    with refused("pacs-images-refused", names=("00002.dcm", "1 of 5")):
        Storage(server, tmp_path, pauses=()).store(series)
    assert len(server.got) == 4
    with open(tmp_path / "stored.jsonl", "ab") as record:
        record.write(b'{"server": "fake", "sha2')  # incomplete: the process was killed
    server.outcomes = {"00002.dcm": ("stored it changed or in part (warning B000)", True)}
    result = Storage(server, tmp_path, pauses=()).store(series)
    assert (result.images, result.sent) == (5, 1) and "warning B000" in result.remarks[0]
    assert Storage(server, tmp_path, pauses=()).store(series).sent == 0
    assert sorted(name for name, _ in server.got) == [f"{n:05}.dcm" for n in range(5)]
    other = Fake()
    other.name = "other"
    assert Storage(other, tmp_path, pauses=()).store(series).sent == 5


def test_another_content_is_another_series(series, tmp_path):
    server = Fake()
    Storage(server, tmp_path).store(series)
    (series / "00003.dcm").write_bytes(b"new")
    assert Storage(server, tmp_path).store(series).sent == 5
    assert server.got[-2:] == [("00003.dcm", b"new"), ("00004.dcm", b"\4")]


def test_unreachable_server_is_retried_only_for_the_first_series(series, tmp_path):
    class Away(Fake):
        asked = 0

        def store(self, files):
            self.asked += 1
            raise ConnectionError("fake cannot be reached")
            yield

    server = Away()
    storage = Storage(server, tmp_path, pauses=(0, 0))
    for asked in (3, 4):  # no retries for the second series
        with refused("pacs-images-not-stored", names="5 of 5"):
            storage.store(series)
        assert server.asked == asked
    assert not (tmp_path / "stored.jsonl").exists()


def test_non_series_is_refused_and_a_damaged_record_is_ignored(series, tmp_path):
    (tmp_path / "stored.jsonl").write_bytes(b'\xff\n[]\n{"server": 1, "sha256": 2, "images": 3}\n')
    storage = Storage(Fake(), tmp_path)
    with refused("pacs-not-dicom-series"):
        storage.store(tmp_path / "case.nii.gz")
    assert storage.store(series).sent == 5


def test_archive_with_an_image_of_other_settings_is_reported(series, tmp_path):
    """UIDs depend on source and model only; images of a run with another --memory-gb have the same UIDs."""
    server = Fake()
    server.outcomes = {"00001.dcm": (HAD, True)}
    assert Storage(server, tmp_path).store(series).remarks  # stored by a run whose record was lost
    (series / "00001.dcm").write_bytes(b"other")
    server.outcomes = {f"{n:05}.dcm": (HAD, True) for n in range(5)}
    with refused("pacs-images-refused", names=("UID", "5 of 5")):
        Storage(server, tmp_path).store(series)
