# SPDX-License-Identifier: Apache-2.0
"""`conepacs pacs` against the own archive, and against a DICOM server on a free port."""

from __future__ import annotations

import json
import socket

import pytest
from pydicom import dcmread

from cli.archive import open_index
from cli.fetch import running_servers
from storage.filesystem import open_store
from tests.support.command_line import conepacs
from tests.support.dicom_objects import make_ct, part10

STUDY = "1.2.826.1.1"


@pytest.fixture
def disc(tmp_path):
    """A medium: three slices, a text, no DICOMDIR."""
    folder = tmp_path / "disc"
    (folder / "sub").mkdir(parents=True)
    for number in (1, 2, 3):
        (folder / "sub" / f"I{number}").write_bytes(part10(make_ct(number, StudyDescription="[red]Skull :smile:")))
    (folder / "README.txt").write_text("read me")
    return folder


@pytest.fixture
def store(disc, tmp_path, capsys):
    """An archive that holds the medium."""
    folder = tmp_path / "store"
    assert conepacs(capsys, "pacs", "import", disc / "sub", "--store", folder).code == 0
    return folder


@pytest.fixture
def peer(tmp_path):
    """AE@HOST:PORT of another, empty archive."""
    other = open_store(tmp_path / "other")
    with running_servers(other, open_index(other), tmp_path / "other" / "journal") as (node, _):
        yield f"{node.ae_title}@{node.host}:{node.port}"


def test_import_counts_and_skips_what_is_no_instance(disc, tmp_path, capsys):
    outcome = conepacs(capsys, "pacs", "import", disc, "--store", tmp_path / "s")
    assert (outcome.code, outcome.err) == (0, "")
    assert "new             3\n" in outcome.out
    assert "README.txt is not a DICOM file" in outcome.out
    again = json.loads(conepacs(capsys, "pacs", "import", disc, "--store", tmp_path / "s", "--json").out)
    assert (again["added"], again["identical"], len(again["skipped"]), again["damaged"]) == (0, 3, 1, [])


def test_import_shows_progress(disc, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cli.output.LINE_EVERY_S", 0.0)
    outcome = conepacs(capsys, "pacs", "import", disc, "--store", tmp_path / "s")
    assert outcome.err.splitlines()[1:] == ["files 2/4: I1", "files 3/4: I2", "files 4/4: I3"]


def test_import_fails_for_what_is_damaged_and_keeps_the_rest(disc, tmp_path, capsys):
    (disc / "cut.dcm").write_bytes(part10(make_ct(9))[:-100])
    outcome = conepacs(capsys, "pacs", "import", disc, "--store", tmp_path / "s")
    outcome.failed_with(3, "not imported:", "cut.dcm")
    assert "new             3\n" in outcome.out


def test_import_of_nothing_fails(disc, tmp_path, capsys):
    conepacs(capsys, "pacs", "import", disc / "README.txt").failed_with(3, "README.txt is not a DICOM file")
    (tmp_path / "empty").mkdir()
    conepacs(capsys, "pacs", "import", tmp_path / "empty").failed_with(3, "there is no file in it")
    outcome = conepacs(capsys, "pacs", "import", tmp_path / "none")
    assert outcome.code == 2
    assert "does not exist" in outcome.err


def test_find_says_when_there_is_nothing(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    outcome = conepacs(capsys, "pacs", "find", "--store", tmp_path / "s")
    assert (outcome.code, outcome.out) == (0, "there is no study in the archive\n")
    outcome = conepacs(capsys, "pacs", "find", "series", "-k", "Modality=MR", "--store", tmp_path / "s")
    assert outcome.out == "no series matches in the archive\n"
    conepacs(capsys, "pacs", "find", "--store", tmp_path / "typo").failed_with(3, "does not exist")


def test_find_in_the_own_archive(store, capsys):
    outcome = conepacs(capsys, "pacs", "find", "-k", "PatientID=P*", "-k", "StudyDate=20260101-", "--store", store)
    assert outcome.code == 0, outcome.err
    assert STUDY in outcome.out
    assert "[red]Skull :smile:" in outcome.out, "what comes from files is no markup"
    rows = json.loads(conepacs(capsys, "pacs", "find", "image", "--store", store, "--json", "--limit", "2").out)
    assert len(rows) == 2
    (row,) = json.loads(conepacs(capsys, "pacs", "find", "patient", "-k", "PatientSex", "-s", store, "--json").out)
    assert (row["PatientID"], row["PatientName"]) == ("P1", "Müller^Anna=山田^太郎")
    outcome = conepacs(capsys, "pacs", "find", "-k", "Nonsense=1", "--store", store)
    assert (outcome.code, outcome.err.splitlines()[0]) == (
        2, "conepacs: --key needs a keyword of the DICOM data dictionary, got 'Nonsense'"
    )  # fmt: skip


def test_send_find_and_get_over_the_network(store, disc, peer, tmp_path, capsys):
    assert "answers" in conepacs(capsys, "pacs", "echo", peer).out
    assert "there is no study in CONEPACS at 127.0.0.1" in conepacs(capsys, "pacs", "find", "--peer", peer).out
    conepacs(capsys, "pacs", "get", peer, tmp_path / "got", "--study", STUDY).failed_with(3, "has nothing under")

    outcome = conepacs(capsys, "pacs", "send", peer, "--study", STUDY, "--store", store)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("3 instance(s) sent to CONEPACS at 127.0.0.1 port ")
    outcome = conepacs(capsys, "pacs", "send", peer, disc)
    assert outcome.code == 0
    assert "not sent: " in outcome.out
    assert "README.txt" in outcome.out

    (row,) = json.loads(conepacs(capsys, "pacs", "find", "series", "-k", f"StudyInstanceUID={STUDY}", "--peer", peer,
                                 "--json").out)  # fmt: skip
    assert row["NumberOfSeriesRelatedInstances"] == "3"
    outcome = conepacs(capsys, "pacs", "get", peer, tmp_path / "got", "--study", STUDY)
    assert "3 instance(s) received, 0 failed" in outcome.out
    for path in (tmp_path / "got").glob("*.dcm"):
        number = int(dcmread(path).InstanceNumber)
        assert dcmread(path).pixel_array.tobytes() == make_ct(number).PixelData


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_peers_that_do_not_answer_are_named(store, tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        peer = f"NOBODY@127.0.0.1:{free.getsockname()[1]}"
        for arguments in (["echo", peer], ["find", "--peer", peer], ["get", peer, tmp_path / "g", "--study", "1.2"],
                          ["send", peer, "--study", STUDY, "--store", store]):  # fmt: skip
            conepacs(capsys, "pacs", *arguments).failed_with(4, "NOBODY at 127.0.0.1 port")


def test_send_names_what_the_archive_lacks(store, capsys):
    outcome = conepacs(capsys, "pacs", "send", "AE@127.0.0.1:104", "--study", "1.2.3", "--store", store)
    outcome.failed_with(3, "the archive has nothing under 1.2.3")


def test_a_remote_store_needs_an_index_for_finding_and_a_journal_only_for_importing(disc, tmp_path, capsys):
    place = ["--store", "memory://cli-pacs"]
    conepacs(capsys, "pacs", "find", *place).failed_with(3, "give --index FILE or URL")
    place += ["--index", tmp_path / "sub" / "i.sqlite"]
    assert conepacs(capsys, "pacs", "find", *place).out == "there is no study in the archive\n"
    conepacs(capsys, "pacs", "import", disc, *place).failed_with(3, "give --journal FOLDER")
    assert conepacs(capsys, "pacs", "import", disc, *place, "--journal", tmp_path / "journal").code == 0
    assert STUDY in conepacs(capsys, "pacs", "find", *place).out


def test_sweep_prints_what_it_deletes(store, tmp_path, capsys):
    orphan = store / "packs" / "run-a" / "bin00-slab0001-3e8-0123456789ab.zip"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"left by a killed job")
    name = orphan.relative_to(store).as_posix()
    place = ["--store", store]
    assert conepacs(capsys, "pacs", "sweep", "--dry-run", *place).out == f"would delete {name}\n"
    assert orphan.exists()
    dry = json.loads(conepacs(capsys, "pacs", "sweep", "--dry-run", "--json", *place).out)
    assert dry == {"dry_run": True, "deleted": [], "would_delete": [name]}
    other = ["--index", tmp_path / "other.sqlite"]
    conepacs(capsys, "pacs", "sweep", *place, *other).failed_with(3, "nothing is swept", "the index names no instance")
    assert conepacs(capsys, "pacs", "sweep", "--older-than", "2d", *place).out == f"deleted {name}\n"
    assert not orphan.exists()
    assert conepacs(capsys, "pacs", "sweep", *place).out == "nothing to sweep that is older than 24h\n"
    assert len(conepacs(capsys, "pacs", "find", "image", *place).out.splitlines()) > 3
    outcome = conepacs(capsys, "pacs", "sweep", "--older-than", "long", *place)
    assert outcome.code == 2
    assert "such as 24h or 7d, got 'long'" in outcome.err
