# SPDX-License-Identifier: Apache-2.0
"""DICOM projections: what the tags say is where the rays go; DCMTK writes the bytes that pydicom reads."""

from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.dicom_map import read_map, shipped_maps
from reconstruction.phantom import Ellipsoid, Phantom
from reconstruction.projector import forward_project
from tests.support.peers import require_program
from tests.support.reader_samples_dicom import (
    OWN_MAP,
    add,
    beta_rad,
    ct_pd,
    ct_pd_elements,
    dicom_file,
    enhanced_xa,
    own_map,
)

BALL = Phantom((Ellipsoid((9.0, -4.0, 3.0), (12.0, 12.0, 12.0), 0.02, name="ball"),))


def opened(source, **settings):
    return open_source(source, source_format="dicom", options=SourceOptions(settings=settings))


def element_places(view, *, rows, cols, shape, central, shift):
    """Source and pixel centres (row, col, 3) of DICOM-CT-PD, rows and columns in the file's order, counted from 1."""

    def at(rho, phi, z):
        return np.array([-rho * math.sin(phi), rho * math.cos(phi), z])

    phi, z = np.float32(0.5 * view), 2.0 * view
    focal, source = at(100.0, phi, z), at(100.0 + shift[2], phi + shift[0], z + shift[1])
    ahead = -focal * [1, 1, 0] / 100.0
    c, r = np.meshgrid(np.arange(1, cols + 1) - central[0], np.arange(1, rows + 1) - central[1])
    if shape == "FLAT":
        across = np.array([-ahead[1], ahead[0], 0])
        return source, focal + 160.0 * ahead + 0.9 * c[..., None] * across - 1.1 * r[..., None] * np.array([0, 0, 1])
    gamma = 0.9 * c / 160.0
    way = np.stack([
        ahead[0] * np.cos(gamma) - ahead[1] * np.sin(gamma), ahead[0] * np.sin(gamma) + ahead[1] * np.cos(gamma),
        np.zeros_like(gamma),
    ], axis=-1)  # fmt: skip
    return source, focal + 160.0 * way - 1.1 * r[..., None] * np.array([0, 0, 1])


def through_the_ball(source, pixels):
    """Line integrals from a point to others."""
    ball = BALL.shapes[0]
    way = pixels - source
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    to = np.array(ball.center_mm) - source
    along = way @ to
    half = np.sqrt(np.maximum(0, ball.half_axes_mm[0] ** 2 - (to @ to - along**2)))
    return 2 * half * ball.density


def write_scan(folder, *, rows, cols, shape, central, shift=(0.0, 0.0, 0.0), views=4):
    """Projections of the ball by an independent formula, as a scanner would store them."""
    for view in range(views):
        source, pixels = element_places(view, rows=rows, cols=cols, shape=shape, central=central, shift=shift)
        values = through_the_ball(source, pixels)
        ds = dicom_file(folder / f"{view}.dcm", np.round(values.T * 1e5), number=view + 1)
        ds.RescaleSlope, ds.RescaleIntercept = 1e-5, 0.0
        add(ds, ct_pd_elements(view, rows=rows, cols=cols, shape=shape, central=central, shift=shift))
        ds.save_as(folder / f"{view}.dcm")


@pytest.mark.parametrize(
    ("shape", "shift"),
    [
        ("FLAT", (0.0, 0.0, 0.0)),
        ("FLAT", (0.01, 0.7, -1.5)),
        ("CYLINDRICAL", (0.0, 0.0, 0.0)),
        ("CYLINDRICAL", (0.01, 0.7, -1.5)),
    ],
)
def test_ct_pd_puts_the_rays_where_its_tags_say(shape, shift, tmp_path):
    write_scan(tmp_path, rows=60, cols=90, shape=shape, central=(47.3, 28.9), shift=shift)
    reader = opened(tmp_path)
    scan = reader.scan
    got, expected = reader.read_views(0, 4)[0], forward_project(BALL, scan.geometry)
    assert got.shape == (4, 60, 90 if shape == "FLAT" else scan.n_cols)
    assert scan.content == "line_integrals"
    # Rounded to 1e-5; between the pixels of a curved panel values are interpolated, badly at the ball's steep rim.
    error = np.abs(got - expected)[:, 3:-3]
    assert error.max() < 2e-5 if shape == "FLAT" else error[expected[:, 3:-3] > 0.2].max() < 3e-3
    assert error.mean() < 1e-3
    assert expected.max() > 0.4
    if shape != "FLAT":
        assert scan.n_cols > 90
        assert "resampled to a flat one" in scan.notes[1]
    for mirrored in (got[:, ::-1], got[:, :, ::-1]):
        assert np.abs(mirrored - expected).max() > 0.1


def test_ct_pds_source_goes_as_its_angle_does(tmp_path):
    scan = opened(ct_pd(tmp_path).source).scan
    expected = [beta_rad(0.5 * view) for view in range(5)]
    np.testing.assert_allclose(np.unwrap(scan.geometry.source_angles_rad), expected, atol=1e-6)
    np.testing.assert_allclose(scan.geometry.poses[:, 2], 2.0 * np.arange(5), atol=1e-6)
    assert (scan.geometry.sod_mm, scan.geometry.sdd_mm) == (pytest.approx(100), pytest.approx(160))


def test_enhanced_xa_by_the_shipped_map(tmp_path):
    scan = opened(enhanced_xa(tmp_path).source).scan
    orbit = scan.geometry.circular_orbit
    assert (orbit.sod_mm, orbit.sdd_mm) == (pytest.approx(750), pytest.approx(1200))
    assert (orbit.pitch_u_mm, orbit.pitch_v_mm) == (pytest.approx(0.2), pytest.approx(0.3))
    np.testing.assert_allclose(np.rad2deg(orbit.angles_rad), [80, 110, 140, 170, -160], atol=1e-4)
    assert any("No file of a C-arm was at hand" in note for note in scan.notes)


def test_a_map_of_ones_own(tmp_path):
    scan = opened(own_map(tmp_path).source).scan
    orbit = scan.geometry.circular_orbit
    np.testing.assert_allclose(np.rad2deg(orbit.angles_rad), [20, 10, 0, -10, -20], atol=1e-5)
    assert orbit.center_row == pytest.approx(4 - 1 - 1.25)
    assert [energy_bin.label for energy_bin in scan.bins] == [">20 keV", ">30 keV"]


def test_poses_by_a_map(tmp_path):
    names = ("source_mm", "detector_center_mm", "u_step_mm", "v_step_mm")
    lines = [f'{name} = {{ tag = "0029,10{10 + i}", vr = "FD" }}' for i, name in enumerate(names)]
    (tmp_path / "m.toml").write_text(
        '[map]\nname = "p"\nmodel = "poses"\nrows = "bottom-up"\n[tags]\n' + "\n".join(lines)
    )
    pose = np.array([100.0, 1, 2, -60, 3, 4, 0, 0.9, 0.01, 0, -0.01, 1.1])
    ds = dicom_file(tmp_path / "a.dcm", np.ones((4, 6)))
    add(ds, {(0x0029, int(f"10{10 + i}", 16)): ("FD", part.tolist()) for i, part in enumerate(pose.reshape(4, 3))})
    ds.save_as(tmp_path / "a.dcm")
    scan = opened(tmp_path / "a.dcm", map=str(tmp_path / "m.toml")).scan
    np.testing.assert_allclose(scan.geometry.poses, [pose])


DUMP = """(0008,0016) UI =CTImageStorage
(0008,0018) UI [1.2.3.{number}]
(0020,0013) IS [{number}]
(0028,0002) US 1
(0028,0004) CS [MONOCHROME2]
(0028,0010) US 6
(0028,0011) US 4
(0028,0100) US 16
(0028,0101) US 16
(0028,0102) US 15
(0028,0103) US 0
(7029,0010) LO [DICOM-CT-PD]
(7029,1002) FL 0.9
(7029,1006) FL 1.1
(7029,100b) CS [FLAT]
(7029,1010) US 4
(7029,1011) US 6
(7031,0010) LO [DICOM-CT-PD]
(7031,1001) FL {phi}
(7031,1002) FL 0
(7031,1003) FL 100
(7031,1031) FL 160
(7031,1033) FL 3.5\\2.5
(7fe0,0010) OW ={pixels}
"""


@pytest.mark.dcmtk
@pytest.mark.parametrize("syntax", ["+te", "+ti", "+tb"])
def test_files_that_dcmtk_wrote(syntax, tmp_path):
    program = require_program("dump2dcm", "dcmtk")
    stored = np.random.default_rng(3).integers(0, 60000, (3, 6, 4)).astype(np.uint16)
    folder = tmp_path / "scan"
    folder.mkdir()
    for view, pixels in enumerate(stored):
        raw, text = tmp_path / f"{view}.raw", tmp_path / f"{view}.txt"
        raw.write_bytes(pixels.astype("<u2").tobytes())
        text.write_text(DUMP.format(number=view + 1, phi=0.25 * view, pixels=raw))
        subprocess.run([program, "-q", syntax, text, folder / f"{view}.dcm"], check=True)
    reader = opened(folder)
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], stored.transpose(0, 2, 1)[:, ::-1, ::-1])
    np.testing.assert_allclose(reader.scan.geometry.source_angles_rad, beta_rad(0.25 * np.arange(3)), atol=1e-6)


def test_the_shipped_maps_are_whole():
    assert [tag_map.path.stem for tag_map in shipped_maps()] == ["ct-pd", "xa-enhanced"]


BAD_MAPS = {
    "": "lacks the key 'model'",
    OWN_MAP.replace("sod_mm =", "# "): "needs the quantity 'sod_mm'",
    OWN_MAP.replace("sod_mm =", "sod ="): "unknown key 'sod'",
    OWN_MAP.replace("0018,1111", "0018-1111"): "a tag is written as gggg,eeee",
    OWN_MAP.replace('sod_mm = "0018,1111"', "sod_mm = { scale = 2.0 }"): "needs a tag or a value",
    OWN_MAP.replace('sod_mm = "0018,1111"', 'sod_mm = { tag = "0018,1111", vr = "XX" }'): "vr must be one of",
    OWN_MAP.replace('"circular"', '"spiral"'): "must be one of",
    "[map": "not a TOML file",
}


@pytest.mark.parametrize("text", sorted(BAD_MAPS))
def test_a_map_that_is_not_whole_is_refused(text, tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(text or "[map]\nname = 'x'\n")
    with pytest.raises(ScanDescriptionError, match=BAD_MAPS[text]) as error:
        read_map(path)
    assert str(path) in str(error.value)


def test_what_is_not_understood_is_refused(tmp_path):
    def scan(name, change=None, *, view=0, **changes):
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        ds = dicom_file(path / f"{view}.dcm", np.ones((6, 4)), number=view + 1)
        add(ds, ct_pd_elements(view, rows=4, cols=6, **changes))
        if change:
            change(ds)
        ds.save_as(path / f"{view}.dcm")
        return path

    with pytest.raises(FrameFormatError, match="expected FLAT or CYLINDRICAL"):
        opened(scan("spherical", shape="SPHERICAL"))
    with pytest.raises(FrameFormatError, match=r"lacks pitch_u_mm, the element \(7029,1002\)"):
        opened(scan("pitch", lambda ds: ds.__delitem__((0x7029, 0x1002))))
    with pytest.raises(FrameFormatError, match=r"none of the tag maps .* fits it"):
        opened(scan("other", lambda ds: ds.__delitem__((0x7031, 0x1001))))
    with pytest.raises(FrameFormatError, match="should have 5 rows x 6 columns"):
        opened(scan("size", lambda ds: ds.add_new((0x7029, 0x1010), "US", 5)))
    scan("twice")
    with pytest.raises(FrameFormatError, match="two files have the number 1"):
        opened(scan("twice", lambda ds: setattr(ds, "InstanceNumber", 1), view=1))
    scan("mixed")

    def taller(ds):
        ds.Rows, ds.PixelData = 7, np.ones((7, 4), "<u2").tobytes()

    with pytest.raises(FrameFormatError, match="has frames of 7 x 4"):
        opened(scan("mixed", taller, view=1))
    (tmp_path / "none").mkdir()
    with pytest.raises(FrameFormatError, match="holds no DICOM file"):
        opened(tmp_path / "none")


def test_energy_bins_need_as_many_views(tmp_path):
    own_map(tmp_path)
    (tmp_path / "p20_4").unlink()
    with pytest.raises(IncompleteScanError, match="energy bins have 4, 5 views"):
        opened(tmp_path)
