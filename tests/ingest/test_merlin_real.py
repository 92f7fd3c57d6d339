# SPDX-License-Identifier: Apache-2.0
"""Real Merlin files: the digital test pattern of the counters says where every pixel belongs.

The pattern writes, upright, a big chip number, a row of small ones, and in each corner of each chip
the address that the chip itself gives it: ``R0,C0`` to ``R255,C255``.  Chips 3 and 4 are mounted the other way
round, so their addresses run backwards while the letters stay upright.
"""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from ingest.errors import FrameFormatError
from ingest.readers import SourceOptions
from ingest.readers.merlin import looks_like, open_source
from tests.support.peers import real_data_path

pytestmark = pytest.mark.real_data

FONT = {
    "R": ("####.", "#...#", "#...#", "####.", "#...#", "#...#", "#...#"),
    "C": (".###.", "#...#", "#....", "#....", "#....", "#...#", ".###."),
    ",": (".....", ".....", ".....", ".....", "..##.", "..##.", "...#."),
    "0": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "1": ("..#..", ".##..", "..#..", "..#..", "..#..", "..#..", ".###."),
    "2": (".###.", "#...#", "....#", "...#.", "..#..", ".#...", "#####"),
    "3": (".###.", "#...#", "....#", "..##.", "....#", "#...#", ".###."),
    "4": ("...##", "..#.#", ".#..#", "#...#", "#####", "....#", "....#"),
    "5": ("#####", "#....", "#....", "####.", "....#", "....#", "####."),
}
DEPTHS = (1, 6, 12, 24)
STORED = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}


@pytest.fixture(scope="module")
def merlin(tmp_path_factory):
    """All files of the three archives, each archive in a folder of its own."""
    folder = tmp_path_factory.mktemp("merlin")
    for archive in sorted(real_data_path("merlin").glob("*.zip")):
        with zipfile.ZipFile(archive) as stream:
            stream.extractall(folder / archive.stem)
    return folder


def read(path):
    reader = open_source(path, SourceOptions())
    views = reader.read_views(0, reader.scan.n_views)
    reader.close()
    assert views.shape[0] == 1
    return views[0]


def read_pattern(merlin, assembly, n_frames, depth, *, raw=False):
    name = f"{assembly}_{n_frames}_Frame_CounterDepth_{depth}_Rows_256{'RAW' if raw else ''}.mib"
    return read(merlin / "Merlin_Single_Quad" / name)


def letters(text):
    """A text as the pattern draws it, row 0 the lowest: cells of 8 columns, 7 rows high."""
    rows = ["".join(f"{FONT[letter][row]}..." for letter in text)[:-3] for row in range(7)]
    return np.array([[dot == "#" for dot in row] for row in rows])[::-1]


def find(text, picture):
    """Where a text fits best: (pixels that differ, row, column)."""
    template = letters(text)
    windows = sliding_window_view(picture, template.shape)
    differing = (windows != template).sum(axis=(2, 3))
    row, col = np.unravel_index(differing.argmin(), differing.shape)
    return int(differing[row, col]), int(row), int(col)


ALL_PATTERNS = [(depth, False) for depth in DEPTHS] + [(1, True)]


def steady(frames):
    """Pixels set in most frames: the pattern without single hits."""
    return np.median(frames, axis=0) > 0


@pytest.mark.parametrize(("depth", "raw"), ALL_PATTERNS)
@pytest.mark.parametrize("n_frames", [1, 9])
def test_the_pattern_of_a_single_chip_reads_upright(merlin, depth, raw, n_frames):
    frames = read_pattern(merlin, "Single", n_frames, depth, raw=raw)
    assert frames.shape == (n_frames, 256, 256)
    assert frames.dtype == STORED[depth]
    require_chip(steady(frames), chip=1)


@pytest.mark.parametrize(("depth", "raw"), ALL_PATTERNS)
@pytest.mark.parametrize("n_frames", [1, 9])
def test_the_chips_of_a_quad_are_in_their_places(merlin, depth, raw, n_frames):
    frames = read_pattern(merlin, "Quad", n_frames, depth, raw=raw)
    assert frames.shape == (n_frames, 512, 512)
    assert frames.dtype == STORED[depth]
    pattern = steady(frames)
    require_chip(pattern[:256, :256], chip=1)
    require_chip(pattern[:256, 256:], chip=2)
    require_chip(pattern[256:, :256], chip=3)
    require_chip(pattern[256:, 256:], chip=4)


def require_chip(pattern, *, chip):
    """Number and corner addresses of one chip; chip 2 of this detector doubles some columns on its left."""
    upside_down = chip in (3, 4)
    corners = {
        (0, 0): "R255,C255" if upside_down else "R0,C0",
        (0, 1): "R255,C0" if upside_down else "R0,C255",
        (1, 0): "R0,C255" if upside_down else "R255,C0",
        (1, 1): "R0,C0" if upside_down else "R255,C255",
    }
    # File row 0 carries "R0,...": drawn with row 0 at the bottom the letters stand upright.
    bands = (pattern[:30], pattern[-30:])
    for (top, right), text in corners.items():
        if chip == 2 and not right:
            continue
        band = bands[top]
        half = band[:, 128:] if right else band[:, :128]
        differing, _, _ = find(text, half)
        assert differing <= 3, f"chip {chip}: '{text}' not found, {differing} pixels differ"
    number_band = bands[1 if upside_down else 0]
    differing, _, _ = find(str(chip) * 7, number_band)
    assert differing <= 3, f"chip {chip}: its number is not found, {differing} pixels differ"


@pytest.mark.parametrize("assembly", ["Single", "Quad"])
@pytest.mark.parametrize(("depth", "raw"), [(6, False), (12, False), (24, False), (1, True)])
def test_all_counter_depths_hold_the_same_pattern(merlin, assembly, depth, raw):
    """Every pixel, not the letters only: what differs are hits and noisy pixels, below 1 in 1000."""
    expected = steady(read_pattern(merlin, assembly, 9, 1))
    pattern = steady(read_pattern(merlin, assembly, 9, depth, raw=raw))
    differing = int((pattern != expected).sum())
    assert differing < expected.size / 1000
    shifted = [np.roll(pattern, step, axis) for step in (-1, 1) for axis in (0, 1)]
    assert all(int((other != expected).sum()) > 10 * differing for other in shifted)


@pytest.mark.parametrize("assembly", ["Single", "Quad"])
@pytest.mark.parametrize("depth", [6, 12, 24])
def test_pattern_pixels_count_ten(merlin, assembly, depth):
    """The pattern is ten test pulses; real hits and noise come on top in a few pixels."""
    expected = steady(read_pattern(merlin, assembly, 9, 1))
    counts = np.median(read_pattern(merlin, assembly, 9, depth), axis=0)[expected]
    assert (counts == 10).mean() > 0.95


def test_raw_equals_the_assembled_frame(merlin):
    for assembly, n_noisy in (("Single", 10), ("Quad", 60)):
        raw, assembled = (read_pattern(merlin, assembly, 9, 1, raw=raw) for raw in (True, False))
        assert int((np.median(raw, axis=0) != np.median(assembled, axis=0)).sum()) <= n_noisy


def test_headers_say_what_was_measured(merlin):
    reader = open_source(merlin / "Merlin_Single_Quad" / "Quad_9_Frame_CounterDepth_12_Rows_256.mib", SourceOptions())
    scan = reader.scan
    reader.close()
    assert scan.acquired == "2021-04-15T15:03:32.852759"
    assert scan.bins[0].label == ">2 keV"
    assert scan.exposure.exposure_time_ms == pytest.approx(1.0)
    assert scan.model == "Merlin Quad"
    assert reader.read_bad_pixels() is None


def test_counters_that_take_turns_are_one_bin(merlin):
    """Continuous read-write alternates counters 0 and 1; the header file says so."""
    path = merlin / "Merlin_Single_Quad" / "Single_9_Frame_CounterDepth_1_Rows_256RAW.mib"
    reader = open_source(path, SourceOptions())
    assert (reader.scan.n_views, len(reader.scan.bins)) == (9, 1)
    assert any("took turns" in note for note in reader.scan.notes)
    reader.close()


def test_a_folder_of_many_acquisitions_is_refused(merlin):
    assert looks_like(merlin / "Merlin_Single_Quad")
    with pytest.raises(FrameFormatError, match=r"one acquisition only|expected"):
        open_source(merlin / "Merlin_Single_Quad", SourceOptions())


@pytest.mark.parametrize(
    ("folder", "name", "rows", "dtype", "raster"),
    [
        ("Merlin_navigation4x2_ROI", "001_4x2_6bit", 256, "uint8", False),
        ("Merlin_navigation4x2_ROI", "002_4x2_6bit_roi128", 128, "uint8", False),
        (
            "Merlin_navigation4x2_signalNx256_ROI",
            "002_merlin_test_roi_sig256x128_nav4x2_hot_pixel_52x_39y",
            128,
            "uint16",
            True,
        ),
        (
            "Merlin_navigation4x2_signalNx256_ROI",
            "003_merlin_test_roi_sig256x64_nav4x2_hot_pixel_52x_39y",
            64,
            "uint16",
            True,
        ),
    ],
)
def test_regions_of_interest_and_raster_scans_are_eight_views(merlin, folder, name, rows, dtype, raster):
    for suffix in (".mib", ".hdr"):
        reader = open_source(merlin / folder / f"{name}{suffix}", SourceOptions())
        scan = reader.scan
        views = reader.read_views(0, scan.n_views)
        reader.close()
        assert views.shape == (1, 8, rows, 256)
        assert views.dtype == dtype
        assert any("raster of 4 x 2" in note for note in scan.notes) == raster
    payload = (merlin / folder / f"{name}.mib").read_bytes()[384:][: views[0, 0].nbytes]
    np.testing.assert_array_equal(views[0, 0], np.frombuffer(payload, views.dtype.newbyteorder(">")).reshape(rows, 256))


def test_a_region_of_interest_is_the_middle_of_the_chip(merlin):
    """The same beam on all rows and on 128 of them: the best match lies near row 64."""
    whole, part = (
        np.log1p(read(merlin / "Merlin_navigation4x2_ROI" / f"{name}.mib").mean(axis=0))
        for name in ("001_4x2_6bit", "002_4x2_6bit_roi128")
    )
    match = [np.corrcoef(whole[row : row + 128].ravel(), part.ravel())[0, 1] for row in range(129)]
    assert abs(int(np.argmax(match)) - 64) <= 6
    assert max(match) > 0.97


def test_a_truncated_real_file_is_refused(merlin, tmp_path):
    content = (merlin / "Merlin_Single_Quad" / "Quad_9_Frame_CounterDepth_6_Rows_256.mib").read_bytes()
    (tmp_path / "cut.mib").write_bytes(content[:1_000_000])
    with pytest.raises(FrameFormatError, match=r"cut.mib at byte 788736: .* got 211264 bytes, expected 262912"):
        open_source(tmp_path / "cut.mib", SourceOptions())
