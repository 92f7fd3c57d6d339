# SPDX-License-Identifier: Apache-2.0
"""Whole sets for other programs: what is written is what is read again, and what is not clear is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IngestError, ScanDescriptionError
from ingest.exchange_export import TARGETS, OpenedSource, export_scan
from ingest.readers import SourceOptions
from ingest.readers.array import open_source as open_array
from ingest.readers.exchange import looks_like, open_source
from ingest.readers.image_stacks import ImageStack, meta_header
from reconstruction.errors import CalibrationError, GeometryError
from reconstruction.exchange.files import geometry_bytes
from reconstruction.geometry import ConeBeamGeometry
from tests.support.reader_samples_exchange import exported, small_geometry, write_source

FRAMES = np.random.default_rng(1).normal(1, 0.3, (1, 5, 4, 6)).astype(np.float32)


def opened(source, **settings):
    return open_source(source, SourceOptions(settings=settings))


def read_all(source, **settings):
    reader = opened(source, **settings)
    try:
        return reader.scan, reader.read_views(0, reader.scan.n_views)
    finally:
        reader.close()


@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_set_comes_back_with_pixels_poses_and_bins(target, tilted, tmp_path):
    frames = np.concatenate([FRAMES, FRAMES + 1])
    scan, got = read_all(exported(tmp_path, target, frames, tilted=tilted))
    np.testing.assert_array_equal(got, frames)
    np.testing.assert_allclose(scan.geometry.poses, small_geometry(tilted=tilted).poses, atol=1e-9)
    assert [energy_bin.label for energy_bin in scan.bins] == ["20-40 keV", ">40 keV"]
    assert (scan.content, scan.scan_id) == ("line_integrals", "source")


@pytest.mark.parametrize("content", ["counts", "normalized"])
def test_line_integrals_are_made_unless_frames_are_wanted_as_stored(content, tmp_path):
    counts = np.random.default_rng(2).integers(900, 40000, (1, 5, 4, 6)).astype(np.uint16)
    text = f"[scan]\ncontent = '{content}'\n" + ("white_level = 50000.0\n" if content == "normalized" else "")
    arrays = {"flats": np.full((1, 2, 4, 6), 50000, np.uint16)} if content == "counts" else {}
    source = write_source(tmp_path / "source", counts, small_geometry(), text=text, **arrays)
    for as_stored in (False, True):
        reader = open_array(source, SourceOptions())
        seen = []
        folder = tmp_path / str(as_stored)
        export_scan(
            OpenedSource(reader), "tigre", folder, as_stored=as_stored, progress=lambda *at, seen=seen: seen.append(at)
        )
        reader.close()
        scan, got = read_all(folder)
        assert seen[-1] == (5, 5)
        if as_stored:
            assert (scan.content, scan.white_level) == (content, 50000.0 if content == "normalized" else None)
            np.testing.assert_array_equal(got, counts)
            assert scan.flats == (None if content == "normalized" else reader.scan.flats)
        else:
            assert scan.content == "line_integrals"
            np.testing.assert_allclose(got, np.log(50000 / counts), rtol=1e-5)


def test_counts_without_flats_cannot_become_line_integrals(tmp_path):
    source = write_source(tmp_path / "a", FRAMES, small_geometry(), text="[scan]\ncontent = 'counts'\n")
    reader = open_array(source, SourceOptions())
    with pytest.raises(CalibrationError, match="need flat fields"):
        export_scan(OpenedSource(reader), "rtk", tmp_path / "set")
    reader.close()


def test_what_a_target_cannot_hold_is_refused_before_a_folder_is_made(tmp_path):
    poses = small_geometry().poses.copy()
    poses[2, 6:9] *= 1.01
    source = write_source(
        tmp_path / "a", FRAMES, ConeBeamGeometry(poses, 4, 6), text="[scan]\ncontent = 'line_integrals'\n"
    )
    reader = open_array(source, SourceOptions())
    for target in sorted(set(TARGETS) - {"astra"}):
        with pytest.raises(GeometryError, match="ASTRA vectors can hold that"):
            export_scan(OpenedSource(reader), target, tmp_path / "set")
        assert not (tmp_path / "set").exists()
    with pytest.raises(ScanDescriptionError, match="exported to one of rtk"):
        export_scan(OpenedSource(reader), "odl", tmp_path / "set")
    export_scan(OpenedSource(reader), "astra", tmp_path / "set")
    with pytest.raises(ScanDescriptionError, match="not an empty folder"):
        export_scan(OpenedSource(reader), "astra", tmp_path / "set")
    reader.close()


def test_a_scan_without_poses_is_not_exported(tmp_path):
    np.save(tmp_path / "p.npy", FRAMES)
    reader = open_array(tmp_path / "p.npy", SourceOptions())
    with pytest.raises(ScanDescriptionError, match="no cone-beam geometry"):
        export_scan(OpenedSource(reader), "rtk", tmp_path / "set")
    reader.close()


def test_layouts_and_pitch_by_setting(tmp_path):
    np.save(tmp_path / "p.npy", FRAMES[0].transpose(2, 0, 1))
    (tmp_path / "geometry.xml").write_bytes(geometry_bytes(small_geometry(), "rtk"))
    scan, got = read_all(tmp_path, layout="col,view,row", pitch_u_mm=0.9, pitch_v_mm=1.1)
    np.testing.assert_array_equal(got, FRAMES)
    np.testing.assert_allclose(scan.geometry.poses, small_geometry().poses, atol=1e-9)
    assert "Floating pixels without a description are taken for line integrals." in scan.notes
    with pytest.raises(ScanDescriptionError, match="give pitch_u_mm and pitch_v_mm"):
        opened(tmp_path, layout="col,view,row")
    with pytest.raises(FrameFormatError, match="a layout names view, row and col"):
        opened(tmp_path, layout="x,y,z")
    with pytest.raises(ScanDescriptionError, match="positive length"):
        opened(tmp_path, layout="col,view,row", pitch_mm=-1)
    with pytest.raises(ScanDescriptionError, match="unknown key 'pitch'"):
        opened(tmp_path, pitch=1)


def test_a_table_of_vectors_needs_to_be_named(tmp_path):
    np.save(tmp_path / "sino.npy", FRAMES[0].transpose(1, 0, 2))
    (tmp_path / "vectors.txt").write_bytes(geometry_bytes(small_geometry(), "astra", ".txt"))
    assert not looks_like(tmp_path)
    scan, got = read_all(tmp_path, geometry="vectors.txt", program="astra")
    np.testing.assert_array_equal(got, FRAMES)
    np.testing.assert_allclose(scan.geometry.poses, small_geometry().poses, atol=1e-12)
    scan, _ = read_all(tmp_path, geometry="vectors.txt", program="astra", unit_mm=0.5)
    np.testing.assert_allclose(scan.geometry.poses, small_geometry().poses / 2, atol=1e-12)


def test_which_files_are_meant_must_be_clear(tmp_path):
    xml = geometry_bytes(small_geometry(), "rtk")
    (tmp_path / "a.xml").write_bytes(xml)
    with pytest.raises(FrameFormatError, match=r"one stack of projections .* got none"):
        opened(tmp_path)
    for name in ("one.npy", "two.npy"):
        np.save(tmp_path / name, FRAMES[0])
    with pytest.raises(FrameFormatError, match=r"got one\.npy, two\.npy: name it in \[files\] projections"):
        opened(tmp_path)
    (tmp_path / "b.xml").write_bytes(xml)
    with pytest.raises(FrameFormatError, match=r"got a\.xml, b\.xml: name it by --set geometry=FILE"):
        opened(tmp_path)
    with pytest.raises(ScanDescriptionError, match=r"c\.xml does not exist"):
        opened(tmp_path, geometry="c.xml")
    with pytest.raises(ScanDescriptionError, match="repeat_views"):
        opened(tmp_path, repeat_views=3)


def test_projections_and_geometry_must_be_of_the_same_scan(tmp_path):
    np.save(tmp_path / "p.npy", FRAMES[0, :4].transpose(1, 0, 2))
    (tmp_path / "geometry.json").write_bytes(geometry_bytes(small_geometry(), "astra", ".json"))
    with pytest.raises(ScanDescriptionError, match="have 4 views of 4 rows x 6 columns, but the astra geometry has 5"):
        opened(tmp_path)


def nifti(frames, *, order="<", sform=None, qform=None, slope=1.0, intercept=0.0, pixdim=(0.9, 1.1, 1.0)):
    """A NIfTI-1 file by hand, from the published layout of its header."""
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    n_views, n_rows, n_cols = frames.shape
    struct.pack_into(order + "8h", header, 40, 3, n_cols, n_rows, n_views, 1, 1, 1, 1)
    struct.pack_into(order + "2h", header, 70, {"f4": 16, "i2": 4}[frames.dtype.str[1:]], frames.itemsize * 8)
    struct.pack_into(order + "8f", header, 76, 1.0, *pixdim, 0, 0, 0, 0)
    struct.pack_into(order + "3f", header, 108, 352, slope, intercept)
    struct.pack_into(order + "2h", header, 252, int(qform is not None), int(sform is not None))
    if qform is not None:
        struct.pack_into(order + "6f", header, 256, *qform)
    if sform is not None:
        struct.pack_into(order + "12f", header, 280, *sform)
    header[344:348] = b"n+1\0"
    return bytes(header) + frames.astype(frames.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "form",
    [
        {"sform": (-0.9, 0, 0, 2.0, 0, -1.1, 0, 3.0, 0, 0, 1, 0)},
        {"qform": (0, 0, 1, 2.0, 3.0, 0)},  # half a turn about z
    ],
)
def test_niftis_axes_are_turned_to_itks(order, form, tmp_path):
    path = tmp_path / "p.nii"
    path.write_bytes(nifti(FRAMES[0], order=order, **form))
    stack = ImageStack(path)
    np.testing.assert_array_equal([stack.read(i) for i in range(5)], FRAMES[0])
    np.testing.assert_allclose(stack.header.spacing_mm, (0.9, 1.1, 1.0), rtol=1e-6)
    np.testing.assert_allclose(stack.header.origin_mm, (-2.0, -3.0, 0.0), rtol=1e-6)
    stack.close()


def test_niftis_scale_is_applied(tmp_path):
    path = tmp_path / "p.nii"
    path.write_bytes(nifti(np.arange(24, dtype=np.int16).reshape(1, 4, 6), slope=0.5, intercept=-1.0))
    stack = ImageStack(path)
    np.testing.assert_array_equal(stack.read(0).ravel(), np.arange(24) * 0.5 - 1)
    assert stack.dtype == np.float32
    stack.close()


BAD_STACKS = {
    "a.mha": (b"NDims = 3\n", "does not end in ElementDataFile"),
    "b.mha": (
        b"DimSize = 6 4 5\nElementType = MET_FLOAT\nCompressedData = True\nElementDataFile = LOCAL\n",
        "compressed",
    ),
    "c.mha": (b"DimSize = 6 4 5\nElementType = MET_STRING\nElementDataFile = LOCAL\n", "expected one number each"),
    "d.mha": (
        b"DimSize = 6 4\nElementType = MET_FLOAT\nTransformMatrix = 0 1 1 0\nElementDataFile = LOCAL\n",
        "turned",
    ),
    "e.mhd": (b"DimSize = 6 4 5\nElementType = MET_FLOAT\nElementDataFile = e.raw\n", "which is not there"),
    "f.mha": (b"DimSize = 6 0 5\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n", "at least 1"),
    "g.mha": (b"DimSize = 6 x 5\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n", "should hold numbers"),
    "h.nii": (b"\0" * 100, "a NIfTI header has 348 bytes"),
    "i.nii": (b"\0" * 400, "not a NIfTI-1 file"),
    "j.nii": (nifti(FRAMES[0], sform=(0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)), "turned"),
    "k.nii": (nifti(FRAMES[0])[:-9], "truncated"),
}


@pytest.mark.parametrize("name", sorted(BAD_STACKS))
def test_images_that_are_not_read_are_refused(name, tmp_path):
    content, reason = BAD_STACKS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameFormatError, match=reason) as error:
        ImageStack(tmp_path / name)
    assert name.split(".")[0] in str(error.value)


def test_a_meta_image_may_keep_its_pixels_in_another_file(tmp_path):
    frames = FRAMES[0].astype(">f4")
    header = meta_header((6, 4, 5), np.dtype("<f4"), (0.9, 1.1, 1.0), (1.0, 2.0, 0.0)).decode()
    text = header.replace("LOCAL", "p.raw").replace("OrderMSB = False", "OrderMSB = True")
    (tmp_path / "p.mhd").write_text(text)
    (tmp_path / "p.raw").write_bytes(frames.tobytes())
    stack = ImageStack(tmp_path / "p.mhd")
    np.testing.assert_array_equal(stack.read(4), FRAMES[0, 4])
    assert stack.header.origin_mm == (1.0, 2.0, 0.0)
    stack.close()
    with pytest.raises(FrameFormatError, match="cannot hold pixels of type complex64"):
        meta_header((6, 4, 5), np.dtype("<c8"), (1, 1, 1), (0, 0, 0))


def test_matlab_and_nexus_files_that_are_not_what_they_should_be(tmp_path):
    h5py = pytest.importorskip("h5py")
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"geo": 3.0})
    with pytest.raises(FrameFormatError, match="'geo' is no struct"):
        opened(tmp_path / "a.mat")
    savemat(tmp_path / "b.mat", {"geo": {"DSD": 1.0}, "angles": [0.0]})
    with pytest.raises(ScanDescriptionError, match="lacks the field 'DSO'"):
        opened(tmp_path / "b.mat")
    with h5py.File(tmp_path / "c.nxs", "w") as file:
        file.attrs["creator"] = np.bytes_("NEXUSDataWriter.py")
    assert looks_like(tmp_path / "c.nxs")
    with pytest.raises(FrameFormatError, match="holds no projections"):
        opened(tmp_path / "c.nxs")
    with pytest.raises(IngestError, match="order should be python or matlab"):
        opened(tmp_path / "a.mat", order="fortran")
