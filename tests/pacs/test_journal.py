# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import time

import pytest

from pacs.errors import ClassMismatchError, ConformanceError, IndexUnavailableError, PacsError
from pacs.importer import import_files
from pacs.index import Location
from pacs.journal import Journal
from pacs.receive import receive_dataset, receive_part10, recover
from pacs.retrieve import InstanceReader
from storage.errors import ChecksumError, MissingFileError, StoreFullError, StoreUnavailableError
from storage.filesystem import open_store
from tests.support.dicom_objects import CT, make_ct, part10
from tests.support.fake_index import FakeIndex
from tests.support.index_engine import sqlite_index


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


@pytest.fixture
def index(tmp_path):
    with sqlite_index(tmp_path / "index.sqlite") as made:
        yield made


def files(journal):
    return sorted(
        path.name for path in journal.folder.rglob("*") if path.is_file() and path.suffix in (".dcm", ".part")
    )


def receive(ds, index, journal):
    return receive_part10(part10(ds), index=index, journal=journal, source="A", name="it")


def test_what_is_received_comes_back_byte_for_byte(index, journal, tmp_path):
    sent = part10(make_ct(1))
    assert receive_part10(sent, index=index, journal=journal, source="A", name="it") == "added"
    (record,) = index.instances(patient_id="P1")
    reader = InstanceReader(open_store(str(tmp_path / "store")), journal)
    assert reader.open_bytes(record.location) == sent
    pixels = reader.read_range(record.location, record.location.pixel_offset, 512)
    assert pixels == make_ct(1).PixelData
    with pytest.raises(ValueError, match="outside an instance"):
        reader.read_range(record.location, record.location.pixel_offset, 513)


def test_a_data_set_from_the_network_gets_file_meta_information(index, journal):
    sent = part10(make_ct(1))
    dataset = sent[sent.index(b"\x08\x00\x05\x00CS") :]
    uids = {"sop_class_uid": CT, "sop_instance_uid": make_ct(1).SOPInstanceUID}
    receive_dataset(dataset, "1.2.840.10008.1.2.1", index=index, journal=journal, source="A", **uids)
    assert receive_part10(sent, index=index, journal=journal, source="A", name="it") == "identical"
    (record,) = index.instances(patient_id="P1")
    stored = journal.read_all(record.location.path)
    assert stored.endswith(dataset)
    assert stored[record.location.pixel_offset :][:512] == make_ct(1).PixelData
    assert len(files(journal)) == 1
    with pytest.raises(ClassMismatchError, match="SOP instance is"):
        receive_dataset(
            dataset, "1.2.840.10008.1.2.1", index=index, journal=journal, source="A", sop_class_uid=CT,
            sop_instance_uid="1.2.3",
        )  # fmt: skip


def test_other_bytes_under_a_known_uid_are_kept_beside_it(index, journal):
    receive(make_ct(1), index, journal)
    assert receive(make_ct(1, PatientComments="other"), index, journal) == "version"
    assert receive(make_ct(1), index, journal) == "identical"
    assert len(files(journal)) == 2


@pytest.mark.parametrize("kept", ["fake", "sqlite"])
def test_a_crash_between_file_and_row_is_recovered(kept, index, journal):
    if kept == "fake":
        index = FakeIndex()
    receive(make_ct(1), index, journal)
    journal.append([part10(make_ct(2))])  # written, not registered
    journal.append([part10(make_ct(1))])  # a resend of a known one, not registered
    journal.append([b"not DICOM"])
    found = recover(index, journal)
    assert (found.registered, found.removed, found.unreadable) == (1, 1, 1)
    assert len(index.instances(patient_id="P1")) == 2
    assert len(files(journal)) == 3
    again = recover(index, journal)
    assert (again.registered, again.removed) == (0, 0)


def test_recovery_does_not_look_at_days_that_were_checked(index, journal):
    receive(make_ct(1), index, journal)
    recover(index, journal)
    old = journal.folder / "20200101"
    old.mkdir()
    (old / f"{'0' * 32}.dcm").write_bytes(part10(make_ct(2)))
    assert recover(index, journal).registered == 0


def test_abandoned_halves_are_swept(index, journal):
    journal.append([b"x"])
    (day,) = [path for path in journal.folder.iterdir() if path.is_dir()]
    for name, age in (("old", 7200), ("young", 0)):
        part = day / f"{name}.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age, time.time() - age))
    list(journal.unchecked())
    assert [path.name for path in day.glob("*.part")] == ["young.part"]


def test_a_clock_that_was_set_back_does_not_hide_new_objects(journal):
    (journal.folder / "29991231").mkdir(parents=True)
    assert journal.append([b"x"]).startswith("journal:29991231/")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StoreFullError), (errno.EIO, StoreUnavailableError)])
def test_a_full_disk_leaves_nothing_half_written(index, journal, monkeypatch, number, kind):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pacs.journal.os.fsync", fail)
    journal.folder.mkdir()
    monkeypatch.setattr(journal.__class__, "_make_day_folder", lambda self, folder: folder.mkdir(exist_ok=True))
    with pytest.raises(kind, match="cannot take an object"):
        receive(make_ct(1), index, journal)
    assert files(journal) == []
    with pytest.raises(MissingFileError):
        journal.read("journal:20260101/" + "0" * 32 + ".dcm", 0, 1)


def test_an_index_that_fails_leaves_nothing_behind(journal):
    class Failing(FakeIndex):
        def register(self, records, *, source):
            raise IndexUnavailableError("the database is full")

    with pytest.raises(IndexUnavailableError):
        receive(make_ct(1), Failing(), journal)
    assert files(journal) == []


def test_damaged_bytes_are_never_given_out(index, journal, tmp_path):
    receive(make_ct(1), index, journal)
    (record,) = index.instances(patient_id="P1")
    path = journal.folder / record.location.path.removeprefix("journal:")
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    with pytest.raises(ChecksumError):
        InstanceReader(open_store(str(tmp_path)), journal).open_bytes(record.location)


@pytest.mark.parametrize(
    "name", ["journal:../../etc/passwd", "journal:/etc/passwd", "packs/x", "journal:20260101/x.dcm"]
)
def test_only_names_of_its_own_making_are_followed(journal, name):
    with pytest.raises(MissingFileError, match="is not the name"):
        journal.read(name, 0, 1)
    with pytest.raises(MissingFileError):
        InstanceReader(open_store("memory:"), None).open_bytes(Location("journal:x", 0, 1, "", ""))


def test_import_takes_folders_and_skips_what_is_no_instance(index, journal, tmp_path):
    source = tmp_path / "disc"
    (source / "sub").mkdir(parents=True)
    for number in (1, 2, 3):
        (source / "sub" / f"I{number}").write_bytes(part10(make_ct(number)))
    (source / "README.txt").write_text("read me")
    (source / "empty").write_bytes(b"")
    (source / "cut.dcm").write_bytes(part10(make_ct(9))[:-100])
    seen = []
    report = import_files([source], index=index, journal=journal, on_file=seen.append)
    assert (report.added, report.identical, report.version) == (3, 0, 0)
    assert len(seen) == 6
    assert len(report.skipped) == 3
    assert any("README.txt is not a DICOM file" in sentence for sentence in report.skipped)
    assert import_files([source / "sub" / "I1"], index=index, journal=journal).identical == 1
    with pytest.raises(PacsError, match="does not exist"):
        import_files([tmp_path / "none"], index=index, journal=journal)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"StudyInstanceUID": ""}, "StudyInstanceUID"),
        ({"SOPInstanceUID": "../../etc/passwd"}, "SOPInstanceUID"),
        ({"SeriesInstanceUID": "1.2.x"}, "SeriesInstanceUID"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_objects_without_proper_uids_are_refused(index, journal, values, sentence):
    with pytest.raises(ConformanceError, match=sentence):
        receive(make_ct(1, **values), index, journal)
    assert files(journal) == []
