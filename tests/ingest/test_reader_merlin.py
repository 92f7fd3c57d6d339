# SPDX-License-Identifier: Apache-2.0
"""Merlin .mib files made here: decoding, order, counters, bins and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions
from ingest.readers.merlin import looks_like, open_source
from ingest.readers.mib_frames import parse_header
from tests.support.mib_maker import encode_raw, mib_frame, mib_header, write_hdr

RNG = np.random.default_rng(7)
ROWS = 8  # a region of interest of eight rows keeps the files small


def images(n, *, rows=ROWS, cols=256, high=4096, dtype=np.uint16):
    return RNG.integers(0, high, (n, rows, cols)).astype(dtype)


def write_views(path, frames, *, first=1, **fields):
    path.write_bytes(b"".join(mib_frame(image, sequence=first + i, **fields) for i, image in enumerate(frames)))


def read_all(source, **settings):
    reader = open_source(source, SourceOptions(settings=settings))
    views = reader.read_views(0, reader.scan.n_views)
    assert views.dtype == np.dtype(reader.scan.pixel_type)
    assert views.flags.c_contiguous
    reader.close()
    return views


@pytest.mark.parametrize(
    ("pixel_format", "depth", "high", "dtype"),
    [("U08", 1, 2, "uint8"), ("U08", 6, 64, "uint8"), ("U16", 12, 4096, "uint16"), ("U32", 24, 1 << 24, "uint32")],
)
def test_integer_formats_are_read(tmp_path, pixel_format, depth, high, dtype):
    frames = images(3, high=high, dtype=np.uint32)
    write_views(tmp_path / "scan.mib", frames, pixel_format=pixel_format, depth=depth)
    views = read_all(tmp_path / "scan.mib")
    assert views.dtype == dtype
    np.testing.assert_array_equal(views[0], frames)


@pytest.mark.parametrize(("depth", "high"), [(1, 2), (6, 64), (12, 4096), (24, 1 << 24)])
@pytest.mark.parametrize("quad", [False, True])
def test_raw_frames_are_decoded(tmp_path, depth, high, quad):
    rows, cols = (2 * ROWS, 512) if quad else (ROWS, 256)
    frames = images(2, rows=rows, cols=cols, high=high, dtype=np.uint32)
    chips = {"n_chips": 4, "layout": "2x2"} if quad else {}
    write_views(tmp_path / "scan.mib", frames, pixel_format="R64", depth=depth, **chips)
    np.testing.assert_array_equal(read_all(tmp_path / "scan.mib")[0], frames)


def test_the_bytes_of_a_raw_word_are_those_of_the_real_readout():
    """One word of each depth, written out by hand."""
    bits = np.zeros((1, 64), dtype=np.uint32)
    bits[0, [0, 9]] = 1
    assert encode_raw(bits, 1) == bytes([0, 0, 0, 0, 0, 0, 2, 1])
    assert encode_raw(np.arange(1, 9).reshape(1, 8), 6) == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert encode_raw(np.array([[0x123, 2, 3, 0xFFF]]), 12) == bytes([0x0F, 0xFF, 0, 3, 0, 2, 0x01, 0x23])
    first, second = bytes([0, 0, 0, 0, 0, 0, 0x0A, 0xBC]), bytes([0, 0, 0, 0, 0, 0, 0x0D, 0xEF])
    assert encode_raw(np.array([[0xABCDEF, 0, 0, 0]]), 24) == first + second


def test_raw_headers_of_older_software_lack_thresholds(tmp_path):
    frames = images(1)
    write_views(tmp_path / "scan.mib", frames, pixel_format="R64", thresholds=())
    reader = open_source(tmp_path / "scan.mib", SourceOptions())
    assert reader.scan.bins[0].low_kev is None
    np.testing.assert_array_equal(reader.read_views(0, 1)[0], frames)
    reader.close()


def test_gap_pixels_of_a_quad_are_bad_pixels(tmp_path):
    frames = images(1, rows=515, cols=515)
    write_views(tmp_path / "scan.mib", frames, layout="2x2G", n_chips=4)
    reader = open_source(tmp_path / "scan.mib", SourceOptions())
    bad = reader.read_bad_pixels()
    reader.close()
    assert bad.dtype == bool
    assert np.flatnonzero(bad.all(axis=0)).tolist() == [256, 257, 258]
    assert np.flatnonzero(bad.all(axis=1)).tolist() == [256, 257, 258]
    assert bad.sum() == 2 * 3 * 515 - 9


def test_a_row_of_chips_with_gaps(tmp_path):
    frames = images(2, cols=3 * 256 + 2 * 4)
    write_views(tmp_path / "scan.mib", frames, layout="Nx1G", n_chips=3)
    reader = open_source(tmp_path / "scan.mib", SourceOptions())
    assert np.flatnonzero(reader.read_bad_pixels().all(axis=0)).tolist() == [*range(256, 260), *range(516, 520)]
    np.testing.assert_array_equal(reader.read_views(0, 2)[0], frames)
    reader.close()


def test_without_gaps_no_pixel_is_bad(tmp_path):
    write_views(tmp_path / "scan.mib", images(1))
    reader = open_source(tmp_path / "scan.mib", SourceOptions())
    assert reader.read_bad_pixels() is None
    assert reader.read_flats() is None
    assert reader.read_darks() is None
    reader.close()


def test_files_are_put_in_order_by_sequence_number_not_by_name(tmp_path):
    frames = images(5)
    write_views(tmp_path / "scan10.mib", frames[3:], first=4)
    write_views(tmp_path / "scan9.mib", frames[:2], first=1)
    write_views(tmp_path / "a.mib", frames[2:3], first=3)
    assert looks_like(tmp_path)
    np.testing.assert_array_equal(read_all(tmp_path)[0], frames)


def test_views_in_the_middle_are_read_alone(tmp_path):
    frames = images(6)
    write_views(tmp_path / "scan.mib", frames)
    reader = open_source(tmp_path / "scan.mib", SourceOptions())
    np.testing.assert_array_equal(reader.read_views(2, 4)[0], frames[2:4])
    np.testing.assert_array_equal(reader.read_views(0, 1)[0], frames[:1])
    reader.close()


def test_scan_says_what_the_headers_say(tmp_path):
    write_views(tmp_path / "scan.mib", images(3))
    write_hdr(tmp_path / "scan.hdr", n_frames=3, mode="CSM", ScanX=3, ScanY=1)
    for source in (tmp_path / "scan.mib", tmp_path / "scan.hdr", tmp_path):
        assert looks_like(source)
        reader = open_source(source, SourceOptions())
        scan = reader.scan
        reader.close()
        assert (scan.n_views, scan.n_rows, scan.n_cols) == (3, ROWS, 256)
        assert scan.bins[0].label == ">18 keV"
        assert scan.acquired == "2024-05-06T07:08:09.123456"
        assert scan.exposure.exposure_time_ms == 300
        assert scan.geometry is None
        assert scan.content == "counts"
        assert scan.model == "Merlin Quad"
        assert any("CSM" in note for note in scan.notes)
        assert any("raster of 3 x 1" in note for note in scan.notes)


def test_scan_toml_gives_geometry_flats_and_darks(tmp_path):
    frames, flats, darks = images(4), images(2), images(1)
    write_views(tmp_path / "scan.mib", frames)
    (tmp_path / "fields").mkdir()
    write_views(tmp_path / "fields" / "flat.mib", flats, acquired="2024-05-06 07:09:09.123456")
    write_views(tmp_path / "dark.mib", darks)
    (tmp_path / "scan.toml").write_text(
        '[files]\nflats = "fields"\ndarks = "dark*.mib"\n'
        '[geometry]\nkind = "circular"\nsod_mm = 200.0\nsdd_mm = 250.0\npitch_mm = 0.055\narc_deg = 360.0\n'
        'rows = "top-down"\n'
    )
    reader = open_source(tmp_path, SourceOptions())
    assert reader.scan.geometry.sdd_mm == pytest.approx(250.0)
    assert reader.scan.flats.count == 2
    assert reader.scan.flats.times_s == (60.0, 60.0)
    np.testing.assert_array_equal(reader.read_flats()[0], flats[:, ::-1])
    np.testing.assert_array_equal(reader.read_darks()[0], darks[:, ::-1])
    np.testing.assert_array_equal(reader.read_views(0, 4)[0], frames[:, ::-1])
    reader.close()


def test_flats_of_each_camera_position(tmp_path):
    frames, flats = images(4), images(3)
    write_views(tmp_path / "scan.mib", frames)
    write_views(tmp_path / "left.mib", flats[:1], acquired="2024-05-06 07:09:09.123456")
    write_views(tmp_path / "right.mib", flats[1:])
    (tmp_path / "scan.toml").write_text(
        '[[camera_positions]]\nviews = "0:2"\nflats = "left.mib"\n'
        '[[camera_positions]]\nviews = "2:4"\nflats = "right.mib"\n'
    )
    reader = open_source(tmp_path, SourceOptions())
    assert reader.scan.n_views == 4
    assert reader.scan.flats.position_counts == (1, 2)
    assert reader.scan.flats.times_s == (60.0, 0.0, 0.0)
    np.testing.assert_array_equal(reader.read_flats(0)[0], flats[:1])
    np.testing.assert_array_equal(reader.read_flats(1)[0], flats[1:])
    np.testing.assert_array_equal(reader.read_flats()[0], flats)
    reader.close()


class TestCounters:
    """Two counters or eight colours make the bin axis."""

    def write(self, path, frames, *, shared_number=False, order=None, **fields):
        """`frames` (view, counter, row, col) into one file."""
        content, number = b"", 0
        for view, counters in enumerate(frames):
            for counter in order or range(len(counters)):
                number = view + 1 if shared_number else number + 1
                content += mib_frame(counters[counter], sequence=number, counter=counter, **fields)
        path.write_bytes(content)

    @pytest.mark.parametrize("shared_number", [False, True])
    def test_two_counters_are_two_bins(self, tmp_path, shared_number):
        frames = images(6).reshape(3, 2, ROWS, 256)
        self.write(tmp_path / "scan.mib", frames, shared_number=shared_number)
        views = read_all(tmp_path / "scan.mib")
        np.testing.assert_array_equal(views, frames.swapaxes(0, 1))

    def test_colour_mode_gives_eight_bins_of_joined_pixels(self, tmp_path):
        frames = images(16, cols=128).reshape(2, 8, ROWS, 128)
        kev = (60.0, 20.0, 30.0, 40.0, 50.0, 70.0, 80.0, 90.0)
        self.write(tmp_path / "scan.mib", frames, order=(3, 1, 0, 2, 4, 7, 6, 5), colour=1, thresholds=kev)
        reader = open_source(tmp_path / "scan.mib", SourceOptions())
        assert [b.low_kev for b in reader.scan.bins] == sorted(kev)
        assert {b.kind for b in reader.scan.bins} == {"counter"}
        by_threshold = np.argsort(kev)
        np.testing.assert_array_equal(reader.read_views(0, 2), frames[:, by_threshold].swapaxes(0, 1))
        reader.close()

    def test_differences_are_bins_and_negative_ones_are_counted(self, tmp_path):
        low, high = np.full((ROWS, 256), 100), np.full((ROWS, 256), 30)
        high[0, :5] = 101
        self.write(tmp_path / "scan.mib", np.array([[low, high]]))
        reader = open_source(tmp_path / "scan.mib", SourceOptions(settings={"bins": "difference"}))
        assert [b.label for b in reader.scan.bins] == ["18-30 keV", ">30 keV"]
        assert [b.kind for b in reader.scan.bins] == ["difference", "counter"]
        views = reader.read_views(0, 1)
        reader.close()
        assert (views[0, 0, 0, :5] == 0).all()
        assert (views[0, 0, 1:] == 70).all()
        np.testing.assert_array_equal(views[1, 0], high)
        assert reader.clamped_differences == 5
        assert any("negative difference" in note for note in reader.scan.notes)

    def test_some_counters_may_be_chosen(self, tmp_path):
        frames = images(8, cols=128).reshape(1, 8, ROWS, 128)
        kev = (18.0, 20.0, 30.0, 35.0, 45.0, 50.0, 75.0, 80.0)
        self.write(tmp_path / "scan.mib", frames, colour=1, thresholds=kev)
        reader = open_source(tmp_path / "scan.mib", SourceOptions(settings={"counters": [1, 3, 5, 7]}))
        assert [b.low_kev for b in reader.scan.bins] == [20.0, 35.0, 50.0, 80.0]
        np.testing.assert_array_equal(reader.read_views(0, 1)[:, 0], frames[0, 1::2])
        reader.close()

    def test_counters_that_take_turns_are_one_bin(self, tmp_path):
        frames = images(5)
        content = [mib_frame(f, sequence=i + 1, counter=i % 2) for i, f in enumerate(frames)]
        (tmp_path / "scan.mib").write_bytes(b"".join(content))
        with pytest.raises(IncompleteScanError, match="lacks counter 1"):
            open_source(tmp_path / "scan.mib", SourceOptions())
        np.testing.assert_array_equal(read_all(tmp_path / "scan.mib", alternating=True)[0], frames)
        write_hdr(tmp_path / "scan.hdr", n_frames=5, counters="Alternating")
        np.testing.assert_array_equal(read_all(tmp_path / "scan.mib")[0], frames)

    def test_a_lost_counter_is_named(self, tmp_path):
        frames = images(4)
        content = [
            mib_frame(f, sequence=n, counter=c)
            for f, (n, c) in zip(frames, [(1, 0), (1, 1), (2, 0), (3, 1)], strict=True)
        ]
        (tmp_path / "scan.mib").write_bytes(b"".join(content))
        with pytest.raises(IncompleteScanError, match="frame 2 lacks counter 1"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_differences_need_known_thresholds(self, tmp_path):
        self.write(tmp_path / "scan.mib", images(2).reshape(1, 2, ROWS, 256), thresholds=(20.0, *[0.0] * 7))
        with pytest.raises(ScanDescriptionError, match="got unknown, 20 keV"):
            open_source(tmp_path / "scan.mib", SourceOptions(settings={"bins": "difference"}))

    def test_described_bins_must_be_of_the_kind_that_is_read(self, tmp_path):
        self.write(tmp_path / "scan.mib", images(2).reshape(1, 2, ROWS, 256))
        bins = "[[bins]]\nlow_kev = 20.0\nhigh_kev = 32.0\n[[bins]]\nlow_kev = 32.0\n"
        (tmp_path / "scan.toml").write_text(bins)
        with pytest.raises(ScanDescriptionError, match="energy bin 0 is described as a difference, but is read as a"):
            open_source(tmp_path, SourceOptions())
        reader = open_source(tmp_path, SourceOptions(settings={"bins": "difference"}))
        assert [b.label for b in reader.scan.bins] == ["20-32 keV", ">32 keV"]
        reader.close()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"bins": "sum"}, "'counter', 'difference'"),
            ({"counters": [0, 5]}, "counters must name some of 0, 1"),
            ({"colour": True}, "unknown key 'colour'"),
            ({"n_views": 0}, "at least 1"),
            ({"alternating": "yes"}, "true or false"),
        ],
    )
    def test_settings_are_checked(self, tmp_path, settings, message):
        self.write(tmp_path / "scan.mib", images(2).reshape(1, 2, ROWS, 256))
        with pytest.raises(ScanDescriptionError, match=message):
            open_source(tmp_path / "scan.mib", SourceOptions(settings=settings))


class TestScannerStillWrites:
    def test_whole_views_become_available_as_files_grow(self, tmp_path):
        frames = images(4)
        content = b"".join(mib_frame(f, sequence=i + 1) for i, f in enumerate(frames))
        path = tmp_path / "scan.mib"
        frame_bytes = len(content) // 4
        path.write_bytes(content[: frame_bytes + 10])
        reader = open_source(tmp_path, SourceOptions(settings={"n_views": 4}))
        assert reader.scan.n_views == 4
        assert reader.available_views() == 1
        path.write_bytes(content[: 3 * frame_bytes - 1])
        assert reader.available_views() == 2
        path.write_bytes(content)
        assert reader.available_views() == 4
        np.testing.assert_array_equal(reader.read_views(0, 4)[0], frames)
        reader.close()

    def test_a_view_that_is_not_there_yet_cannot_be_read(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(2))
        reader = open_source(tmp_path, SourceOptions(settings={"n_views": 4}))
        with pytest.raises(IncompleteScanError, match=r"views up to 2 were asked for.*holds 2 so far"):
            reader.read_views(0, 3)
        reader.close()

    def test_more_views_than_announced_are_refused(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(3))
        with pytest.raises(ScanDescriptionError, match="holds 3 views, expected 2"):
            open_source(tmp_path, SourceOptions(settings={"n_views": 2}))


def test_views_known_to_be_missing_lose_their_angles(tmp_path):
    frames = images(5)
    write_views(tmp_path / "a.mib", frames[:2])
    write_views(tmp_path / "b.mib", frames[3:], first=4)
    write_hdr(tmp_path / "scan.hdr", n_frames=5)
    (tmp_path / "scan.toml").write_text(
        "[files]\nmissing_views = [3]\n"
        '[geometry]\nkind = "circular"\nsod_mm = 200.0\nsdd_mm = 250.0\npitch_mm = 0.055\nangle_step_deg = 10.0\n'
    )
    reader = open_source(tmp_path, SourceOptions())
    assert reader.scan.n_views == 4
    np.testing.assert_allclose(np.rad2deg(reader.scan.geometry.source_angles_rad), [0, 10, 30, 40], atol=1e-9)
    np.testing.assert_array_equal(reader.read_views(0, 4)[0], frames[[0, 1, 3, 4]])
    reader.close()


def test_a_mask_of_bad_pixels_joins_the_gaps(tmp_path):
    write_views(tmp_path / "scan.mib", images(1, cols=514), layout="2x1G", n_chips=2)
    mask = np.zeros((ROWS, 514), dtype=np.uint8)
    mask[2, 7] = 1
    np.save(tmp_path / "dead.npy", mask)
    (tmp_path / "scan.toml").write_text('[files]\nbad_pixels = "dead.npy"\n[geometry]\nrows = "top-down"\n')
    reader = open_source(tmp_path, SourceOptions())
    bad = reader.read_bad_pixels()
    reader.close()
    assert bad[ROWS - 3, 7]
    assert bad.sum() == 1 + 2 * ROWS


class TestRefusals:
    def test_a_truncated_file_is_named_with_its_offset(self, tmp_path):
        path = tmp_path / "scan.mib"
        write_views(path, images(3))
        frame_bytes = 384 + 2 * ROWS * 256
        path.write_bytes(path.read_bytes()[: 2 * frame_bytes + 1000])
        with pytest.raises(FrameFormatError, match=rf"scan.mib at byte {2 * frame_bytes}: .*1000 bytes.*{frame_bytes}"):
            open_source(path, SourceOptions())

    def test_a_truncated_header_is_refused(self, tmp_path):
        path = tmp_path / "scan.mib"
        write_views(path, images(1))
        path.write_bytes(path.read_bytes() + b"MQ1,000002,00384,01,0256,")
        with pytest.raises(FrameFormatError, match="expected a header of 384"):
            open_source(path, SourceOptions())

    def test_an_empty_file_is_refused(self, tmp_path):
        (tmp_path / "scan.mib").write_bytes(b"")
        with pytest.raises(FrameFormatError, match="empty"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_something_else_is_refused(self, tmp_path):
        (tmp_path / "scan.mib").write_bytes(b"II*\0" + bytes(1000))
        with pytest.raises(FrameFormatError, match="starts with 'MQ1,'"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_header_sizes_must_agree(self, tmp_path):
        frames = images(2)
        content = mib_frame(frames[0], sequence=1) + mib_frame(frames[1], sequence=2, header_bytes=512)
        (tmp_path / "scan.mib").write_bytes(content)
        with pytest.raises(FrameFormatError, match="512 bytes, expected 384"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_frame_sizes_must_agree(self, tmp_path):
        content = mib_frame(images(1)[0], sequence=1) + mib_frame(images(1, rows=4)[0], sequence=2)
        (tmp_path / "scan.mib").write_bytes(content)
        with pytest.raises(FrameFormatError, match="n rows is 4, expected 8"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_a_threshold_scan_is_refused(self, tmp_path):
        frames = images(2)
        content = mib_frame(frames[0], sequence=1) + mib_frame(frames[1], sequence=2, thresholds=(20.0, *[0.0] * 7))
        (tmp_path / "scan.mib").write_bytes(content)
        with pytest.raises(FrameFormatError, match="thresholds kev is"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_missing_sequence_numbers_are_listed(self, tmp_path):
        for number in (2, 3, 6):
            write_views(tmp_path / f"scan{number}.mib", images(1), first=number)
        with pytest.raises(IncompleteScanError, match=r"1, 4, 5 are missing of 1 to 6; .* missing_views"):
            open_source(tmp_path, SourceOptions())

    def test_a_long_list_of_missing_numbers_is_cut(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(1), first=100)
        with pytest.raises(IncompleteScanError, match="and 91 more are missing"):
            open_source(tmp_path, SourceOptions())

    def test_two_acquisitions_in_a_folder_are_refused(self, tmp_path):
        write_views(tmp_path / "a.mib", images(2))
        write_views(tmp_path / "b.mib", images(2))
        with pytest.raises(FrameFormatError, match="one acquisition only"):
            open_source(tmp_path, SourceOptions())

    def test_fewer_frames_than_promised_are_refused(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(3))
        write_hdr(tmp_path / "scan.hdr", n_frames=9)
        with pytest.raises(IncompleteScanError, match="found 3 frames, the header file promises 9"):
            open_source(tmp_path / "scan.mib", SourceOptions())

    def test_angles_must_match_the_views(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(3))
        (tmp_path / "scan.toml").write_text(
            '[geometry]\nkind = "circular"\nsod_mm = 200.0\nsdd_mm = 250.0\npitch_mm = 0.055\nangles_deg = [0.0, 1.0]\n'
        )
        with pytest.raises(ScanDescriptionError, match="2 angles for 3 views"):
            open_source(tmp_path, SourceOptions())

    def test_flats_of_another_size_are_refused(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(3))
        write_views(tmp_path / "flat.mib", images(1, rows=4))
        (tmp_path / "scan.toml").write_text('[files]\nflats = "flat.mib"\n')
        with pytest.raises(FrameFormatError, match=r"flat.mib at byte 0: n rows is 4"):
            open_source(tmp_path, SourceOptions())

    def test_flats_that_are_not_there_are_refused(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(3))
        (tmp_path / "scan.toml").write_text('[files]\nflats = "flat.mib"\n')
        with pytest.raises(FrameFormatError, match=r"no .mib file matches 'flat.mib'"):
            open_source(tmp_path, SourceOptions())

    @pytest.mark.parametrize(
        ("fields", "size", "message"),
        [
            ({"pixel_format": "U64"}, (8, 256), "'U64' is not read"),
            ({"layout": "3x3"}, (8, 256), None),
            ({"layout": "3x3", "n_chips": 9}, (768, 768), "3x3' with 9 chips is not read"),
            ({"layout": "ring", "n_chips": 4}, (512, 512), "layout 'ring' is not read"),
            ({"layout": "2x2", "n_chips": 3}, (512, 512), "whole 2x2 quad"),
            ({}, (8, 300), "got 300 for one chip, expected at most 256"),
            ({"layout": "2x2G", "n_chips": 4}, (514, 600), "columns: got 600 for 4 chips|got 600 for 2 chips"),
            ({"layout": "2x2", "n_chips": 4}, (512, 513), "got 513 for 2 chips, expected 512"),
            ({"pixel_format": "R64", "depth": 7}, (8, 256), "counter depth of 1, 6, 12 or 24 bit, got 7"),
            ({"pixel_format": "R64", "depth": 12}, (8, 300), "given as 300 columns, expected 256"),
            ({"pixel_format": "R64", "layout": "Nx1", "n_chips": 3}, (8, 768), "one chip or of a 2x2 quad"),
            ({"pixel_format": "R64", "colour": 1}, (8, 256), "colour mode is not read"),
        ],
    )
    def test_what_is_not_understood_is_refused(self, tmp_path, fields, size, message):
        header = mib_header(sequence=1, n_rows=size[0], n_cols=size[1], **fields)
        (tmp_path / "scan.mib").write_bytes(header + bytes(2 * size[0] * size[1]))
        if message is None:  # one chip of a mount for more is one chip
            assert open_source(tmp_path / "scan.mib", SourceOptions()).scan.n_cols == 256
            return
        with pytest.raises(FrameFormatError, match=message):
            open_source(tmp_path / "scan.mib", SourceOptions())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ((b"0256,", b"02x6,"), "not a number"),
            ((b"00384", b"00003"), "gives its own size"),
            ((b",0,0,0,", b",a,0,0,"), "not a number"),
        ],
    )
    def test_malformed_headers_are_refused(self, change, message):
        header = mib_header(sequence=1, n_rows=8, n_cols=256).replace(*change)
        with pytest.raises(FrameFormatError, match=message):
            parse_header(header, "scan.mib at byte 0")

    def test_short_headers_are_refused(self):
        with pytest.raises(FrameFormatError, match="5 fields"):
            parse_header(b"MQ1,000001,00384,01,0256".ljust(384, b"\0"), "scan.mib at byte 0")
        with pytest.raises(FrameFormatError, match="cut off after 100 of 384"):
            parse_header(mib_header(sequence=1, n_rows=8, n_cols=256)[:100], "scan.mib at byte 0")

    def test_a_hdr_that_is_none_is_refused(self, tmp_path):
        write_views(tmp_path / "scan.mib", images(1))
        (tmp_path / "scan.hdr").write_text("ENVI\n")
        with pytest.raises(FrameFormatError, match="starts with 'HDR'"):
            open_source(tmp_path / "scan.mib", SourceOptions())
