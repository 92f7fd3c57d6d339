# SPDX-License-Identifier: Apache-2.0
"""What `inspect` says of the files of scanners and imagers."""

from __future__ import annotations

import pytest

from ingest.inspect import inspect_source, inspection_table
from ingest.readers import open_source
from tests.support.reader_samples_imagers import SAMPLES

#: Source to axis and to detector as printed; None: the files give no cone.
DISTANCES = {
    "skyscan": "100.000 mm, 200.000 mm",
    "zeiss_cone": "25.000 mm, 100.000 mm",
    "zeiss_images": None,
    "varian_xim": "1000.000 mm, 1500.000 mm",
    "varian_hnd": "1000.000 mm, 1500.000 mm",
    "varian_hnc": "1000.000 mm, 1500.000 mm",
    "elekta": "1000.000 mm, 1536.000 mm",
    "pixet_text": None,
    "pixet_series": None,
}


@pytest.mark.parametrize("name", DISTANCES)
def test_it_prints_what_the_files_say(name, tmp_path):
    sample = SAMPLES[name](tmp_path)
    reader = open_source(sample.source)
    try:
        table = {str(row[0]): str(row[1]) for row in inspection_table(inspect_source(reader))}
    finally:
        reader.close()
    n_bins, n_views, n_rows, n_cols = sample.frames.shape
    assert f"(source, {sample.source_format}, " in table["scan"]
    assert table["panel"] == f"{n_rows} rows x {n_cols} columns"
    assert table["views"].startswith(f"{n_views} of {n_views}")
    assert sum(key.startswith("bin ") for key in table) == n_bins
    assert table.get("source to axis, to detector") == DISTANCES[name]
