# SPDX-License-Identifier: Apache-2.0
"""txrm2tiff, the converter of a beamline with Zeiss microscopes, reads the same bytes as our reader."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest

from ingest.readers import SourceOptions, open_source
from tests.support.peers import further_data_path, real_data_path, require_peer
from tests.support.reader_samples_imagers import zeiss_cone


def read_by_peer(path):
    """Images, references, angles [deg] and shifts [pixels] as txrm2tiff reads them."""
    require_peer("txrm2tiff", importlib.util.find_spec("txrm2tiff") is not None, "pip install txrm2tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from txrm2tiff.txrm import open_txrm

        with open_txrm(str(path), load_images=True, load_reference=True) as txrm:
            reference = None
            if txrm.has_reference:
                reference = txrm.get_reference(load=True) * (txrm.exposures[0] / txrm.reference_exposure)
            shifts = [txrm.x_shifts or [], txrm.y_shifts or []]
            return (
                np.array(txrm.get_images(load=True)),
                None if reference is None else np.array(reference),
                np.array(txrm.read_stream("ImageInfo/Angles")),
                np.array(shifts),
            )


def compare(path):
    images, reference, angles, shifts = read_by_peer(path)
    reader = open_source(path, options=SourceOptions(scan_id="x"))
    try:
        scan = reader.scan
        np.testing.assert_array_equal(reader.read_views(0, scan.n_views)[0], images)
        if reference is None:
            assert reader.read_flats() is None
        else:
            np.testing.assert_allclose(reader.read_flats()[0, 0], reference, rtol=1e-6)
        return scan, angles, shifts
    finally:
        reader.close()


def test_a_cone(tmp_path):
    scan, angles, shifts = compare(zeiss_cone(tmp_path).source)
    np.testing.assert_allclose(np.rad2deg(scan.geometry.source_angles_rad) % 360, -angles % 360, atol=1e-4)
    poses = scan.geometry.poses
    moved = (poses[:, 3:6] + 3 * poses[:, :3]) @ np.stack([poses[0, 9:12], poses[0, 9:12]], axis=1)
    np.testing.assert_allclose(moved[:, 0] / scan.geometry.pitch_mm[0] ** 2, shifts[1], atol=1e-6)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (lambda: real_data_path("zeiss_txrm"), "txrm_test_chip_tomo.txrm"),
        (lambda: further_data_path("further_zeiss", "test/test_data of data-exchange/dxchange"), "test_chip00.xrm"),
    ],
    ids=["txrm", "xrm"],
)
def test_real_files(folder, name):
    path = folder() / name
    scan, angles, _ = compare(path)
    np.testing.assert_allclose(-np.rad2deg(scan.parallel.angles_rad), angles, atol=1e-6)
