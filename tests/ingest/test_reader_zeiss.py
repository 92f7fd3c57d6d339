# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, detect, open_source
from tests.support.ole_maker import write_ole, write_txrm
from tests.support.peers import real_data_path
from tests.support.reader_samples_imagers import counts, zeiss_cone, zeiss_images

ANGLES = np.array([0.0, 90.0, 180.0])


@pytest.fixture
def open_zeiss():
    readers = []

    def open_and_keep(source, **settings):
        readers.append(open_source(source, source_format="zeiss", options=SourceOptions(settings=settings)))
        return readers[-1]

    yield open_and_keep
    for reader in readers:
        reader.close()


def scan_with(folder, **changes):
    return write_txrm(folder / "chip.txrm", counts(3, 40, 60), ANGLES, **changes)


def test_a_cone_with_its_shifts_undone(tmp_path, open_zeiss):
    scan = open_zeiss(zeiss_cone(tmp_path).source).scan
    geometry = scan.geometry
    assert (geometry.sod_mm, geometry.sdd_mm) == pytest.approx((25, 100))
    # 25 um at the axis are 100 um on the panel.
    assert geometry.pitch_mm == pytest.approx((0.1, 0.1))
    np.testing.assert_allclose(np.rad2deg(geometry.source_angles_rad) % 360, [0, 270, 180], atol=1e-9)
    # View 0 has no shift: its panel is centred; that of view 1 stands 1.5 columns to the right and 0.5 rows down.
    for view, (cols, rows) in enumerate([(0, 0), (1.5, -0.5), (-2, 1)]):
        source, center, u_step, v_step = geometry.poses[view].reshape(4, 3)
        np.testing.assert_allclose(center - cols * u_step - rows * v_step, -3 * source, atol=1e-9)
    assert any("moved by the file's shifts (up to 2 pixels)" in note for note in scan.notes)
    assert (scan.acquired, scan.manufacturer) == ("2019-03-27T12:34:56.789000", "Zeiss")
    exposure = scan.exposure
    assert (exposure.kvp, exposure.tube_current_ma, exposure.exposure_time_ms) == (80.0, 0.0875, 2500.0)
    assert (scan.content, scan.flats.count) == ("counts", 1)


def test_the_sense_can_be_described(tmp_path, open_zeiss):
    source = scan_with(tmp_path)
    (tmp_path / "scan.toml").write_text('[geometry]\ntable_turns = "clockwise"\nrows = "top-down"\n')
    reader = open_zeiss(source)
    assert np.rad2deg(reader.scan.geometry.source_angles_rad[1]) == pytest.approx(90)
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], counts(3, 40, 60)[:, ::-1])


def test_files_of_one_image_are_a_parallel_beam(tmp_path, open_zeiss):
    scan = open_zeiss(zeiss_images(tmp_path).source).scan
    assert scan.geometry is None
    np.testing.assert_allclose(np.rad2deg(scan.parallel.angles_rad), [0, -3, -6, -9], atol=1e-9)
    assert scan.parallel.pitch_u_mm == pytest.approx(0.025)


def test_a_file_that_does_not_exist_is_left_out(tmp_path, open_zeiss):
    sample = zeiss_images(tmp_path)
    (tmp_path / "chip02.xrm").unlink()
    with pytest.raises(IncompleteScanError, match=r"1 of 4 views are missing: chip02\.xrm"):
        open_zeiss(tmp_path)
    toml = "[files]\nmissing_views = [2]\n[geometry]\nkind = 'parallel'\nangles_deg = [0, 1, 2, 3]\n"
    (tmp_path / "scan.toml").write_text(toml)
    reader = open_zeiss(tmp_path)
    np.testing.assert_allclose(np.rad2deg(reader.scan.parallel.angles_rad), [0, 1, 3])
    np.testing.assert_array_equal(reader.read_views(0, 3), sample.frames[:, [0, 1, 3]])
    with pytest.raises(IncompleteScanError, match="holds 3 views, expected 4 as n_views says"):
        open_zeiss(tmp_path, n_views=4)


def test_a_set_of_references_and_their_exposure(tmp_path, open_zeiss):
    references = counts(2, 40, 60, seed=5).astype(np.float32)
    source = scan_with(
        tmp_path, MultiReferenceData__Image1=references[0], MultiReferenceData__Image2=references[1],
        MultiReferenceData__DataType=10, ReferenceData__ExpTime=np.float32(5.0),
    )  # fmt: skip
    reader = open_zeiss(source)
    np.testing.assert_array_equal(reader.read_flats()[0], references / 2)
    assert reader.scan.pixel_type == "float32"
    assert any("The reference is scaled by 0.5, the exposure of the views" in note for note in reader.scan.notes)


def test_a_scan_that_was_broken_off(tmp_path, open_zeiss):
    source = scan_with(tmp_path, ImageInfo__NoOfImages=9)
    with pytest.raises(IncompleteScanError, match=r"3 of 9 images were taken; \[scan\] n_views = 3 takes those"):
        open_zeiss(source)
    assert open_zeiss(source, n_views=3).scan.geometry.n_views == 3
    assert open_zeiss(source, n_views=2).scan.n_views == 2
    with pytest.raises(IncompleteScanError, match="holds 3 views, expected 4 as n_views says"):
        open_zeiss(scan_with(tmp_path), n_views=4)
    with pytest.raises(IncompleteScanError, match="none of the 3 images was taken"):
        open_zeiss(scan_with(tmp_path, ImageInfo__ImagesTaken=0))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"ImageInfo__StoRADistance": None}, ScanDescriptionError, r"lacks StoRADistance .* give the \[geometry\]"),
        ({"ImageInfo__PixelSize": None}, ScanDescriptionError, r"lacks ImageInfo/PixelSize: give the \[geometry\]"),
        ({"ImageInfo__DtoRADistance": np.float32([75, 75, 80])}, ScanDescriptionError, "distances change from image"),
        ({"ImageInfo__MosiacMode": 1}, FrameFormatError, "is a mosaic: stitch it"),
        ({"ImageInfo__OriginalDataRefCorrected": 1}, ScanDescriptionError, r"give \[scan\] white_level"),
        ({"ImageInfo__Angles": np.float32([1, 2])}, FrameFormatError, "has 2 angles for 3 images"),
        ({"ImageInfo__DataType": 11}, FrameFormatError, "pixels of data type 11 are not read, expected one of 3, 5"),
        ({"ImageInfo__ImageWidth": 61}, FrameFormatError, "Image1 has 4800 bytes, expected 4880 for 40 rows x 61 col"),
        ({"ImageInfo__NoOfImages": None}, FrameFormatError, "ImageInfo/NoOfImages is None"),
        ({"ImageData1__Image2": None}, FrameFormatError, r"image 2 of 3 is missing \(ImageData1/Image2\)"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, open_zeiss, changes, error, sentence):
    source = scan_with(tmp_path, **changes)
    with pytest.raises(error, match=sentence) as caught:
        open_zeiss(source)
    assert "chip.txrm" in str(caught.value)


def test_corrected_images_with_a_white_level(tmp_path, open_zeiss):
    source = scan_with(tmp_path, ImageInfo__OriginalDataRefCorrected=1, ReferenceData__Image=counts(40, 60))
    scan = open_zeiss(source, white_level=50000.0).scan
    assert (scan.content, scan.white_level, scan.flats) == ("normalized", 50000.0, None)


def test_a_reference_of_another_size(tmp_path, open_zeiss):
    reader = open_zeiss(scan_with(tmp_path, ReferenceData__Image=counts(20, 30)))
    with pytest.raises(FrameFormatError, match=r"reference image .* has 1200 bytes, expected 4800"):
        reader.read_flats()


def test_several_scans_in_a_folder(tmp_path, open_zeiss):
    scan_with(tmp_path)
    write_txrm(tmp_path / "other.txrm", counts(1, 40, 60), ANGLES[:1])
    with pytest.raises(FrameFormatError, match=r"several scans \(chip\.txrm, other\.txrm\): name one of the files"):
        open_zeiss(tmp_path)
    with pytest.raises(ScanDescriptionError, match="repeat_views is not for Zeiss"):
        open_zeiss(tmp_path / "chip.txrm", repeat_views=3)


def test_images_of_several_sizes(tmp_path, open_zeiss):
    for number, n_cols in enumerate((30, 31)):
        write_txrm(tmp_path / f"a{number}.xrm", counts(1, 50, n_cols), ANGLES[:1])
    with pytest.raises(FrameFormatError, match=r"a1\.xrm has images of 50 rows x 31 columns, expected 50 x 30"):
        open_zeiss(tmp_path)


def test_what_is_no_compound_document(tmp_path, open_zeiss):
    (tmp_path / "a.txrm").write_bytes(b"hello")
    with pytest.raises(FrameFormatError, match=r"a\.txrm is not an OLE compound document: it begins with 68 65 6c"):
        open_zeiss(tmp_path / "a.txrm")
    write_ole(tmp_path / "b.txrm", {"Other/Stream": b"x" * 5000})
    with pytest.raises(FrameFormatError, match="ImageInfo/ImageHeight is None"):
        open_zeiss(tmp_path / "b.txrm")


def test_a_folder_where_an_image_should_be(tmp_path, open_zeiss):
    source = scan_with(tmp_path, ImageData1__Image2=None, ImageData1__Image2__Inner=b"x")
    with pytest.raises(FrameFormatError, match=r"image 2 of 3 is missing \(ImageData1/Image2\)"):
        open_zeiss(source)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_named_with_its_size(tmp_path, open_zeiss, share):
    source = scan_with(tmp_path)
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FrameFormatError, match=r"chip\.txrm is truncated"):
        open_zeiss(source)


@pytest.mark.real_data
def test_the_real_scan_of_a_zone_plate_microscope(open_zeiss):
    path = real_data_path("zeiss_txrm") / "txrm_test_chip_tomo.txrm"
    assert detect(path) == "zeiss"
    reader = open_zeiss(path)
    scan = reader.scan
    assert (scan.n_views, scan.n_rows, scan.n_cols, scan.pixel_type) == (7, 256, 256, "uint16")
    assert (scan.acquired, scan.exposure.exposure_time_ms) == ("2015-11-09T18:19:21", 5000.0)
    assert scan.geometry is None
    angles = [-45.018, -30.014125, -15.014125, -0.014125, 14.985875, 29.985875, 44.985875]
    np.testing.assert_allclose(-np.rad2deg(scan.parallel.angles_rad), angles, atol=1e-5)
    assert scan.parallel.pitch_u_mm == pytest.approx(0.15578948e-3)
    assert any("shifts (up to 1.28 pixels) are not applied" in note for note in scan.notes)
    assert reader.read_views(0, 7)[0, :2, 0, :4].tolist() == [[10, 11, 16, 17], [10, 12, 17, 9]]
