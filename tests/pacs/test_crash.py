# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged is never lost, what is half written is never seen: kills and a full disk, for real."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from pacs.errors import PeerError
from pacs.journal import Journal
from pacs.receive import receive_part10, recover
from pacs.retrieve import InstanceReader
from pacs.scu import Peer, kinds_of, send
from storage.errors import StoreFullError
from storage.filesystem import open_store
from tests.support.dicom_objects import make_ct, part10
from tests.support.index_engine import sqlite_index
from tests.support.peers import REPOSITORY

SERVER = """
import sys, time
from pathlib import Path
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from pacs.scp import PacsServer, ScpConfig
from storage.filesystem import open_store
from tests.support.index_engine import sqlite_index
folder = Path(sys.argv[1])
journal = Journal(folder / "journal")
with sqlite_index(folder / "index.sqlite") as index:
    reader = InstanceReader(open_store(str(folder / "store")), journal)
    with PacsServer(ScpConfig(port=0), index=index, reader=reader, journal=journal) as server:
        print(server.port, flush=True)
        time.sleep(60)
"""


#: pynetdicom leaves the sockets of dead peers to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_acknowledged_survives_a_kill(tmp_path):
    """Three servers are killed while they receive; the sender notes every success it saw."""
    acknowledged = []
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        with process:
            peer = Peer("127.0.0.1", int(process.stdout.readline()), "CONEPACS", timeout_s=5)
            objects = [("ct", part10(make_ct(number, patient=turn + 1, size=128))) for number in range(1, 200)]
            deadline = time.monotonic() + 0.4

            def until_killed(objects=objects, turn=turn, process=process, deadline=deadline):
                for number, one in enumerate(objects, 1):
                    yield one  # the former one was answered when this is asked for
                    acknowledged.append((turn + 1, number))
                    if time.monotonic() > deadline:
                        process.send_signal(signal.SIGKILL)
                        deadline = float("inf")

            with suppress(PeerError, RuntimeError):
                send(peer, until_killed(), kinds_of(objects[:1])[0])
            process.kill()
    journal = Journal(tmp_path / "journal")
    reader = InstanceReader(open_store(str(tmp_path / "store")), journal)
    gc.collect()
    with sqlite_index(tmp_path / "index.sqlite") as index:
        recover(index, journal)
        kept = [record for turn in range(3) for record in index.instances(patient_id=f"P{turn + 1}")]
        uids = {record.sop_instance_uid for record in kept}
        assert len(acknowledged) > 10
        assert {f"1.2.826.{patient}.1.1.{number}" for patient, number in acknowledged} <= uids
        for record in kept:
            reader.open_bytes(record.location)
        rows = {record.location.path.removeprefix("journal:") for record in kept}
        assert {str(path.relative_to(journal.folder)) for path in journal.folder.rglob("*.dcm")} == rows


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_takes_what_fits_and_goes_on_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        journal = Journal(disk / "journal")
        with sqlite_index(tmp_path / "index.sqlite") as index:

            def receive(number):
                sent = part10(make_ct(number, size=256))
                return receive_part10(sent, index=index, journal=journal, source="A", name="it")

            def fill():
                for number in range(1, 20):
                    receive(number)

            with pytest.raises(StoreFullError, match="No space left"):
                fill()
            kept = index.instances(patient_id="P1")
            names = [path.name for path in journal.folder.rglob("*") if path.is_file()]
            assert 5 <= len(kept) == len(names)
            assert all(name.endswith(".dcm") for name in names)
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            assert receive(20) == "added"
    finally:
        subprocess.run(["umount", str(disk)], check=False)
