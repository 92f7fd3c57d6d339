# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import logging
import socket
import struct
import threading
import time
from contextlib import suppress
from io import BytesIO

import pytest
from pydantic import TypeAdapter, ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.presentation import build_context, build_role

from pacs.errors import PacsError, PeerError
from pacs.handlers import FIND_MODELS, MOVE_MODELS
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from pacs.scp import MoveDestination, PacsServer, ScpConfig
from pacs.scu import Peer, echo, find, get, kinds_of, send
from storage.errors import StoreFullError
from storage.filesystem import open_store
from tests.support.dicom_objects import CT, make_ct, part10
from tests.support.index_engine import sqlite_index
from tests.support.waiting import wait_until

STUDY_FIND = next(one for one, model in FIND_MODELS.items() if model == "STUDY_ROOT")
STUDY_MOVE = next(one for one, model in MOVE_MODELS.items() if model == "STUDY_ROOT")


@pytest.fixture(scope="module")
def sink():
    """A storage SCP of pynetdicom as C-MOVE destination; `received` holds what came."""
    received = []

    def on_store(event):
        received.append(event.encoded_dataset())
        return 0x0000

    entity = AE("SINK")
    entity.add_supported_context(CT, "1.2.840.10008.1.2")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    yield server.server_address[1], received
    entity.shutdown()


@pytest.fixture(scope="module")
def archive(tmp_path_factory, sink):
    """A server with ten CT instances of one study, and 12 studies of other patients."""
    folder = tmp_path_factory.mktemp("archive")
    journal = Journal(folder / "journal")
    destinations = {"SINK": MoveDestination("127.0.0.1", sink[0]), "NOBODY": MoveDestination("127.0.0.1", 1)}
    config = ScpConfig(port=0, move_destinations=destinations, max_studies=12, max_silent_connections=5)
    with sqlite_index(folder / "index.sqlite") as index:
        reader = InstanceReader(open_store(str(folder / "store")), journal)
        with PacsServer(config, index=index, reader=reader, journal=journal) as server:
            server.peer = Peer("127.0.0.1", server.port, "CONEPACS", timeout_s=10)
            server.journal, server.index = journal, index
            objects = [("ct", part10(make_ct(number))) for number in range(1, 11)]
            objects += [("ct", part10(make_ct(1, study=1, patient=patient))) for patient in range(2, 14)]
            report = send(server.peer, objects, kinds_of(objects)[0])
            assert report.failures == ()
            assert report.n_sent == 22
            yield server


def connected(server, contexts, **options):
    entity = AE("TEST")
    entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 10
    return entity.associate("127.0.0.1", server.port, contexts=contexts, ae_title="CONEPACS", **options)


def store_raw(server, dataset_bytes, *, sop_class=CT, uid="1.2.3.4", syntax="1.2.840.10008.1.2.1"):
    """C-STORE of any bytes; returns the status."""
    assoc = connected(server, [build_context(sop_class, syntax)])
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    request.DataSet = BytesIO(dataset_bytes)
    return exchange(assoc, request)


def exchange(assoc, request):
    """Send a message past pynetdicom's checks; returns the answer."""
    assoc._reactor_checkpoint.clear()
    wait_until("the reactor pauses", lambda: assoc._is_paused, interval_s=0.001)
    assoc.dimse.send_msg(request, 1)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assoc.release()
    return response


def dataset_of(part10_bytes):
    return part10_bytes[part10_bytes.index(b"\x08\x00\x05\x00CS") :]


def values_of(ds):
    return {element.keyword: element.value for element in ds}


def find_raw(server, identifier, sop_class=STUDY_FIND):
    assoc = connected(server, [build_context(sop_class)])
    answers = list(assoc.send_c_find(identifier, sop_class))
    assoc.release()
    return answers


def test_echo(archive):
    echo(archive.peer)


def test_find_at_each_level(archive):
    studies = find(archive.peer, "STUDY", {"PatientID": "P1", "NumberOfStudyRelatedInstances": "", "PatientName": ""})
    assert [one["NumberOfStudyRelatedInstances"] for one in studies] == ["10"]
    assert studies[0]["PatientName"] == "Müller^Anna=山田^太郎"
    assert studies[0]["RetrieveAETitle"] == "CONEPACS"
    study = {"StudyInstanceUID": "1.2.826.1.1"}
    assert len(find(archive.peer, "SERIES", {**study, "Modality": "CT"})) == 1
    images = find(archive.peer, "IMAGE", {**study, "SeriesInstanceUID": "1.2.826.1.1.1", "InstanceNumber": ""})
    assert [one["InstanceNumber"] for one in images] == [str(number) for number in range(1, 11)]
    patients = find(archive.peer, "PATIENT", {"PatientName": "=山田*", "PatientID": "P?"}, model="PATIENT_ROOT")
    assert [one["PatientID"] for one in patients] == [f"P{number}" for number in range(1, 10)]


def test_more_matches_than_the_cap_end_with_a_warning(archive):
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    answers = find_raw(archive, identifier)
    codes = [status.Status for status, _ in answers]
    assert codes[:13] == [0xFF00] * 12 + [0xB001]
    assert answers[12][0].ErrorComment == "12 matches given, more exist: narrow the query"
    with pytest.raises(PeerError, match="gave 12 matches and has more"):
        find(archive.peer, "STUDY", {"StudyInstanceUID": ""})


@pytest.mark.parametrize(
    ("values", "comment"),
    [
        ({}, "QueryRetrieveLevel is missing"),
        ({"QueryRetrieveLevel": "PATIENT"}, "QueryRetrieveLevel is 'PATIENT'"),
        ({"QueryRetrieveLevel": "IMAGE", "PatientID": "P1"}, "IMAGE level needs StudyInstanceUID"),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "20260101-20260102-"}, "StudyDate is"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_queries_that_cannot_be_answered(archive, values, comment):
    identifier = Dataset()
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    if not values:
        identifier.PatientID = "P1"
    ((status, _),) = find_raw(archive, identifier)
    assert status.Status == 0xA900
    assert status.ErrorComment.startswith(comment)
    assert len(status.ErrorComment) <= 64


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("garbage", [b"\x00" * 7, b"\x08\x00\x52\x00\xff\xff\xff\x00ab", b"\xff" * 64])
def test_an_identifier_that_cannot_be_read_is_refused(archive, garbage):
    assoc = connected(archive, [build_context(STUDY_FIND, "1.2.840.10008.1.2")])
    request = C_FIND()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = STUDY_FIND
    request.Identifier = BytesIO(garbage)
    response = exchange(assoc, request)
    assert response.Status == 0xA900
    assert response.ErrorComment
    echo(archive.peer)


def test_get_gives_identical_bytes_of_the_data_set(archive):
    received = []
    report = get(archive.peer, "STUDY", {"StudyInstanceUID": "1.2.826.1.1"}, received.append, sop_classes=[CT])
    assert (report.n_received, report.n_failed) == (10, 0)
    assert [dataset_of(one) for one in received] == [dataset_of(part10(make_ct(n))) for n in range(1, 11)]


def test_get_of_one_image_in_implicit_vr(archive):
    received = []
    keys = {
        "StudyInstanceUID": "1.2.826.1.1",
        "SeriesInstanceUID": "1.2.826.1.1.1",
        "SOPInstanceUID": "1.2.826.1.1.1.3",
    }
    options = {"sop_classes": [CT], "transfer_syntaxes": ["1.2.840.10008.1.2"]}
    assert get(archive.peer, "IMAGE", keys, received.append, **options).n_received == 1
    ds = dcmread(BytesIO(received[0]))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert values_of(ds) == values_of(make_ct(3))


def test_get_of_nothing_and_without_key(archive):
    assert get(archive.peer, "STUDY", {"StudyInstanceUID": "9.9"}, print, sop_classes=[CT]).n_received == 0
    with pytest.raises(PeerError, match=r"refused C-GET with status A900: A retrieve at STUDY level needs Study"):
        get(archive.peer, "STUDY", {"StudyInstanceUID": ""}, print, sop_classes=[CT])


def move(archive, destination, **keys):
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    assoc = connected(archive, [build_context(STUDY_MOVE)])
    *_, (status, _) = assoc.send_c_move(identifier, destination, STUDY_MOVE)
    assoc.release()
    return status


def test_move_to_a_configured_destination_that_takes_only_implicit_vr(archive, sink):
    sink[1].clear()
    status = move(archive, "SINK", StudyInstanceUID="1.2.826.1.1")
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0x0000, 10)
    moved = [values_of(dcmread(BytesIO(one))) for one in sink[1]]
    assert moved == [values_of(make_ct(number)) for number in range(1, 11)]


#: pynetdicom leaves the socket of a refused connection to the garbage collector.
refused_connection = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@refused_connection
def test_move_elsewhere_is_refused(archive):
    assert move(archive, "ATTACKER", StudyInstanceUID="1.2.826.1.1").Status == 0xA801
    assert move(archive, "NOBODY", StudyInstanceUID="1.2.826.1.1").Status == 0xA801
    assert move(archive, "SINK", PatientID="P1").Status == 0xC514
    gc.collect()


def test_any_storage_class_and_transfer_syntax_is_kept_as_it_is(archive):
    private = "1.3.6.1.4.1.99999.1"
    ds = make_ct(1, patient=20, SOPClassUID=private)
    jpeg = part10(ds)
    raw = dataset_of(jpeg)
    response = store_raw(archive, raw, sop_class=private, uid=ds.SOPInstanceUID, syntax="1.2.840.10008.1.2.4.201")
    assert response.Status == 0x0000
    (record,) = archive.index.instances(sop_instance_uids=[ds.SOPInstanceUID])
    assert record.transfer_syntax_uid == "1.2.840.10008.1.2.4.201"
    assert archive.journal.read_all(record.location.path).endswith(raw)


def test_a_resend_succeeds_and_other_bytes_become_a_version(archive):
    ds = make_ct(1, patient=21)
    for content in (ds, ds, make_ct(1, patient=21, PatientComments="other")):
        assert store_raw(archive, dataset_of(part10(content)), uid=ds.SOPInstanceUID).Status == 0x0000
    assert len(archive.index.versions(ds.SOPInstanceUID)) == 2


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("case", "status", "comment"),
    [
        ("garbage", 0xC000, "the data set is not a readable DICOM data set"),
        ("empty", 0xC000, ""),
        ("cut", 0xC000, "the data set is not a readable DICOM data set"),
        ("no study", 0xC000, "StudyInstanceUID"),
        ("path as UID", 0xC000, "SOPInstanceUID"),
        ("other class", 0xA900, "SOP class is 1.2.840.10008.5.1.4.1.1.4"),
        ("other instance", 0xA900, "SOP instance is 1.2.826.99.1.1.1"),
        ("big length", 0xC000, "the data set is not a readable DICOM data set"),
    ],
)
def test_broken_objects_are_refused_and_leave_nothing(archive, case, status, comment):
    ds = make_ct(1, patient=99)
    whole = dataset_of(part10(ds))
    uid = ds.SOPInstanceUID
    dataset = {
        "garbage": b"\x13\x37" * 500,
        "empty": b"\x08\x00\x05\x00CS\x00\x00",
        "cut": whole[:-50],
        "no study": dataset_of(part10(make_ct(1, patient=99, StudyInstanceUID=""))),
        "path as UID": dataset_of(part10(make_ct(1, patient=99, SOPInstanceUID="../../etc/passwd"))),
        "other class": dataset_of(part10(make_ct(1, patient=99, SOPClassUID="1.2.840.10008.5.1.4.1.1.4"))),
        "other instance": whole,
        "big length": whole[: whole.index(b"\xe0\x7f\x10\x00OW") + 8] + struct.pack("<I", 0xFFFFFFF0) + b"0123456789",
    }[case]
    before = sum(1 for _ in archive.journal.folder.rglob("*"))
    uid = "1.2.3.4.5" if case == "other instance" else uid
    response = store_raw(archive, dataset, uid=uid)
    assert response.Status == status
    assert comment in response.ErrorComment
    assert len(response.ErrorComment) <= 64
    assert archive.index.instances(patient_id="P99") == []
    assert sum(1 for _ in archive.journal.folder.rglob("*")) == before
    echo(archive.peer)


def test_a_full_disk_is_told_as_out_of_resources(archive, monkeypatch):
    def full(self, pieces):
        raise StoreFullError("the journal cannot take an object: No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    ds = make_ct(1, patient=98)
    response = store_raw(archive, dataset_of(part10(ds)), uid=ds.SOPInstanceUID)
    assert response.Status == 0xA700
    assert "No space left" in response.ErrorComment


def test_a_directory_is_no_storage_class(archive):
    assoc = connected(archive, [build_context("1.2.840.10008.1.3.10"), build_context("1.2.840.10008.1.1")])
    assert [one.abstract_syntax for one in assoc.rejected_contexts] == ["1.2.840.10008.1.3.10"]
    assoc.release()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x01\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x00\x05hello",
        b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03",
        b"\xff" * 5000,
    ],
)
def test_bytes_that_are_no_dicom_close_that_connection_only(archive, sent):
    with socket.create_connection(("127.0.0.1", archive.port), timeout=5) as connection:
        connection.sendall(sent)
        echo(archive.peer)


def test_silent_connections_and_half_messages_do_not_keep_others_out(archive):
    """More than the server takes at a time; each real association comes through at once."""
    held = [socket.create_connection(("127.0.0.1", archive.port), timeout=5) for _ in range(12)]
    try:
        for connection in held[::2]:
            connection.sendall(b"\x01\x00\x00\x00\x10\x00half")
        start = time.monotonic()
        echo(archive.peer)
        assert time.monotonic() - start < 5
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize("kind", [0x01, 0x04])
def test_a_message_that_announces_4_gib_ends_its_connection(archive, kind):
    with socket.create_connection(("127.0.0.1", archive.port), timeout=5) as connection:
        connection.sendall(struct.pack(">BBL", kind, 0, 0xFFFFFFFF))
        with suppress(ConnectionError):
            assert connection.recv(100) == b""
        echo(archive.peer)


def test_a_silent_connection_is_closed_in_time(archive, tmp_path):
    journal = Journal(tmp_path / "journal")
    reader = InstanceReader(open_store(str(tmp_path)), journal)
    config = ScpConfig(port=0, acse_timeout_s=0.3)
    with PacsServer(config, index=archive.index, reader=reader, journal=journal) as server:
        for sent in (b"", b"\x01\x00\x00\x00\x10\x00half"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(sent)
                with suppress(ConnectionError):
                    assert connection.recv(100) in (b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


def test_patients_do_not_appear_in_the_log(archive, caplog):
    caplog.set_level(logging.DEBUG)
    find(archive.peer, "STUDY", {"PatientName": "Müller*", "PatientID": "P1"})
    with pytest.raises(PeerError):
        find(archive.peer, "STUDY", {"PatientName": "Müller*", "StudyDate": "Müller"})
    store_raw(archive, b"M\x00u\x00ller" * 20)
    get(archive.peer, "STUDY", {"StudyInstanceUID": "1.2.826.1.1"}, lambda _: None, sop_classes=[CT])
    assert "C-FIND from CONEPACS failed: InvalidQueryError" in caplog.text
    assert "ller" not in caplog.text
    assert "P1" not in caplog.text


def test_several_senders_at_once(archive):
    def sender(patient):
        objects = [("ct", part10(make_ct(number, patient=patient))) for number in range(1, 6)]
        reports.append(send(archive.peer, objects, kinds_of(objects)[0]))

    reports = []
    threads = [threading.Thread(target=sender, args=(30 + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.n_sent for report in reports] == [5] * 4
    assert sum(len(archive.index.instances(patient_id=f"P{30 + n}")) for n in range(4)) == 20


def test_a_damaged_instance_fails_alone(archive):
    objects = [("ct", part10(make_ct(number, patient=40))) for number in (1, 2)]
    send(archive.peer, objects, kinds_of(objects)[0])
    first, _ = archive.index.instances(patient_id="P40")
    path = archive.journal.folder / first.location.path.removeprefix("journal:")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    received = []
    report = get(archive.peer, "STUDY", {"StudyInstanceUID": "1.2.826.40.1"}, received.append, sop_classes=[CT])
    assert (report.n_received, report.n_failed) == (1, 1)


@refused_connection
def test_peers_that_do_not_answer_or_refuse(archive, tmp_path):
    with pytest.raises(PeerError, match=r"NOBODY at 127\.0\.0\.1 port 1 does not answer"):
        echo(Peer("127.0.0.1", 1, "NOBODY", timeout_s=2))
    config = ScpConfig(ae_title="STRICT", port=0, check_called_ae_title=True, calling_ae_titles=("FRIEND",))
    journal = Journal(tmp_path / "journal")
    reader = InstanceReader(open_store(str(tmp_path)), journal)
    with PacsServer(config, index=archive.index, reader=reader, journal=journal) as strict:
        echo(Peer("127.0.0.1", strict.port, "STRICT", "FRIEND"))
        with pytest.raises(PeerError, match="rejected the association of FRIEND: Called AE title not recogni"):
            echo(Peer("127.0.0.1", strict.port, "OTHER", "FRIEND"))
        with pytest.raises(PeerError, match="Calling AE title not recogni"):
            echo(Peer("127.0.0.1", strict.port, "STRICT", "FOE"))
        other = PacsServer(ScpConfig(port=strict.port), index=archive.index, reader=reader, journal=journal)
        with pytest.raises(PacsError, match=r"cannot listen on 127\.0\.0\.1 port"):
            other.start()


def test_send_names_what_was_not_taken(archive):
    broken = part10(make_ct(1, patient=50))
    objects = [("good", broken), ("cut", broken[:-40])]
    kinds, refused = kinds_of(objects)
    assert kinds == [(CT, "1.2.840.10008.1.2.1")]
    assert refused[0].startswith("cut is not a readable")
    report = send(archive.peer, [("good", broken), ("other", part10(make_ct(1, SOPClassUID="1.2.3")))], kinds)
    assert report.n_sent == 1
    assert report.failures[0].startswith("other: CONEPACS at 127.0.0.1")


def test_config_refuses_nonsense():
    with pytest.raises(ValueError, match="AE title is ''"):
        ScpConfig(ae_title="")
    with pytest.raises(ValueError, match="1 to 16 printable"):
        ScpConfig(ae_title="A" * 17)
    with pytest.raises(ValueError, match="port is 70000"):
        ScpConfig(port=70_000)


def test_config_is_read_from_settings_and_typos_are_refused():
    read = TypeAdapter(ScpConfig).validate_python
    config = read({"port": 104, "move_destinations": {"SINK": {"host": "h", "port": 1}}})
    assert config.move_destinations["SINK"] == MoveDestination("h", 1)
    for typo in ({"prt": 104}, {"move_destinations": {"SINK": {"hst": "h", "port": 1}}}):
        with pytest.raises(ValidationError):
            read(typo)


def test_roles_of_getters_are_accepted(archive):
    """Some C-GET users ask for both roles."""
    get_class = "1.2.840.10008.5.1.4.1.2.2.3"
    assoc = connected(
        archive, [build_context(get_class), build_context(CT)], ext_neg=[build_role(CT, scu_role=True, scp_role=True)]
    )
    (context,) = [one for one in assoc.accepted_contexts if one.abstract_syntax == CT]
    assert context.as_scp
    assoc.release()
