# SPDX-License-Identifier: Apache-2.0
"""Data Exchange files made here, and the real tooth."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError
from ingest.readers import SourceOptions, detect, open_source
from ingest.readers.hdf5_frames import open_hdf5
from tests.support.hdf5_maker import write_dataexchange
from tests.support.peers import real_data_path

FRAMES = np.random.default_rng(6).integers(0, 60000, (5, 3, 7)).astype(np.uint16)
THETA_DEG = np.arange(5) * 36.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def open_dx(path, **settings):
    return open_source(path, source_format="dataexchange", options=SourceOptions(settings=settings))


def test_a_parallel_beam_is_read(path):
    extra = {
        "measurement/instrument/detector/actual_pixel_size_x": (1.5, "um"),
        "measurement/instrument/detector/exposure_time": (0.2, "s"),
        "measurement/instrument/detector/manufacturer": "Point Grey",
        "process/acquisition/start_date": "2025-03-04T05:06:07",
    }
    write_dataexchange(path, FRAMES, white=FRAMES[:2], dark=FRAMES[:1], theta=THETA_DEG, extra=extra)
    reader = open_dx(path)
    scan = reader.scan
    np.testing.assert_array_equal(reader.read_views(1, 4)[0], FRAMES[1:4, ::-1])
    np.testing.assert_array_equal(reader.read_flats()[0], FRAMES[:2, ::-1])
    np.testing.assert_array_equal(reader.read_darks()[0], FRAMES[:1, ::-1])
    np.testing.assert_allclose(scan.parallel.angles_rad, -np.deg2rad(THETA_DEG))
    assert (scan.parallel.pitch_u_mm, scan.parallel.pitch_v_mm) == (pytest.approx(0.0015), pytest.approx(0.0015))
    assert scan.geometry is None
    assert scan.exposure.exposure_time_ms == pytest.approx(200.0)
    assert scan.manufacturer == "Point Grey"
    assert scan.acquired == "2025-03-04T05:06:07"
    reader.close()


def test_scan_toml_makes_it_a_cone(path):
    write_dataexchange(path, FRAMES, theta=THETA_DEG)
    (path.parent / "scan.toml").write_text(
        '[geometry]\nkind = "circular"\nsod_mm = 100.0\nsdd_mm = 300.0\npitch_mm = 0.1\narc_deg = 360.0\n'
        'rows = "bottom-up"\n'
    )
    reader = open_dx(path)
    assert reader.scan.parallel is None
    assert reader.scan.geometry.sod_mm == pytest.approx(100.0)
    np.testing.assert_array_equal(reader.read_views(0, 5)[0], FRAMES)
    reader.close()


def test_without_angles_there_is_no_geometry(path):
    write_dataexchange(path, FRAMES)
    scan = open_dx(path).scan
    assert scan.parallel is None
    assert any("no angles" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": THETA_DEG[:4]}, "theta holds 4 angles for 5 views"),
        ({"units": "steps"}, "is in 'steps', expected an angle"),
        ({"white": FRAMES[:2, :2]}, "data_white has frames of 2 rows x 7 columns, expected 3 x 7"),
        ({"dark": FRAMES[0]}, "data_dark needs the axes"),
        ({"frames": FRAMES[0]}, r"/exchange/data needs the axes \(frame, row, col\)"),
        ({"axes": "y:theta:x"}, "has the axes 'y:theta:x', expected 'theta:y:x'"),
        ({"frames": FRAMES.astype(np.complex64)}, "complex64 are not read"),
    ],
)
def test_what_does_not_fit_is_refused(path, changes, message):
    write_dataexchange(path, **({"frames": FRAMES, "theta": THETA_DEG} | changes))
    with pytest.raises(FrameFormatError, match=message):
        open_dx(path)


def test_a_truncated_file_is_recognised_and_refused(path):
    write_dataexchange(path, FRAMES, theta=THETA_DEG)
    path.write_bytes(path.read_bytes()[:-100])
    assert detect(path) == "dataexchange"
    with pytest.raises(FrameFormatError, match=r"scan.h5: the HDF5 file is cut short or damaged"):
        open_dx(path)


def test_other_hdf5_files_are_not_recognised(path):
    with h5py.File(path, "w") as file:
        file["volume"] = FRAMES
    with pytest.raises(FrameFormatError, match="not recognised"):
        open_source(path)
    with pytest.raises(FrameFormatError, match="no data set /exchange/data"):
        open_dx(path)


def test_another_number_of_views_than_announced_is_refused(path):
    write_dataexchange(path, FRAMES, theta=THETA_DEG)
    with pytest.raises(IncompleteScanError, match="holds 5 views, expected 6"):
        open_dx(path, n_views=6)


@pytest.mark.real_data
def test_the_real_tooth_is_read_and_corrected_to_transmissions():
    path = real_data_path("tooth_parallel") / "tooth.h5"
    reader = open_source(path)
    scan = reader.scan
    assert scan.source_format == "dataexchange"
    assert (scan.n_bins, scan.n_views, scan.n_rows, scan.n_cols) == (1, 181, 2, 640)
    assert (scan.flats.count, scan.darks.count, scan.content) == (10, 10, "counts")
    assert scan.geometry is None
    assert len(scan.parallel.angles_rad) == 181
    assert np.rad2deg(np.ptp(scan.parallel.angles_rad)) == pytest.approx(180, abs=1.1)
    views, flats, darks = reader.read_views(0, 181), reader.read_flats(), reader.read_darks()
    reader.close()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(views[0], file["exchange/data"][()][:, ::-1])
    dark = darks.mean(axis=1, keepdims=True)
    transmission = (views - dark) / (flats.mean(axis=1, keepdims=True) - dark)
    assert 0.0 < transmission.min()
    assert transmission.max() < 1.2
    assert 0.6 < transmission.mean() < 0.9
    # Air beside the tooth lets everything through.
    assert transmission[..., :60].mean() == pytest.approx(1.0, abs=0.02)


def test_chunks_of_several_frames_are_unpacked_once(path, monkeypatch):
    """Frames read two at a time from chunks of eight: HDF5 keeps the chunks, within a bound."""
    frames = np.random.default_rng(1).integers(0, 4000, (16, 64, 48), dtype=np.uint16)
    write_dataexchange(path, np.zeros((16, 64, 48), np.uint16), theta=np.arange(16.0))
    with h5py.File(path, "a") as file:
        del file["exchange/data"]
        file.create_dataset("exchange/data", data=frames, chunks=(8, 32, 48), compression="gzip")
    kept = 2 * 8 * 32 * 48 * 2
    with open_hdf5(path) as file:
        nslots, n_bytes = file["exchange/data"].id.get_access_plist().get_chunk_cache()[:2]
        assert (nslots, n_bytes) == (21, kept)
    reader = open_dx(path)
    views = [reader.read_views(start, start + 2)[0] for start in range(0, 16, 2)]
    reader.close()
    np.testing.assert_array_equal(np.concatenate(views), frames[:, ::-1])
    monkeypatch.setattr("ingest.readers.hdf5_frames.MAX_LAYER_BYTES", kept - 1)
    with open_hdf5(path) as file:
        assert file["exchange/data"].id.get_access_plist().get_chunk_cache()[1] != kept
