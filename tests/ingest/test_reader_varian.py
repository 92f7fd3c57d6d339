# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, detect, open_source
from ingest.readers.varian_frames import XimFile, decompress
from tests.support.imager_maker import SCAN_XML, compress, obi_bytes, xim_bytes
from tests.support.reader_samples_imagers import counts, varian_hnc, varian_hnd, varian_xim


def open_varian(source, **settings):
    return open_source(source, source_format="varian", options=SourceOptions(settings=settings))


def panel_offsets(geometry):
    """How far the middle of each panel stands beside the foot of the central ray [mm]."""
    poses = geometry.poses
    u, v = (poses[:, k : k + 3] / np.linalg.norm(poses[:, k : k + 3], axis=1, keepdims=True) for k in (6, 9))
    return np.stack([np.sum(poses[:, 3:6] * way, axis=1) for way in (u, v)], axis=1)


def test_a_truebeam_scan(tmp_path):
    sample = varian_xim(tmp_path)
    for source in (sample.source, sample.truncate.parent, tmp_path / "Scan.xml"):
        assert detect(source) == "varian"
        scan = open_varian(source).scan
        assert (scan.n_views, scan.n_rows, scan.n_cols, scan.content) == (4, 6, 8, "counts")
        geometry = scan.geometry
        assert (geometry.sod_mm, geometry.sdd_mm) == pytest.approx((1000, 1500))
        assert geometry.pitch_mm == pytest.approx((0.388, 0.388))
        # Varian's scale: 180 degrees less the angle; the files without pixels are left out.
        np.testing.assert_allclose(np.rad2deg(geometry.source_angles_rad), [92, 94, 96, 98])
        np.testing.assert_allclose(panel_offsets(geometry), [[-160, k] for k in (1, 2, 3, 4)], atol=1e-9)
    assert (scan.exposure.kvp, scan.exposure.tube_current_ma, scan.exposure.exposure_time_ms) == (125, 60, 20)
    assert any("norm chamber varies by 0.3 %" in note for note in scan.notes)


def test_frames_are_divided_by_the_norm_chamber_on_request(tmp_path):
    sample = varian_xim(tmp_path)
    (tmp_path / "flat.xim").write_bytes(xim_bytes(sample.frames[0, 0], KVNormChamber=500.0))
    projections = 'projections = "Acquisitions/*/Proj_0000[1-4].xim"\n'
    (tmp_path / "scan.toml").write_text(f'[files]\n{projections}flats = "flat.xim"\n[settings]\nnorm_chamber = true\n')
    reader = open_varian(tmp_path)
    assert reader.scan.pixel_type == "float32"
    factors = 1001.0 / np.array([1001.0, 1002, 1003, 1004])
    np.testing.assert_allclose(reader.read_views(0, 4)[0], sample.frames[0] * factors[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(reader.read_flats()[0, 0], sample.frames[0, 0] * 2.002, rtol=1e-6)
    (sample.truncate.parent / "Proj_00002.xim").write_bytes(
        xim_bytes(sample.frames[0, 1].astype(int), KVNormChamber=0.0)
    )
    with pytest.raises(
        ScanDescriptionError, match=r"Proj_00002\.xim: its norm chamber reads 0, expected above 0: set norm_chamber = f"
    ):
        open_varian(tmp_path)


@pytest.mark.parametrize(("maker", "lateral"), [(varian_hnd, -147.5), (varian_hnc, 0.5)])
def test_an_on_board_imager(tmp_path, maker, lateral):
    """A half fan adds the panel's own lateral position."""
    geometry = open_varian(maker(tmp_path).source).scan.geometry
    assert (geometry.sod_mm, geometry.sdd_mm) == pytest.approx((1000, 1500))
    np.testing.assert_allclose(np.rad2deg(geometry.source_angles_rad), [0, 10, 20], atol=1e-9)
    np.testing.assert_allclose(panel_offsets(geometry), [[lateral, -0.25]] * 3, atol=1e-9)


def test_without_the_xml_file_the_description_must_say(tmp_path):
    varian_hnc(tmp_path)
    (tmp_path / "ProjectionInfo.xml").unlink()
    scan = open_varian(tmp_path).scan
    assert scan.geometry is None
    assert any("no ProjectionInfo.xml: give the [geometry]" in note for note in scan.notes)


@pytest.mark.parametrize("shape", [(1, 5), (2, 1), (3, 4), (7, 9)])
def test_compression_of_any_shape_and_step(tmp_path, shape):
    rng = np.random.default_rng(sum(shape))
    for scale in (3, 300, 300000, 2**29):
        frame = rng.integers(0, scale, shape)
        table, pixels = compress(frame)
        got = decompress(tmp_path / "x", np.frombuffer(table, np.uint8), pixels, shape)
        np.testing.assert_array_equal(got, frame)


def test_lists_and_texts_among_the_properties(tmp_path):
    path = tmp_path / "a.xim"
    path.write_bytes(xim_bytes(counts(3, 4).astype(int), KVSourceRtn=1.5, Mode="fluoro"))
    assert XimFile(path).properties == {"GantryRtn": 0.0, "Name": "test", "KVSourceRtn": 1.5, "Mode": "fluoro"}


def test_malformed_files_are_refused(tmp_path):
    good = xim_bytes(counts(3, 4).astype(int), KVSourceRtn=1.5)
    cases = {
        b"NOT.XI" + good[6:]: "is not a .xim file: it begins with",
        good[:20] + (9).to_bytes(4, "little") + good[24:]: "",
        good[:24] + (8).to_bytes(4, "little") + good[28:]: "pixels of 8 bytes are not read",
        good[:32] + (-1).to_bytes(4, "little", signed=True) + good[36:]: "the length of the lookup table is -1",
        good[:12] + (1 << 20).to_bytes(4, "little") * 2 + good[20:]: "are no frame",
        good[:-3]: r"is truncated: property KVSourceRtn lies at bytes \d+ to \d+, but the file has",
        good[:10]: "is truncated: the version lies at bytes 8 to 12, but the file has 10",
        good.replace(b"KVSourceRtn\1", b"KVSourceRtn\7"): "property KVSourceRtn is of the unknown kind 7",
    }
    for number, (content, sentence) in enumerate(cases.items()):
        path = tmp_path / f"{number}.xim"
        path.write_bytes(content)
        if not sentence:
            XimFile(path)
            continue
        with pytest.raises(FrameFormatError, match=sentence) as error:
            XimFile(path)
        assert path.name in str(error.value)


def test_pixels_that_do_not_fill_the_frame(tmp_path):
    table, pixels = (np.frombuffer(part, np.uint8) for part in compress(counts(3, 4).astype(int)))
    for bad_table, content, sentence in (
        (table, pixels[:10], "the first row needs 20 bytes, got 10"),
        (table[:1], pixels, "its lookup table has 4 codes, expected 7"),
        (table | 3, pixels, "unknown code 3"),
        (table, pixels[:-1], "its differences need"),
    ):
        with pytest.raises(FrameFormatError, match=sentence):
            decompress(tmp_path / "x", bad_table, content.tobytes(), (3, 4))


def test_gaps_and_mixtures_are_refused(tmp_path):
    projections = varian_xim(tmp_path).truncate.parent
    (projections / "Proj_00002.xim").rename(tmp_path / "kept")
    with pytest.raises(IncompleteScanError, match=r"1 of 4 views are missing: Proj_00002\.xim"):
        open_varian(tmp_path)
    (projections / "Proj_00002.xim").write_bytes(xim_bytes(None))
    with pytest.raises(FrameFormatError, match=r"Proj_00002\.xim holds no pixels though .* missing_views"):
        open_varian(tmp_path)
    (projections / "Proj_00002.xim").write_bytes(xim_bytes(counts(5, 8).astype(int), KVSourceRtn=1.0))
    with pytest.raises(FrameFormatError, match=r"Proj_00002\.xim has 5 rows x 8 columns, expected 6 x 8"):
        open_varian(tmp_path)
    (projections / "Proj_00009.hnc").write_bytes(obi_bytes(counts(6, 8), angle_deg=0.0, compressed=False))
    with pytest.raises(FrameFormatError, match="projections of several kinds"):
        open_varian(projections)
    (tmp_path / "Acquisitions" / "2").mkdir()
    (tmp_path / "Acquisitions" / "2" / "Proj_0.xim").touch()
    with pytest.raises(FrameFormatError, match="holds the acquisitions 123456, 2: name the folder of one"):
        open_varian(tmp_path)
    (projections / "Proj_00009.hnc").unlink()
    (projections / "Proj_00002.xim").write_bytes((tmp_path / "kept").read_bytes())
    with pytest.raises(IncompleteScanError, match="holds 4 views, expected 5 as n_views says"):
        open_varian(projections, n_views=5)
    with pytest.raises(ScanDescriptionError, match="repeat_views is not for Varian"):
        open_varian(projections, repeat_views=2)


def test_a_scan_without_pixels(tmp_path):
    (tmp_path / "Proj_0.xim").write_bytes(xim_bytes(None))
    with pytest.raises(FrameFormatError, match="none of its 1 files holds pixels"):
        open_varian(tmp_path)


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        (SCAN_XML.format(sod=1000, sdd="far"), r"Scan\.xml: SID must be a number, got 'far'"),
        (SCAN_XML.format(sod=1000, sdd="nan"), "SID must be a finite number"),
        (SCAN_XML.format(sod=1500, sdd=1000), "the detector must lie behind the axis"),
        ("<Scan></Scan>", r"Scan\.xml lacks SAD"),
        ("<Scan>", r"Scan\.xml is not an XML file"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><Scan/>', r"Scan\.xml declares XML entities"),
    ],
)
def test_a_bad_xml_file_is_refused(tmp_path, xml, sentence):
    varian_xim(tmp_path)
    (tmp_path / "Scan.xml").write_text(xml)
    with pytest.raises(ScanDescriptionError, match=sentence):
        open_varian(tmp_path)


def test_a_file_that_does_not_say_its_angle(tmp_path):
    sample = varian_xim(tmp_path)
    sample.truncate.write_bytes(xim_bytes(sample.frames[0, 2].astype(int), KVDetectorLat=1.0))
    with pytest.raises(ScanDescriptionError, match=r"Proj_00003\.xim does not say its angle: give the \[geometry\]"):
        open_varian(tmp_path)
