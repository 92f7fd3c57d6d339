# SPDX-License-Identifier: Apache-2.0
"""RTK's own reader, writer and FDK judge what we exchange with it: the same rays at the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.exchange_export import OpenedSource, export_scan
from ingest.readers import SourceOptions
from ingest.readers.array import open_source as open_array
from ingest.readers.exchange import open_source
from reconstruction.exchange.files import geometry_bytes, read_geometry
from reconstruction.exchange.panels import Panel
from reconstruction.exchange.rtk import centered_origin, to_rtk
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import marker_phantom
from reconstruction.projector import forward_project
from tests.support import rtk_exchange
from tests.support.reader_samples_exchange import small_geometry, write_source


def wobbling(n_views=9):
    """Sources and panels moved and turned otherwise in each view."""
    rng = np.random.default_rng(3)
    poses = small_geometry(n_views, 40, 50, tilted=True).poses.copy()
    poses[:, :6] += rng.normal(0, 2, (n_views, 6))
    for view in range(n_views):
        axis = rng.normal(0, 0.1, 3)
        for step in (slice(6, 9), slice(9, 12)):
            poses[view, step] = rotate(axis, poses[view, step])
    return ConeBeamGeometry(poses, 40, 50)


def rotate(axis, vector):
    """Rodrigues' formula."""
    angle = np.linalg.norm(axis)
    k = axis / angle
    return vector * np.cos(angle) + np.cross(k, vector) * np.sin(angle) + k * (k @ vector) * (1 - np.cos(angle))


@pytest.mark.parametrize("make", [lambda: small_geometry(9, 40, 50), wobbling])
def test_rtk_reads_our_xml(rtk, make, tmp_path):
    geometry = make()
    path = tmp_path / "geometry.xml"
    path.write_bytes(geometry_bytes(geometry, "rtk"))
    theirs = rtk.call(rtk_exchange.read_xml, str(path))
    ours = to_rtk(geometry)
    np.testing.assert_allclose(theirs["matrices"], ours.matrices, atol=1e-9)
    np.testing.assert_allclose(np.array(theirs["sources"])[:, [2, 0, 1]], geometry.poses[:, :3], atol=1e-9)
    for name in ("source_to_isocenter_mm", "source_to_detector_mm", "projection_offset_x_mm", "source_offset_y_mm"):
        np.testing.assert_allclose(theirs[name], getattr(ours, name), atol=1e-9)
    # Its matrix takes pixels of the panel to where our poses have them: the foot of every corner.
    centre = geometry.poses[:, 3:6]
    for row, col in ((0, 0), (0, 49), (39, 0)):
        point = centre + (col - 24.5) * geometry.poses[:, 6:9] + (row - 19.5) * geometry.poses[:, 9:12]
        shot = np.einsum("vij,vj->vi", theirs["matrices"], np.c_[point[:, [1, 2, 0]], np.ones(len(point))])
        expected = np.array([[(col - 24.5) * 0.9, (row - 19.5) * 1.1]])
        np.testing.assert_allclose(shot[:, :2] / shot[:, 2:], np.broadcast_to(expected, (9, 2)), atol=1e-8)


@pytest.mark.parametrize("make", [lambda: small_geometry(9, 40, 50), wobbling])
def test_we_read_rtks_xml(rtk, make, tmp_path):
    geometry = make()
    path = tmp_path / "theirs.xml"
    rtk.call(rtk_exchange.write_xml, str(path), geometry.poses)
    got = read_geometry(path, panel=Panel(40, 50, 0.9, 1.1)).geometry
    # RTK writes 15 digits.
    np.testing.assert_allclose(got.poses, geometry.poses, atol=1e-10 * geometry.sdd_mm)


def test_itks_images_are_read_alike(rtk, tmp_path):
    frames = np.random.default_rng(1).normal(0, 1, (9, 40, 50)).astype(np.float32)
    geometry = small_geometry(9, 40, 50)
    u, v = centered_origin(geometry)
    paths = {suffix: tmp_path / suffix / f"projections.{suffix}" for suffix in ("mha", "mhd", "nii")}
    for path in paths.values():
        path.parent.mkdir()
        (path.parent / "geometry.xml").write_bytes(geometry_bytes(geometry, "rtk"))
    names = [str(path) for path in paths.values()]
    rtk.call(rtk_exchange.write_images, frames, [0.9, 1.1, 1.0], [u + 2.0, v - 3.0, 0.0], names)
    for path in paths.values():
        reader = open_source(path.parent, SourceOptions())
        np.testing.assert_array_equal(reader.read_views(0, 9)[0], frames)
        moved = reader.scan.geometry.poses[:, 3:6] - geometry.poses[:, 3:6]
        expected = 2.0 / 0.9 * geometry.poses[:, 6:9] - 3.0 / 1.1 * geometry.poses[:, 9:12]
        np.testing.assert_allclose(moved, expected, atol=1e-5 if path.suffix == ".nii" else 1e-9)
        reader.close()


def test_rtk_reconstructs_an_exported_set_as_we_do(rtk, tmp_path):
    geometry = small_geometry(90, 40, 50)
    grid = VolumeGrid((14, 24, 20), (0.9, 0.8, 0.7), (0.5, -0.3, 0.4))
    projections = forward_project(marker_phantom(11.0), geometry)
    # Counts with flat frames: the export has to make line integrals of them.
    counts = (np.exp(-projections) * 5e4).astype(np.float32)
    source = write_source(
        tmp_path / "source", counts[None], geometry, text="[scan]\ncontent = 'counts'\n",
        flats=np.full((1, 1, 40, 50), 5e4, np.float32),
    )  # fmt: skip
    reader = open_array(source, SourceOptions())
    report = export_scan(OpenedSource(reader), "rtk", tmp_path / "set")
    assert report.files == ("geometry.xml", "projections.mha", "scan.toml")
    theirs = rtk.call(rtk_exchange.fdk, str(tmp_path / "set"), grid.shape, grid.voxel_pitch_mm, grid.origin_mm)
    again = open_source(tmp_path / "set", SourceOptions())
    ours = reconstruct(
        again.read_views(0, 90)[0], again.scan.geometry, grid, parameters=FdkParameters(redundancy="none")
    )
    scale = np.sqrt(np.mean(theirs.astype(np.float64) ** 2))
    assert np.sqrt(np.mean((ours.astype(np.float64) - theirs) ** 2)) / scale < 1e-5
    for wrong in (ours[::-1], ours[:, ::-1], ours[:, :, ::-1]):
        assert np.sqrt(np.mean((wrong.astype(np.float64) - theirs) ** 2)) / scale > 0.05
