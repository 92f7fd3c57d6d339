# SPDX-License-Identifier: Apache-2.0
"""RTK reads the same bytes of Varian's and Elekta's files, and its poses put points on the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.readers import SourceOptions, open_source
from tests.support import rtk_files, vendor_scans
from tests.support.imager_maker import his_bytes
from tests.support.reader_samples_imagers import SAMPLES, counts

#: Points of our frame [mm].
POINTS = np.array([(0.0, 0.0, 0.0), (40.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 50.0), (-20.0, 35.0, -10.0)])
PATTERNS = {"varian_xim": "Acquisitions/*/*.xim", "varian_hnd": "*.hnd", "varian_hnc": "*.hnc", "elekta": "*.his"}


def opened(name, folder):
    sample = SAMPLES[name](folder)
    paths = sorted(folder.glob(PATTERNS[name]))
    return open_source(sample.source, options=SourceOptions(scan_id="x")), paths


@pytest.mark.parametrize("name", PATTERNS)
def test_rtk_reads_the_same_pixels(name, tmp_path, rtk):
    reader, paths = opened(name, tmp_path)
    views = reader.read_views(0, reader.scan.n_views)[0]
    if name == "varian_xim":
        # RTK does not read files without pixels, nor those that are not compressed.
        paths, views = [paths[1], *paths[3:-1]], views[[0, 2, 3]]
    assert len(paths) == len(views)
    for path, view in zip(paths, views, strict=True):
        pixels, spacing = rtk.call(rtk_files.frame, str(path))
        expected = view if name != "elekta" else np.where(view == 65535, pixels, 65536.0 - view)
        np.testing.assert_array_equal(pixels, expected)
        assert reader.scan.geometry.pitch_mm == pytest.approx(spacing[::-1])


def test_rtk_makes_the_same_line_integrals_of_elektas_values(tmp_path, rtk):
    """Also where a value of 0 or 65535 stands for no attenuation."""
    values = counts(3, 24, 24, high=65535)
    values[0, 10, 10:12] = (0, 65535)
    paths = [tmp_path / f"{number}.his" for number in range(3)]
    for path, frame in zip(paths, values, strict=True):
        path.write_bytes(his_bytes(frame))
    reader = open_source(tmp_path)
    ours = -np.log(reader.read_views(0, 3)[0] / reader.scan.white_level)
    # RTK crops Elekta's frames by four pixels on each side.
    theirs = rtk.call(rtk_files.line_integrals, [str(path) for path in paths])
    np.testing.assert_allclose(theirs, ours[:, 4:-4, 4:-4], atol=2e-6)


def pixels_of(geometry, view):
    """(column, row) of the points' shadows by our poses."""
    source, center, u_step, v_step = geometry.poses[view].reshape(4, 3)
    shadows = []
    for point in POINTS:
        i, j, _ = np.linalg.solve(np.stack([u_step, v_step, source - point], axis=1), source - center)
        shadows.append((i + (geometry.n_cols - 1) / 2, j + (geometry.n_rows - 1) / 2))
    return np.array(shadows)


@pytest.mark.parametrize("name", [*PATTERNS, "turning varian", "turning elekta"])
def test_rtks_poses_put_points_on_the_same_pixels(name, tmp_path, rtk):
    """Sense, zero and offsets of both readers agree, also where the panel moves from view to view."""
    kind = "elekta" if "elekta" in name else "obi" if name in ("varian_hnd", "varian_hnc") else "xim"
    if name.startswith("turning"):
        source, _ = vendor_scans.SCANS[name.split()[1]](tmp_path)
        reader, paths = open_source(source), sorted(tmp_path.glob("Proj_*.xim"))
    else:
        reader, paths = opened(name, tmp_path)
    xml = {"elekta": "_Frames.xml", "xim": "Scan.xml", "obi": "ProjectionInfo.xml"}[kind]
    if name == "varian_xim":
        paths = paths[1:-1]
    matrices = rtk.call(rtk_files.matrices, kind, str(tmp_path / xml), [str(path) for path in paths])
    geometry = reader.scan.geometry
    assert len(matrices) == geometry.n_views
    pitch_v, pitch_u = geometry.pitch_mm
    for view, matrix in enumerate(matrices):
        on_panel = matrix @ np.column_stack([POINTS[:, [1, 2, 0]], np.ones(len(POINTS))]).T
        u, v = on_panel[:2] / on_panel[2]
        expected = np.stack([u / pitch_u + (geometry.n_cols - 1) / 2, v / pitch_v + (geometry.n_rows - 1) / 2], axis=1)
        np.testing.assert_allclose(pixels_of(geometry, view), expected, atol=1e-4)
