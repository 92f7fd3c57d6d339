# SPDX-License-Identifier: Apache-2.0
"""The DICOM server counts what it does, failures apart from what went well."""

from __future__ import annotations

import pytest

from pacs.errors import PeerError
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from pacs.scp import PacsServer, ScpConfig
from pacs.scu import Peer, echo, find, get, kinds_of, send
from storage.filesystem import open_store
from tests.support.dicom_objects import CT, make_ct, part10
from tests.support.index_engine import sqlite_index
from tests.support.waiting import wait_until


def test_associations_operations_and_bytes_are_counted(tmp_path):
    journal = Journal(tmp_path / "journal")
    with sqlite_index(tmp_path / "index.sqlite") as index:
        reader = InstanceReader(open_store(tmp_path / "store"), journal)
        config = ScpConfig(port=0, check_called_ae_title=True)
        with PacsServer(config, index=index, reader=reader, journal=journal) as server:
            peer = Peer("127.0.0.1", server.port, "CONEPACS", timeout_s=10)
            assert server.counters.counts().associations == 0
            echo(peer)
            with pytest.raises(PeerError):
                echo(Peer("127.0.0.1", server.port, "OTHER", timeout_s=10))
            objects = [("ct", part10(make_ct(number))) for number in (1, 2)]
            send(peer, objects, kinds_of(objects)[0])
            find(peer, "STUDY", {"PatientID": "P1"})
            with pytest.raises(PeerError):
                find(peer, "STUDY", {"StudyDate": "never"})
            received = []
            get(peer, "STUDY", {"StudyInstanceUID": "1.2.826.1.1"}, received.append, sop_classes=[CT])
            for path in (tmp_path / "journal").rglob("*.dcm"):
                path.unlink()
            with pytest.raises(PeerError, match="A702"):
                get(peer, "STUDY", {"StudyInstanceUID": "1.2.826.1.1"}, received.append, sop_classes=[CT])
            wait_until("all are over", lambda: server.counters.counts().open_associations == 0)
            counts = server.counters.counts()
    assert (counts.associations, counts.rejected) == (6, 1)
    assert counts.operations == {
        ("C-ECHO", "done"): 1, ("C-STORE", "done"): 2, ("C-FIND", "done"): 1, ("C-FIND", "failed"): 1,
        ("C-GET", "done"): 1, ("C-GET", "failed"): 1,
    }  # fmt: skip
    assert len(received) == 2
    sizes = [len(content) for _, content in objects]
    assert 0 < counts.sent_bytes < 2 * sum(sizes)
    assert 0 < counts.received_bytes < sum(sizes)
    assert counts.seconds.keys() == {"C-ECHO", "C-STORE", "C-FIND", "C-GET"}
