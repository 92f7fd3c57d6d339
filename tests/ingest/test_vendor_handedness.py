# SPDX-License-Identifier: Apache-2.0
"""A specimen that no mirror image leaves as it is, through a vendor's files and reader into a volume: it stays right.

The files are made in the laboratory's terms (table, source, panel), not with poses.  What this cannot show is whether
a vendor's scanner really does what its documents, and the programs that read its files, say.
"""

from __future__ import annotations

import numpy as np
import pytest

from ingest.readers import SourceOptions, open_source
from reconstruction.correction import prepare_fields, to_line_integrals
from reconstruction.fdk import reconstruct
from reconstruction.geometry import VolumeGrid
from tests.support import vendor_scans

N = 32
WRONG = {
    "mirrored in x": np.s_[:, :, ::-1],
    "mirrored in y": np.s_[:, ::-1],
    "upside down": np.s_[::-1],
    "half a turn on": np.s_[:, ::-1, ::-1],
}


def volume_of(source, radius_mm):
    reader = open_source(source, options=SourceOptions(scan_id="stone"))
    scan, views = reader.scan, reader.read_views(0, reader.scan.n_views)[0]
    if scan.content == "normalized":
        lines = -np.log(np.maximum(views.astype(np.float64), 1) / scan.white_level)
    else:
        flats = reader.read_flats()[0]
        lines, _ = to_line_integrals(views, prepare_fields(flats, np.zeros_like(flats)))
    reader.close()
    grid = VolumeGrid.cubic(N, 2 * radius_mm / N)
    return reconstruct(np.ascontiguousarray(lines, np.float32), scan.geometry, grid)


def error(volume, expected):
    """Relative RMSE within the field, away from its top and bottom, where a circle's cone beam is not exact."""
    x = np.linspace(-1, 1, N)
    inside = (np.hypot(x[:, None], x[None]) < 0.85)[None] & (np.abs(x) < 0.6)[:, None, None]
    return np.sqrt(np.mean((volume - expected)[inside] ** 2) / np.mean(expected[inside] ** 2))


@pytest.mark.parametrize("name", [*vendor_scans.SCANS, "skyscan clockwise"])
def test_a_specimen_comes_out_as_it_stood(name, tmp_path):
    maker, _, other = name.partition(" ")
    options = {"direction": "CW"} if other else {}
    source, radius_mm = vendor_scans.SCANS[maker](tmp_path, **options)
    volume, truth = volume_of(source, radius_mm), vendor_scans.specimen(N, radius_mm)
    right = error(volume, truth)
    assert right < 0.1
    for wrong, view in WRONG.items():
        assert error(volume[view], truth) > 3 * right, wrong
    for quarter in (1, 3):
        assert error(np.rot90(volume, quarter, axes=(1, 2)), truth) > 3 * right


def test_the_other_sense_makes_a_worse_picture(tmp_path):
    """What a wrong direction of the table does: `table_turns` of a scan.toml wins over the log."""
    source, radius_mm = vendor_scans.skyscan(tmp_path)
    truth = vendor_scans.specimen(N, radius_mm)
    right = error(volume_of(source, radius_mm), truth)
    (tmp_path / "scan.toml").write_text('[geometry]\ntable_turns = "clockwise"\n')
    wrong = volume_of(source, radius_mm)
    assert min(error(wrong, truth), error(wrong[:, ::-1], truth)) > 1.5 * right
