# SPDX-License-Identifier: Apache-2.0
"""Real scans that cannot be reconstructed: read, stored and inspected as they are, then refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from ingest.inspect import inspect_source, inspect_stored
from ingest.readers import SourceOptions, open_source
from ingest.upload import upload
from reconstruction.correction import prepare_fields, to_line_integrals
from reconstruction.errors import GeometryError
from reconstruction.fdk import reconstruct
from reconstruction.geometry import VolumeGrid
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from storage.filesystem import open_store
from tests.support.peers import real_data_path

pytestmark = pytest.mark.real_data

TOOTH, DISC, ZEISS = "tooth.h5", "solid_disc_subsample73.mat", "txrm_test_chip_tomo.txrm"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def open_real():
    readers = []

    def open_and_keep(folder, name, scan_id):
        readers.append(open_source(real_data_path(folder) / name, options=SourceOptions(scan_id=scan_id)))
        return readers[-1]

    yield open_and_keep
    for reader in readers:
        reader.close()


def test_the_tooth_is_flat_corrected(open_real):
    """A synchrotron scan with 10 flat and 10 dark frames: air comes out at 0, the tooth well above the noise."""
    reader = open_real("tooth_parallel", TOOTH, "tooth")
    correction = prepare_fields(reader.read_flats()[0], reader.read_darks()[0])
    line_integrals, floored = to_line_integrals(reader.read_views(0, 181)[0], correction)
    assert line_integrals.shape == (181, 2, 640)
    assert floored.n_floored == 0
    air = np.concatenate([line_integrals[..., :20], line_integrals[..., -20:]], axis=-1)
    assert abs(float(np.median(air))) < 0.02
    assert 1.0 < float(np.percentile(line_integrals, 99)) < 4.0


def test_the_tooth_is_inspected_stored_and_refused(open_real, store):
    reader = open_real("tooth_parallel", TOOTH, "tooth")
    found = inspect_source(reader)
    assert found.geometry is None
    assert (found.scan.n_views, found.scan.n_rows, found.scan.n_cols) == (181, 2, 640)
    assert (found.scan.flats.count, found.scan.darks.count) == (10, 10)
    upload(reader, store)
    stored = open_scan_chunks(store, "tooth")
    np.testing.assert_array_equal(stored.read_view(0, 90), reader.read_views(90, 91)[0, 0])
    np.testing.assert_array_equal(stored.read_flats(0), reader.read_flats()[0])
    assert inspect_stored(stored).bins[0].statistics.maximum > 0
    with pytest.raises(PlanError, match=r"^scan tooth is a parallel-beam scan; only cone-beam scans are reconstr.*$"):
        make_plan(stored, ReconstructionRequest("tooth"))


def test_a_limited_arc_is_stored_and_refused_with_the_arc_it_got(open_real, store):
    """61 views of half a degree."""
    reader = open_real("htc2022", DISC, "disc")
    upload(reader, store)
    stored = open_scan_chunks(store, "disc")
    views = np.stack([stored.read_view(0, view) for view in range(61)])
    np.testing.assert_array_equal(views, reader.read_views(0, 61)[0])
    message = r"^the 61 views cover an arc of 30.5 degrees; at least 180 degrees are needed .*, since lines .*$"
    with pytest.raises(GeometryError, match=message):
        make_plan(stored, ReconstructionRequest("disc"))
    with pytest.raises(GeometryError, match=message):
        reconstruct(views, stored.scan.geometry, VolumeGrid((1, 64, 64), (1.0, 1.0, 1.0)))


def test_a_zone_plate_scan_is_stored_and_refused_as_parallel(open_real, store):
    reader = open_real("zeiss_txrm", ZEISS, "chip")
    upload(reader, store)
    stored = open_scan_chunks(store, "chip")
    np.testing.assert_array_equal(stored.read_view(0, 6), reader.read_views(6, 7)[0, 0])
    with pytest.raises(PlanError, match=r"^scan chip is a parallel-beam scan; only cone-beam scans are reconstr.*$"):
        make_plan(stored, ReconstructionRequest("chip"))
