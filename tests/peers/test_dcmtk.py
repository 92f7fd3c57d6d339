# SPDX-License-Identifier: Apache-2.0
"""DCMTK's tools against our server, with a real CT series."""

from __future__ import annotations

import os
import socket
import subprocess
import tarfile

import pytest
from pydicom import dcmread

from pacs.importer import import_files
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from pacs.scp import MoveDestination, PacsServer, ScpConfig
from storage.filesystem import open_store
from tests.support.index_engine import sqlite_index
from tests.support.peers import real_data_path, require_program
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.dcmtk, pytest.mark.real_data]

#: Without it DCMTK waits 40 ms for each message.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def run(program, *arguments):
    """Run a tool; returns what it printed."""
    command = [require_program(program, "dcmtk"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """The 28 slices and the stray DICOMDIR, there named DIRFILE."""
    folder = tmp_path_factory.mktemp("phantom")
    with tarfile.open(real_data_path("ct_philips_phantom") / "S2010_28slices.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    directories = [path for path in files if path.name == "DIRFILE"]
    slices = [path for path in files if path.name != "DIRFILE"]
    assert (len(slices), len(directories)) == (28, 1)
    return slices, directories[0]


@pytest.fixture(scope="module")
def destination(tmp_path_factory):
    """DCMTK's storescp, as C-MOVE destination."""
    folder = tmp_path_factory.mktemp("storescp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [require_program("storescp", "dcmtk"), "+B", "-aet", "SINK", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("storescp answers", lambda: "Received Echo Response" in run("echoscu", "-v", "127.0.0.1", port))
        yield port, folder
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def archive(tmp_path_factory, phantom, destination):
    """Our server, after storescu has stored the series in it."""
    folder = tmp_path_factory.mktemp("archive")
    journal = Journal(folder / "journal")
    config = ScpConfig(port=0, move_destinations={"SINK": MoveDestination("127.0.0.1", destination[0])})
    with sqlite_index(folder / "index.sqlite") as index:
        reader = InstanceReader(open_store(str(folder / "store")), journal)
        with PacsServer(config, index=index, reader=reader, journal=journal) as server:
            printed = run("storescu", "-v", "-aec", "CONEPACS", "127.0.0.1", server.port, *phantom[0])
            assert printed.count("Received Store Response (Success)") == 28
            server.index, server.journal = index, journal
            yield server


@pytest.fixture(scope="module")
def originals(phantom):
    return {ds.SOPInstanceUID: ds for ds in map(dcmread, phantom[0])}


def same_pixels(folder, originals):
    found = {ds.SOPInstanceUID: ds for ds in (dcmread(path) for path in folder.iterdir())}
    assert found.keys() == originals.keys()
    for uid, ds in found.items():
        assert ds.PixelData == originals[uid].PixelData
        assert ds.StudyInstanceUID == originals[uid].StudyInstanceUID


def findscu(server, model, *keys):
    arguments = [part for key in keys for part in ("-k", key)]
    return run("findscu", "-v", model, "-aec", "CONEPACS", "127.0.0.1", server.port, *arguments)


def test_echoscu(archive):
    printed = run("echoscu", "-v", "-aec", "CONEPACS", "127.0.0.1", archive.port)
    assert "Received Echo Response (Success)" in printed


def test_findscu(archive, originals):
    one = next(iter(originals.values()))
    study, series = one.StudyInstanceUID, one.SeriesInstanceUID
    date = one.StudyDate
    studies = findscu(
        archive, "-S", "QueryRetrieveLevel=STUDY", f"StudyDate={date}-{date}", "ModalitiesInStudy=CT",
        f"PatientID={str(one.PatientID)[:2]}*", "StudyInstanceUID", "NumberOfStudyRelatedInstances", "PatientName",
    )  # fmt: skip
    assert studies.count("Find Response: ") == 1
    assert f"[{study}" in studies
    assert "[28]" in studies
    assert f"[{one.PatientName}" in studies
    nothing = findscu(archive, "-S", "QueryRetrieveLevel=STUDY", "StudyDate=19000101-19000102")
    assert nothing.count("Find Response: ") == 0
    patients = findscu(archive, "-P", "QueryRetrieveLevel=PATIENT", "PatientID", f"PatientName={one.PatientName}")
    assert patients.count("Find Response: ") == 1
    keys = (f"StudyInstanceUID={study}", f"SeriesInstanceUID={series}")
    images = findscu(archive, "-S", "QueryRetrieveLevel=IMAGE", *keys, "SOPInstanceUID", "InstanceNumber")
    assert images.count("Find Response: ") == 28
    wrong = findscu(archive, "-S", "QueryRetrieveLevel=IMAGE", "SOPInstanceUID")
    assert "Error: DataSetDoesNotMatchSOPClass" in wrong


def test_getscu_brings_identical_pixels(archive, originals, tmp_path):
    study = next(iter(originals.values())).StudyInstanceUID
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    printed = run("getscu", "-v", "-S", "-aec", "CONEPACS", "-od", tmp_path, "127.0.0.1", archive.port, *keys)
    assert "Number of Completed Suboperations : 28" in printed, printed[-2000:]
    same_pixels(tmp_path, originals)


def test_movescu_brings_identical_pixels(archive, originals, destination):
    study = next(iter(originals.values())).StudyInstanceUID
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    target = ("-aec", "CONEPACS", "-aem", "SINK", "127.0.0.1", archive.port)
    printed = run("movescu", "-v", "-S", *target, *keys)
    assert "Received Final Move Response (Success)" in printed, printed[-2000:]
    same_pixels(destination[1], originals)


def test_movescu_to_an_unknown_destination(archive, originals):
    study = next(iter(originals.values())).StudyInstanceUID
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    printed = run("movescu", "-v", "-S", "-aec", "CONEPACS", "-aem", "NOBODY", "127.0.0.1", archive.port, *keys)
    assert "MoveDestinationUnknown" in printed, printed[-2000:]


def test_the_stray_directory_is_refused_politely(archive, phantom):
    """Over the network its SOP class is not taken; from disk it is skipped with a sentence."""
    printed = run("storescu", "-v", "-aec", "CONEPACS", "127.0.0.1", archive.port, phantom[1])
    assert "Received Store Response (Success)" not in printed
    report = import_files([phantom[1].parent], index=archive.index, journal=archive.journal)
    assert (report.added, report.identical, report.version) == (0, 28, 0)
    assert len(report.skipped) == 1
    assert "DICOMDIR" in report.skipped[0]
    run("echoscu", "-aec", "CONEPACS", "127.0.0.1", archive.port)


def test_nothing_was_stored_twice(archive):
    journal_files = [path for path in archive.journal.folder.rglob("*.dcm")]
    assert len(journal_files) == 28
