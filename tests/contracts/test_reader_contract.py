# SPDX-License-Identifier: Apache-2.0
"""What every reader of projections must keep; samples come from ``tests/support/reader_samples_*.py``."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, IngestError, ScanDescriptionError
from ingest.manifest import manifest_bytes, scan_from_bytes
from ingest.readers import SourceOptions, detect, load_reader, open_source
from tests.support.reader_samples import all_samples

SAMPLES = all_samples()


@pytest.fixture(params=sorted(SAMPLES))
def sample(request, tmp_path):
    folder = tmp_path / "sample"
    folder.mkdir()
    return SAMPLES[request.param](folder)


@pytest.fixture
def reader(sample):
    opened = open_source(sample.source, options=SourceOptions(scan_id="contract", settings=sample.settings))
    yield opened
    opened.close()


def test_it_is_recognised_by_its_look(sample):
    assert detect(sample.source) == sample.source_format


def test_looks_like_never_raises(sample, tmp_path):
    module = load_reader(sample.source_format)
    (tmp_path / "empty").touch()
    for source in (tmp_path / "absent", tmp_path / "empty", tmp_path):
        assert module.looks_like(source) in (True, False)
    assert not module.looks_like(tmp_path / "absent")


def test_the_manifest_describes_the_frames(sample, reader):
    scan = reader.scan
    assert scan.scan_id == "contract"
    assert scan.source_format == sample.source_format
    assert (scan.n_bins, scan.n_views, scan.n_rows, scan.n_cols) == sample.frames.shape
    assert reader.available_views() == scan.n_views
    assert scan_from_bytes(manifest_bytes(scan)) == scan


def test_frames_come_as_promised(sample, reader):
    scan = reader.scan
    frames = reader.read_views(0, scan.n_views)
    assert frames.shape == sample.frames.shape
    assert frames.dtype == np.dtype(scan.pixel_type)
    assert frames.dtype.isnative
    assert frames.flags.c_contiguous
    np.testing.assert_array_equal(frames, sample.frames)


def test_pieces_equal_the_whole_in_any_order(sample, reader):
    n_views = reader.scan.n_views
    whole = reader.read_views(0, n_views)
    for view in reversed(range(n_views)):
        np.testing.assert_array_equal(reader.read_views(view, view + 1), whole[:, view : view + 1])
    cut = n_views // 2
    parts = [reader.read_views(cut, n_views), reader.read_views(0, cut)]
    np.testing.assert_array_equal(np.concatenate(parts[::-1], axis=1), whole)
    assert reader.read_views(0, 0).shape[1] == 0


def test_views_that_are_not_there_are_refused(reader):
    n_views = reader.scan.n_views
    with pytest.raises(IngestError):
        reader.read_views(n_views - 1, n_views + 1)


def test_what_is_read_belongs_to_the_caller(reader):
    first = reader.read_views(0, 1)
    before = first.copy()
    first[...] = 0
    np.testing.assert_array_equal(reader.read_views(0, 1), before)


@pytest.mark.parametrize("kind", ["flats", "darks"])
def test_field_frames(sample, reader, kind):
    expected, described = getattr(sample, kind), getattr(reader.scan, kind)
    frames = getattr(reader, f"read_{kind}")()
    if expected is None:
        assert frames is None
        assert described is None
        return
    assert frames.shape == (reader.scan.n_bins, described.count, reader.scan.n_rows, reader.scan.n_cols)
    assert frames.dtype == np.dtype(reader.scan.pixel_type)
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("kind", ["flats", "darks"])
def test_field_frames_of_each_camera_position(sample, reader, kind):
    expected, counts, described = getattr(sample, kind), getattr(sample, f"{kind}_at"), getattr(reader.scan, kind)
    assert reader.scan.camera_positions == sample.camera_positions
    if expected is None:
        assert getattr(reader, f"read_{kind}")(None) is None
        return
    assert described.position_counts == counts
    for position in described.positions:
        frames = getattr(reader, f"read_{kind}")(position)
        np.testing.assert_array_equal(frames, expected[:, slice(*described.frames_at(position))])


def test_bad_pixels(sample, reader):
    bad = reader.read_bad_pixels()
    if sample.bad_pixels is None:
        assert bad is None
        return
    assert bad.dtype == bool
    np.testing.assert_array_equal(bad, sample.bad_pixels)


def test_a_truncated_file_is_refused_by_name(sample):
    if sample.truncate is None:
        return
    content = sample.truncate.read_bytes()
    sample.truncate.write_bytes(content[: int(len(content) * 0.7)])
    with pytest.raises((FrameFormatError, IncompleteScanError), match=sample.truncate.name) as error:
        _read_all(sample)
    assert "\n" not in str(error.value)


def test_closing_lets_go_of_the_files(sample):
    if sys.platform != "linux":
        pytest.skip("open files are counted by /proc")
    from pathlib import Path

    def open_files():
        gc.collect()
        links = (link for link in Path("/proc/self/fd").iterdir() if link.exists())
        maps = Path("/proc/self/maps").read_text()
        root = str(sample.source.parent)
        return sum(str(link.readlink()).startswith(root) for link in links) + maps.count(root)

    reader = open_source(sample.source, options=SourceOptions(scan_id="contract", settings=sample.settings))
    reader.read_views(0, 1)
    reader.close()
    assert open_files() == 0


def test_pixels_can_be_binned(sample):
    settings = sample.settings | {"bin_pixels": 2}
    if min(sample.frames.shape[2:]) < 2:
        with pytest.raises(ScanDescriptionError, match="bin_pixels 2 is more than the panel"):
            open_source(sample.source, options=SourceOptions(scan_id="contract", settings=settings))
        return
    reader = open_source(sample.source, options=SourceOptions(scan_id="contract", settings=settings))
    scan = reader.scan
    frames = reader.read_views(0, scan.n_views)
    reader.close()
    rows, cols = sample.frames.shape[2] // 2, sample.frames.shape[3] // 2
    assert (
        frames.shape == (scan.n_bins, scan.n_views, rows, cols) == (*sample.frames.shape[:2], scan.n_rows, scan.n_cols)
    )
    cut = sample.frames[:, :, : 2 * rows, : 2 * cols].astype(np.float64)
    sums = cut.reshape(*cut.shape[:2], rows, 2, cols, 2).sum(axis=(3, 5))
    expected = sums if scan.content == "counts" else (sums / 4).astype(np.float32)
    np.testing.assert_array_equal(frames, expected)


def _read_all(sample):
    reader = open_source(sample.source, options=SourceOptions(scan_id="contract", settings=sample.settings))
    try:
        reader.read_views(0, reader.scan.n_views)
    finally:
        reader.close()
