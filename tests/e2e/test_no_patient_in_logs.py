# SPDX-License-Identifier: Apache-2.0
"""A patient is uploaded, reconstructed by a job, served, searched for, lost, damaged: no line of any log says who."""

from __future__ import annotations

import json
import logging
import shutil
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import build_context

from cli.archive import open_queue
from cli.serve import make_servers
from cli.serve_settings import ServeSettings
from cli.settings import load
from pacs.errors import PeerError
from pacs.handlers import FIND_MODELS, MOVE_MODELS
from pacs.scu import Peer, find, kinds_of, send
from storage.filesystem import open_store
from storage.log_format import JsonLines, TextLines
from tests.support.command_line import conepacs
from tests.support.dicom_objects import CT, make_ct, part10

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, IDENTIFIER = "Geheimnis^Gerda", "PX-4711-QY"
#: As they stand in scan.toml, DICOM, queries and their URLs.
SECRETS = ("Geheimnis", "Gerda", "geheimnis", IDENTIFIER, "19420917", "1942-09-17")
FIND, MOVE = next(iter(FIND_MODELS)), next(iter(MOVE_MODELS))


class Everything(logging.Handler):
    """Keeps every line that any logger gives, as text and as JSON."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [JsonLines().format(record), TextLines().format(record)]


@pytest.fixture
def everything() -> Iterator[Everything]:
    """Every logger at its finest, but those that are silenced on purpose."""
    root, handler = logging.getLogger(), Everything()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


@pytest.fixture
def patient_scan(tmp_path) -> Path:
    """A scan of a patient."""
    from data_samples.make_sample import make_sample

    folder = make_sample(tmp_path / "source" / "stone", n_views=24, n_rows=16, n_cols=24).folder
    description = folder / "scan.toml"
    before, _, after = description.read_text(encoding="utf-8").partition("[subject]")
    rest = after.partition("\n[")
    description.write_text(
        f'{before}[subject]\nkind = "patient"\nname = "{NAME}"\nidentifier = "{IDENTIFIER}"\n'
        f'birth_date = "1942-09-17"\nsex = "F"\n\n{rest[1].strip()}{rest[2]}',
        encoding="utf-8",
    )
    return folder


def http(port: int, path: str, accept: str = "application/dicom+json") -> tuple[int, bytes]:
    """Status and content of a GET."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def ask_by_http(port: int) -> str:
    """Good and bad requests that name the patient; returns a UID path of one of the patient's series."""
    name, web = urllib.parse.quote(NAME), "/dicom-web"
    status, content = http(port, f"{web}/studies?PatientName={name}&PatientID={IDENTIFIER}&PatientBirthDate=19420917")
    assert (status, len(json.loads(content))) == (200, 1)
    study = json.loads(content)[0]["0020000D"]["Value"][0]
    series = json.loads(http(port, f"{web}/studies/{study}/series")[1])[0]["0020000E"]["Value"][0]
    assert http(port, f"{web}/studies?StudyDate={name}")[0] == 400
    assert http(port, f"{web}/studies?PatientName={name}&limit={name}")[0] == 400
    assert http(port, f"{web}/studies?{name}={name}")[0] == 400
    assert http(port, f"{web}/studies/{name}/series")[0] == 400
    assert http(port, f"/{name}?PatientName={name}")[0] == 404
    return f"{web}/studies/{study}/series/{series}"


def ask_by_dicom(peer: Peer) -> None:
    """Good and bad requests that name the patient, and objects of the patient."""
    assert len(find(peer, "STUDY", {"PatientName": NAME, "PatientID": IDENTIFIER, "PatientBirthDate": ""})) == 1
    with pytest.raises(PeerError):
        find(peer, "STUDY", {"PatientName": NAME, "StudyDate": NAME})
    entity = AE("TEST")
    assoc = entity.associate(peer.host, peer.port, contexts=[build_context(MOVE), build_context(FIND)])
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID, identifier.PatientName = "PATIENT", IDENTIFIER, NAME
    list(assoc.send_c_move(identifier, "NOWHERE", MOVE))
    assoc.release()
    values: dict[str, Any] = {"PatientName": NAME, "PatientID": IDENTIFIER, "PatientBirthDate": "19420917"}
    for number in (1, 2):  # the second: other bytes under the UID of the first
        objects = [("ct", part10(make_ct(1, **values, StudyDescription=f"{NAME} {number}")))]
        send(peer, objects, kinds_of(objects)[0])
    broken = make_ct(2, **values)
    del broken.StudyInstanceUID
    broken.file_meta = FileMetaDataset()
    broken.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assoc = entity.associate(peer.host, peer.port, contexts=[build_context(CT, ExplicitVRLittleEndian)])
    assert assoc.send_c_store(broken).Status == 0xC000
    assoc.release()


def lose_and_damage(folder: Path) -> None:
    """Change all bytes of packs and of received objects; leave one that no row names and none can read."""
    for path in (*folder.glob("packs/*/*.zip"), *folder.glob("journal/*/*.dcm")):
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    day = next(folder.glob("journal/*/"))
    (day / f"{'0' * 32}.dcm").write_bytes(part10(make_ct(3, PatientName=NAME))[:300])


@pytest.mark.spark
@pytest.mark.timeout(900)
def test_no_line_names_the_patient(
    patient_scan, tmp_path, tmp_path_factory, spark_session, everything, capfd, monkeypatch
):
    del spark_session  # the jobs below take it over
    monkeypatch.chdir(tmp_path)
    folder, log = tmp_path / "archive", tmp_path / "conepacs.log"
    for name, value in {"LEVEL": "debug", "FORMAT": "json", "FILE": str(log)}.items():
        monkeypatch.setenv(f"CONEPACS_LOG__{name}", value)
    monkeypatch.setenv("CONEPACS_STORE", str(folder))
    told = [conepacs(capfd, "upload", patient_scan, "--scan-id", "stone")]
    told += [conepacs(capfd, "jobs", "submit", "reconstruct", "stone", "--bin", "0")]
    told += [conepacs(capfd, "jobs", "work", "--once", "--cores", "2")]
    assert [one.code for one in told] == [0, 0, 0], told
    with open_queue(open_store(folder)) as queue:
        assert {job.state for job in queue.list()} == {"done"}
        events = [repr(event) for event in queue.events()] + [repr(job) for job in queue.list()]
    logging.getLogger().setLevel(logging.DEBUG)  # of the libraries too
    scp = {"port": 0, "host": "127.0.0.1"}
    settings = load(ServeSettings, store=str(folder), scp=scp, http={"port": 0})
    server, web = make_servers(settings)
    with web, server:
        series = ask_by_http(web.port)
        ask_by_dicom(Peer("127.0.0.1", server.port, "CONEPACS", timeout_s=20))
        assert http(web.port, f"{series}/rendered?viewport={urllib.parse.quote(NAME)}", "image/png")[0] >= 400
        lose_and_damage(folder)
        assert http(web.port, series, "multipart/related; type=application/dicom")[0] >= 500
        metrics = http(web.port, "/metrics", "text/plain")[1].decode()
    server, web = make_servers(settings)
    with web, server:  # recovers the journal
        pass
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(part10(make_ct(5, PatientName=NAME, PatientID=IDENTIFIER))[:400])
    told += [conepacs(capfd, "pacs", "import", broken), conepacs(capfd, "jobs", "list")]
    told += [conepacs(capfd, "backup", "create", tmp_path / "backup"), conepacs(capfd, "doctor")]
    shutil.rmtree(folder / "scans")
    told += [conepacs(capfd, "reconstruct", "stone")]

    spark_logs = [path.read_text(errors="replace") for path in tmp_path_factory.getbasetemp().rglob("spark*.log")]
    assert spark_logs
    rest = capfd.readouterr()
    texts = {
        "the log": log.read_text(), "all loggers": "\n".join(everything.lines), "Spark's log": "\n".join(spark_logs),
        "standard error": rest.err + rest.out, "metrics": metrics, "events of jobs": "\n".join(events),
        "what verbs say": "\n".join(one.out + one.err for one in told),
    }  # fmt: skip
    leaks = {
        where: [line for line in text.splitlines() if secret in line]
        for where, text in texts.items()
        for secret in SECRETS
        if secret in text
    }
    assert leaks == {}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    of_job = [line for line in lines if line.get("job_id") == 1]
    assert {line["scan_id"] for line in of_job if "scan_id" in line} == {"stone"}
    assert any(line["logger"] == "viewer_api.access" for line in map(json.loads, everything.lines[::2]))
    assert any(line["logger"] == "pacs.scp" for line in lines)
