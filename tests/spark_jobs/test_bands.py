# SPDX-License-Identifier: Apache-2.0
"""Files of filtered rows: what is written is read, and nothing else passes for it."""

import numpy as np
import pytest

from spark_jobs.errors import BandCorruptError
from spark_jobs.run_files.bands import BandFile, read_band, write_band
from storage.errors import MissingFileError
from tests.support.fake_store import FakeStore


def band_of(dtype="float32"):
    return BandFile("runs/r/bands/a.band", 10, 15, 4, 7, dtype)


def rows_of(band):
    rng = np.random.default_rng(1)
    scale = 10.0 ** np.arange(band.n_rows)[None, :, None]
    return (rng.standard_normal((band.n_views, band.n_rows, band.n_cols)) * scale).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 4.9e-4)])
def test_rows_come_back_by_one_ranged_read(dtype, tolerance):
    store, band = FakeStore(), band_of(dtype)
    rows = rows_of(band)
    rows[:, 3] = 0.0
    assert write_band(store, band, rows) == len(store.files[band.path]) == band.n_rows * band.row_bytes
    for start, stop in ((10, 15), (12, 13), (11, 14)):
        store.reads.clear()
        got = read_band(store, band, start, stop)
        expected = rows[:, start - 10 : stop - 10]
        assert len(store.reads) == 1
        assert np.all(np.abs(got - expected) <= tolerance * np.abs(expected).max(axis=(0, 2))[None, :, None])


def test_what_was_not_written_so_is_refused():
    store, band = FakeStore(), band_of()
    write_band(store, band, rows_of(band))
    whole = store.files[band.path]
    for at in (0, 4, 8, band.row_bytes - 1):  # scale, checksum, first and last value of a row
        store.files[band.path] = (
            whole[: at + band.row_bytes] + bytes([whole[at + band.row_bytes] ^ 1]) + whole[at + band.row_bytes + 1 :]
        )
        read_band(store, band, 12, 15)
        with pytest.raises(BandCorruptError, match=r"a\.band: row 11 does not have its checksum"):
            read_band(store, band, 10, 15)
    store.files[band.path] = whole[band.row_bytes :] + whole[: band.row_bytes]
    with pytest.raises(BandCorruptError, match="row 10 does not have its checksum"):
        read_band(store, band, 10, 15)
    store.files[band.path] = whole[:-1]
    with pytest.raises(BandCorruptError, match=f"a.band has {len(whole) - 1} B, expected {len(whole)} B"):
        read_band(store, band, 14, 15)
    store.files[band.path] = whole
    with pytest.raises(BandCorruptError, match="checksum"):
        read_band(store, BandFile(band.path, 10, 15, 7, 4, "float32"), 10, 11)
    del store.files[band.path]
    with pytest.raises(MissingFileError):
        read_band(store, band, 10, 11)
