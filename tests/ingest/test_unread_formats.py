# SPDX-License-Identifier: Apache-2.0
"""Formats that are known but not read are refused by their name."""

from __future__ import annotations

import pytest

from ingest.errors import FrameFormatError
from ingest.readers import detect
from ingest.readers.unread import OLE_MAGIC


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scan.txm", OLE_MAGIC, r"is a volume that Zeiss reconstructed \(\.txm\), not projections: name the \.txrm"),
        ("scan.doc", OLE_MAGIC, "is an OLE file"),
        ("hits.t3pa", b"", "Timepix events, not frames: bin them into frames"),
        ("scan.txrm", b"not OLE", "not recognised as any of"),
        ("notes.txt", b"hello", "not recognised as any of"),
        ("program.log", b"[Main]\nx=1\n", "not recognised as any of"),
    ],
)
def test_files_are_named_by_suffix_and_start(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameFormatError, match=message):
        detect(tmp_path / name)


def test_a_folder_is_not_a_file_of_a_format(tmp_path):
    with pytest.raises(FrameFormatError, match="not recognised as any of"):
        detect(tmp_path)
