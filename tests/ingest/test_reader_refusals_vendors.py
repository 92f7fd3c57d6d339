# SPDX-License-Identifier: Apache-2.0
"""Refusals of the vendors' readers that their own tests do not bring about, and that the advice in them is right."""

from __future__ import annotations

import errno
import struct

import h5py
import numpy as np
import olefile
import pytest
import tifffile
from scipy.io import savemat

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.elekta import HisFile
from ingest.readers.varian_frames import ObiFile, XimFile
from tests.support.hdf5_maker import htc_struct, write_mat5, write_mat73
from tests.support.imager_maker import his_bytes, obi_bytes, xim_bytes
from tests.support.ole_maker import write_txrm
from tests.support.reader_samples_imagers import elekta, skyscan, varian_xim
from tests.support.reader_samples_plain import counts, nikon

ADVICE = "add it, or describe the scan in a scan.toml and read the pictures with the tiff reader"
OWN_GEOMETRY = (
    '[geometry]\nkind = "circular"\nsod_mm = 500\nsdd_mm = 900\npitch_mm = 0.4\nangle_step_deg = 5\n'
    'rows = "top-down"\ncols = "right-to-left"\n'
)


def opened(source, source_format, **settings):
    return open_source(source, source_format=source_format, options=SourceOptions(settings=settings))


def refused(source, source_format, error, said, **settings):
    with pytest.raises(error, match=said) as caught:
        opened(source, source_format, **settings).close()
    assert "\n" not in str(caught.value)
    assert str(source.parent) in str(caught.value)


# Nikon and SkyScan


def test_several_files_of_angles_none_of_the_scans_name(tmp_path):
    source = nikon(tmp_path).source
    for name in ("a.ang", "b.ang"):
        (tmp_path / name).write_text("0\n72\n144\n216\n288\n")
    said = r"several \.ang files \(a\.ang, b\.ang\), and none is called bar\.ang: rename the one of this scan so"
    refused(source, "nikon", ScanDescriptionError, said)
    (tmp_path / "b.ang").rename(tmp_path / "bar.ang")
    opened(source, "nikon").close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"bar_0001\.tif holds 4 pages, but bar\.xtekct says 5 projections: correct that number, or name the"),
        ({"repeat_views": 9}, r"bar_0001\.tif: repeat_views needs one picture, got 4 pages: leave repeat_views out"),
    ],
)
def test_pages_that_are_not_the_projections(settings, said, tmp_path):
    source = nikon(tmp_path).source
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    tifffile.imwrite(tmp_path / "bar_0001.tif", counts(4, 4, 6), photometric="minisblack")
    refused(source, "nikon", ScanDescriptionError, said, **settings)


@pytest.mark.parametrize("camera_um", [None, "0.1"])
def test_a_log_from_which_the_panel_cannot_be_placed(camera_um, tmp_path):
    changes = {"Camera to Source (mm)": None, "Camera Pixel Size (um)": camera_um}
    source = skyscan(tmp_path, **changes).source
    said = rf"stone~00\.log lacks Camera to Source \(mm\): {ADVICE}"
    refused(source, "skyscan", ScanDescriptionError, said)
    (tmp_path / "scan.toml").write_text('[files]\nprojections = "stone~0000000*.tif"\n' + OWN_GEOMETRY)
    assert opened(source, "tiff").scan.geometry.n_views == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SrcToObject": ""}, rf"bar\.xtekct lacks SrcToObject: {ADVICE}"),
        (
            {"SrcToObject": "500"},
            r"bar\.xtekct: the detector must lie behind .*; correct it, or describe the scan in a",
        ),
    ],
)
def test_a_header_that_does_not_give_the_orbit(changes, said, tmp_path):
    source = nikon(tmp_path, **changes).source
    refused(source, "nikon", ScanDescriptionError, said)
    (tmp_path / "scan.toml").write_text(OWN_GEOMETRY)
    assert opened(source, "tiff").scan.geometry.n_views == 5


# Varian and Elekta


def plain_xim(frame, n_bytes):
    """A .xim file that is not compressed and holds so many bytes of pixels."""
    n_rows, n_cols = frame.shape
    head = struct.pack("<8s6ii", b"VMS.XI\0\0", 1, n_cols, n_rows, 32, 4, 0, n_bytes)
    return head + bytes(n_bytes) + struct.pack("<ii", 0, 0)


def test_pixels_of_a_xim_that_do_not_fill_its_frame(tmp_path):
    path = tmp_path / "a.xim"
    path.write_bytes(plain_xim(counts(3, 4), 40))
    with pytest.raises(FrameFormatError, match=r"a\.xim is truncated: .* 40 bytes, expected 48 for 3 rows x 4 columns"):
        XimFile(path).read(0)


def test_a_header_of_an_on_board_imager_without_a_frame(tmp_path):
    path = tmp_path / "a.hnc"
    content = bytearray(obi_bytes(counts(3, 4), angle_deg=0.0, compressed=False))
    content[124:128] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(FrameFormatError, match=r"a\.hnc: 0 rows x 4 columns are no frame, expected 1 to 268435456 pix"):
        ObiFile(path)


OPENED = {
    "a.xim": (XimFile, lambda: xim_bytes(counts(30, 40).astype(int)), "it ends at byte 100, but had"),
    "a.hnc": (ObiFile, lambda: obi_bytes(counts(9, 8), angle_deg=0.0, compressed=False), "it ends at byte 100, but"),
    "a.his": (HisFile, lambda: his_bytes(counts(9, 8)), "frame 0 has 0 bytes of pixels, expected 144"),
}


@pytest.mark.parametrize("name", sorted(OPENED))
def test_a_file_that_changes_after_it_was_opened(name, tmp_path):
    kind, make, said = OPENED[name]
    path = tmp_path / name
    path.write_bytes(make())
    frame_file = kind(path)
    frame_file.read(0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FrameFormatError, match=rf"{name} is truncated: {said}"):
        frame_file.read(0)
    path.unlink()
    with pytest.raises(FrameFormatError, match=rf"{name} cannot be read: No such file"):
        frame_file.read(0)


def test_a_flat_frame_without_a_reading_of_the_norm_chamber(tmp_path):
    sample = varian_xim(tmp_path)
    (tmp_path / "flat.xim").write_bytes(xim_bytes(sample.frames[0, 0], KVNormChamber=0.0))
    toml = '[files]\nprojections = "Acquisitions/*/Proj_0000[1-4].xim"\nflats = "flat.xim"\n'
    (tmp_path / "scan.toml").write_text(toml)
    said = r"flat\.xim: its norm chamber reads 0, expected above 0: set norm_chamber = false"
    refused(tmp_path, "varian", FrameFormatError, said, norm_chamber=True)
    opened(tmp_path, "varian", norm_chamber=False).close()


def without_angles(folder):
    """A TrueBeam scan whose files do not say their angles."""
    for path in varian_xim(folder).truncate.parent.iterdir():
        path.write_bytes(xim_bytes(counts(6, 8).astype(int)))
    return folder


def without_centres(folder):
    """An XVI scan whose frames do not say where the central ray falls."""
    elekta(folder)
    xml = folder / "_Frames.xml"
    xml.write_text(xml.read_text().replace("UCentre", "Other"))
    return folder


def zeiss_with(**changes):
    def make(folder):
        angles = np.array([0.0, 90.0, 180.0])
        return write_txrm(folder / "chip.txrm", counts(3, 40, 60), angles, **changes)

    return make


GIVE = r"give the \[geometry\] in a scan\.toml"
NOT_ENOUGH = {
    "varian": (without_angles, rf"Proj_00000\.xim does not say its angle: {GIVE}"),
    "elekta": (without_centres, rf"_Frames\.xml lacks UCentre, an element with a number: add it, or {GIVE}"),
    "zeiss-pixel": (zeiss_with(ImageInfo__PixelSize=None), rf"chip\.txrm lacks ImageInfo/PixelSize: {GIVE}"),
    "zeiss-nan": (zeiss_with(ImageInfo__PixelSize=np.float32(np.nan)), rf"chip\.txrm: pitch_u_mm .* nan; {GIVE}"),
    "zeiss-shifts": (
        zeiss_with(Alignment__XShifts=np.float32([0, 1, np.inf]), Alignment__YShifts=np.float32([0, 2, 0.5])),
        rf"chip\.txrm: the shifts of view 2 are inf and 0\.5 pixels, expected finite ones: {GIVE}",
    ),
    "zeiss-no-shift": (
        zeiss_with(Alignment__YShifts=np.float32([np.nan, 1, 2])),
        rf"chip\.txrm: the shifts of view 0 are 0 and nan pixels, expected finite ones: {GIVE}",
    ),
    "zeiss-moving": (
        zeiss_with(ImageInfo__StoRADistance=np.float32([-25, -25, -30])),
        r"chip\.txrm: the distances change .*; give the poses in a scan\.toml, \[geometry\] of kind 'poses'",
    ),
}


@pytest.mark.parametrize("name", sorted(NOT_ENOUGH))
def test_what_the_files_do_not_say_the_description_may(name, tmp_path):
    make, said = NOT_ENOUGH[name]
    source, source_format = make(tmp_path), name.partition("-")[0]
    refused(source, source_format, ScanDescriptionError, said)
    (tmp_path / "scan.toml").write_text(OWN_GEOMETRY)
    scan = opened(source, source_format).scan
    assert (scan.geometry.sod_mm, scan.geometry.sdd_mm) == pytest.approx((500, 900))
    np.testing.assert_allclose(np.rad2deg(scan.geometry.source_angles_rad), 5 * np.arange(scan.n_views), atol=1e-9)


# Zeiss


def test_a_reconstruction_of_a_zeiss_is_no_scan(tmp_path):
    source = write_txrm(tmp_path / "chip.txm", counts(3, 40, 60), np.zeros(3))
    said = r"chip\.txm is a reconstructed volume, not projections: name the \.txrm of the scan"
    refused(source, "zeiss", FrameFormatError, said)


def test_a_reference_of_a_type_that_is_not_read(tmp_path):
    source = zeiss_with(ReferenceData__Image=counts(40, 60), ReferenceData__DataType=11)(tmp_path)
    refused(source, "zeiss", FrameFormatError, r"chip\.txrm: pixels of data type 11 are not read, expected one of 3, 5")


def test_a_document_that_is_its_magic_only(tmp_path):
    source = tmp_path / "chip.txrm"
    source.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))
    refused(source, "zeiss", FrameFormatError, r"chip\.txrm is truncated or not an OLE compound document: ")


def test_an_image_whose_chain_of_sectors_is_broken(tmp_path):
    source = zeiss_with()(tmp_path)
    content = bytearray(source.read_bytes())
    # The allocation table begins behind the header; the last sector that it chains is of the last image.
    table = np.frombuffer(bytes(content[512:1024]), "<u4").copy()
    chained = np.flatnonzero(table < 0xFFFFFFFA)
    table[chained[-1]] = 0xFFFFFFFF
    content[512:1024] = table.tobytes()
    source.write_bytes(content)
    reader = opened(source, "zeiss")
    with pytest.raises(
        FrameFormatError, match=r"chip\.txrm: image 3 \(ImageData1/Image3\) has 4608 bytes, expected 4800"
    ):
        reader.read_views(0, 3)
    reader.close()


def test_a_disk_that_fails_under_an_image(tmp_path, monkeypatch):
    reader = opened(zeiss_with()(tmp_path), "zeiss")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(olefile.OleFileIO, "openstream", fail)
    with pytest.raises(FrameFormatError, match=r"chip\.txrm: ImageData1/Image1 cannot be read: .*Input/output error"):
        reader.read_views(0, 1)
    reader.close()


# The Helsinki tomography challenge

SINOGRAM, ANGLES_DEG = np.ones((4, 9)), np.arange(4) * 90.0


@pytest.mark.parametrize("version", [5, 73])
def test_a_sinogram_of_several_rows_is_refused(version, tmp_path):
    values = htc_struct(SINOGRAM, ANGLES_DEG) | {"sinogram": np.ones((4, 9, 2))}
    source = {5: write_mat5, 73: write_mat73}[version](tmp_path / "scan.mat", values)
    said = r"scan\.mat: expected a sinogram \(view, column\), got an array of shape \(.*\): write one row"
    refused(source, "htc", FrameFormatError, said)


def test_a_variable_that_is_no_struct_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"CtDataFull": np.ones(3)})
    write_mat73(tmp_path / "b.mat", {}, name="other")
    with h5py.File(tmp_path / "b.mat", "a") as file:
        del file["other"]
        file["CtDataFull"] = np.ones(3)
    for name in ("a.mat", "b.mat"):
        said = rf"{name}: expected CtDataFull to be a struct with sinogram and parameters, got an array"
        refused(tmp_path / name, "htc", FrameFormatError, said)
