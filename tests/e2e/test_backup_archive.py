# SPDX-License-Identifier: Apache-2.0
"""Back up an archive while objects are stored and a job runs, wipe it, restore it: all is there, byte for byte."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cli.archive import open_index, open_journal
from jobs.queue import open_queue
from pacs.index import Query
from pacs.receive import receive_part10
from pacs.retrieve import InstanceReader
from storage.filesystem import open_store
from tests.support.command_line import conepacs
from tests.support.dicom_objects import make_ct, part10
from tests.support.http_archive import HttpArchive, ramp_volume
from tests.support.postgres import new_database
from tests.support.queues import KINDS, MANY, work
from tests.support.series import series_spec
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pacs.sql_index import SqlIndex


@contextmanager
def opened(folder: Path, index: str = "") -> Iterator[tuple[SqlIndex, InstanceReader]]:
    """Index and reader of an archive in a folder."""
    store = open_store(folder)
    found = open_index(store, index)
    try:
        yield found, InstanceReader(store, open_journal(store))
    finally:
        found._engine.dispose()


def contents(index: SqlIndex, reader: InstanceReader) -> dict[str, bytes]:
    """Bytes of every instance that the index names, by UID; digests are checked on the way."""
    studies = [row["StudyInstanceUID"] for row in index.find(Query("STUDY"), limit=1000)]
    return {one.sop_instance_uid: reader.open_bytes(one.location) for one in index.instances(study_uids=studies)}


@pytest.mark.postgresql
def test_a_backup_of_a_working_archive_brings_every_instance_and_job_back(
    tmp_path, capsys, monkeypatch, postgresql_url
):
    monkeypatch.chdir(tmp_path)
    folder, target = tmp_path / "archive", tmp_path / "backup"
    folder.mkdir()
    stop, stored = threading.Event(), []

    def keep_storing() -> None:
        with opened(folder) as (index, reader):
            number = 0
            while not stop.is_set():
                number += 1
                one = part10(make_ct(number, patient=7))
                receive_part10(one, index=index, journal=reader.journal, source="TEST", name="test")
                stored.append(number)

    with opened(folder) as (index, reader):
        HttpArchive(index, reader).add_series(series_spec(), ramp_volume())
    with open_queue(str(folder / "index.sqlite"), KINDS) as queue:
        running = queue.submit(work(1))
        waiting = queue.submit(work(2, depends_on=(running.job_id,)))
        assert queue.claim("runner", kinds=["work"], free=MANY, lease_s=600).job_id == running.job_id
        storing = threading.Thread(target=keep_storing)
        storing.start()
        try:
            wait_until("some are stored", lambda: len(stored) >= 3)
            outcome = conepacs(capsys, "backup", "create", target, "--store", folder, "--json")
        finally:
            n_acknowledged = len(stored)
            stop.set()
            storing.join()
    assert outcome.code == 0, outcome
    made = json.loads(outcome.out)
    assert made["missing"] == []
    assert made["rows"]["instance"] >= 7
    assert n_acknowledged >= 3
    with opened(folder) as (index, reader):
        before = contents(index, reader)
    assert conepacs(capsys, "backup", "create", target, "--store", folder).code == 0
    assert conepacs(capsys, "backup", "verify", target).code == 0
    shutil.rmtree(folder)

    # The first backup, made meanwhile: all that its index names is there.
    first = tmp_path / "first"
    again = conepacs(capsys, "backup", "restore", target, "--backup", made["backup_id"], "--store", first)
    assert again.code == 0, again
    with opened(first) as (index, reader):
        found = contents(index, reader)
    assert len(found) == made["rows"]["instance"]
    assert all(before[uid] == content for uid, content in found.items())
    # The last one, of all; the index moves to PostgreSQL.
    with new_database(postgresql_url) as url:
        arguments = ("--store", folder, "--index", url)
        assert conepacs(capsys, "backup", "restore", target, *arguments).code == 0
        with opened(folder, url) as (index, reader):
            assert contents(index, reader) == before
            one = part10(make_ct(9999, patient=7))
            assert receive_part10(one, index=index, journal=reader.journal, source="T", name="t") == "added"
        with open_queue(url, KINDS) as queue:
            assert [job.state for job in queue.list()] == ["waiting", "running"]
            assert queue.get(waiting.job_id).depends_on == (running.job_id,)
            assert queue.submit(work(3)).job_id == waiting.job_id + 1
        refused = conepacs(capsys, "backup", "restore", target, *arguments)
        refused.failed_with(3, "is not empty")
    (damaged,) = list(target.glob("files/store/packs/*.zip"))
    content = bytearray(damaged.read_bytes())
    content[100] ^= 4
    damaged.write_bytes(content)
    outcome = conepacs(capsys, "backup", "verify", target)
    assert outcome.code == 5
    assert damaged.name in outcome.err
    listed = json.loads(conepacs(capsys, "backup", "list", target, "--json").out)
    assert listed[0]["backup_id"] == made["backup_id"]


def test_an_index_that_is_not_there_and_files_that_were_lost_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "archive"
    folder.mkdir()
    conepacs(capsys, "backup", "create", "backup", "--store", folder).failed_with(4, "there is no index")
    assert list(folder.iterdir()) == []
    with opened(folder) as (index, reader):
        receive_part10(part10(make_ct(1)), index=index, journal=reader.journal, source="TEST", name="test")
    (lost,) = folder.rglob("*.dcm")
    lost.unlink()
    outcome = conepacs(capsys, "backup", "create", "backup", "--store", folder)
    assert outcome.code == 5
    assert f"journal/{lost.parent.name}/{lost.name}" in outcome.err
