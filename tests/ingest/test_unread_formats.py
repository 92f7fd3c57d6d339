# SPDX-License-Identifier: Apache-2.0
"""Formats that are known but not read are refused by their name."""

from __future__ import annotations

import pytest

from ingest.errors import FrameFormatError
from ingest.readers import detect, open_source
from ingest.readers.unread import OLE_MAGIC
from tests.support.peers import real_data_path


@pytest.mark.real_data
def test_the_real_zeiss_file_is_refused_by_name():
    path = real_data_path("zeiss_txrm") / "txrm_test_chip_tomo.txrm"
    with pytest.raises(FrameFormatError, match=r"tomo.txrm is a Zeiss XRM/TXRM \(OLE\) file; no reader for it yet"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scan.xrm", OLE_MAGIC, "Zeiss XRM/TXRM"),
        ("scan.TXRM", OLE_MAGIC + bytes(100), "Zeiss XRM/TXRM"),
        ("scan.doc", OLE_MAGIC, "is an OLE file"),
        ("hits.t3pa", b"", "Timepix events"),
        ("scan.txrm", b"not OLE", "not recognised as any of"),
        ("notes.txt", b"hello", "not recognised as any of"),
    ],
)
def test_files_are_named_by_suffix_and_start(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameFormatError, match=message):
        detect(tmp_path / name)


def test_a_folder_is_not_a_file_of_a_format(tmp_path):
    with pytest.raises(FrameFormatError, match="not recognised as any of"):
        detect(tmp_path)
