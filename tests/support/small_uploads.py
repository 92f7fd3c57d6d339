# SPDX-License-Identifier: Apache-2.0
"""Uploads of a small scan, and what must be stored then."""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from ingest.chunks import open_scan_chunks

#: 8 views of 2 bins of 6 x 5 pixels: two views a block, two blocks a file.
SMALL = {"memory_bytes": 2 * 2 * 6 * 5 * 2, "file_bytes": 4 * 6 * 5 * 2, "streams": 1}
N_FILES = 2 * 2 + 2 + 2 + 1  # projections, flats, darks, bad pixels


def check_stored(store, reader) -> None:
    scan = open_scan_chunks(store, reader.scan.scan_id)
    assert scan.scan == reader.scan
    for bin_index in range(reader.scan.n_bins):
        for block, (start, stop) in enumerate(scan.view_blocks):
            rows = scan.read_rows(bin_index, block, 0, reader.scan.n_rows)
            np.testing.assert_array_equal(rows, reader.frames[bin_index, start:stop])
        for read, frames in ((scan.read_flats, reader.flats), (scan.read_darks, reader.darks)):
            if frames is not None:
                np.testing.assert_array_equal(read(bin_index), frames[bin_index])
    for file in scan.manifest.files:
        content = store.read_bytes(f"scans/{reader.scan.scan_id}/{file.name}")
        assert (len(content), blake3(content).hexdigest()) == (file.bytes, file.digest)
