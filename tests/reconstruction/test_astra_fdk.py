# SPDX-License-Identifier: Apache-2.0
"""The ASTRA back end as far as it goes without a GPU: its geometry, its refusals, its calls."""

import importlib
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from reconstruction.backends import astra_fdk, load_backend
from reconstruction.bricks import Area
from reconstruction.coverage import projection_matrices
from reconstruction.errors import BackendUnavailableError, ParameterError
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid

GRID = VolumeGrid((20, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 2.0))


def circle(n_views=24, **changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 150.0, "angles_rad": 0.3 + np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 64, "n_cols": 48, "pitch_u_mm": 1.0, "pitch_v_mm": 0.9, "offset_v_mm": -0.6,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def pixels_of(vectors, points, n_rows, n_cols):
    """Where ASTRA's manual says that points fall: source, panel's middle, u from pixel to pixel, v from row to row."""
    found = []
    for v in vectors:
        source, middle, u, up = v[0:3], v[3:6], v[6:9], v[9:12]
        for point in points:
            # source + t (point - source) = middle + i u + j up
            t, i, j = np.linalg.solve(np.column_stack([source - point, u, up]), source - middle)
            assert t > 0
            found.append((i + (n_cols - 1) / 2, j + (n_rows - 1) / 2))
    return np.array(found).reshape(len(vectors), len(points), 2)


def test_points_fall_on_the_same_pixels_in_both_conventions():
    poses = circle().poses.copy()
    poses[:, 3:6] += np.random.default_rng(1).uniform(-1, 1, (24, 3))
    geometry = ConeBeamGeometry(poses, 64, 48)
    points = np.random.default_rng(2).uniform(-8, 8, (5, 3))
    col, row, depth = np.moveaxis(
        projection_matrices(geometry) @ np.column_stack([points, np.ones(5)]).T, 1, 0
    )  # (view, point) each
    for first, stop in ((0, 64), (10, 31)):
        got = pixels_of(astra_fdk.band_vectors(geometry, first, stop), points, stop - first, 48)
        assert np.allclose(got[..., 0], col / depth, atol=1e-9)
        assert np.allclose(got[..., 1] + first, row / depth, atol=1e-9)


def test_vectors_are_those_of_astras_cone_with_theta_a_quarter_turn_ahead():
    beta = np.array([0.0, 0.4, 2.0])
    geometry = circle(angles_rad=beta, offset_v_mm=0.0)
    theta, sod, odd = beta + math.pi / 2, 100.0, 50.0
    zero = np.zeros(3)
    # The manual's formulas for type 'cone', written as vectors.
    cone = np.column_stack([
        np.sin(theta) * sod, -np.cos(theta) * sod, zero, -np.sin(theta) * odd, np.cos(theta) * odd, zero,
        np.cos(theta), np.sin(theta), zero, zero, zero, np.full(3, 0.9),
    ])  # fmt: skip
    assert np.allclose(astra_fdk.band_vectors(geometry, 0, 64), cone, atol=1e-12)


def test_what_astra_does_not_do_is_refused():
    flat = VolumeGrid((20, 16, 16), (0.8, 1.0, 1.0))
    steps = np.cumsum(np.random.default_rng(5).uniform(0.7, 1.3, 24))
    arc = circle(angles_rad=np.linspace(0, math.radians(250), 24))
    wide = VolumeGrid((20, 28, 28), (1.0, 1.0, 1.0))
    lifted = circle().poses.copy()
    lifted[:, 9:11] += 0.02
    cases = [
        (prepare(circle(), flat, FdkParameters()), "voxels must be cubes, got 1 x 1 x 0.8"),
        (prepare(circle(angles_rad=steps / steps[-1] * 2 * math.pi), GRID, FdkParameters()), "equal steps"),
        (prepare(circle(), GRID, FdkParameters(), area=Area(0, 8, 0, 8)), "not bricks"),
        (prepare(circle(), GRID, FdkParameters(truncation_padding=0.1)), "truncation_padding"),
        (prepare(circle(offset_u_mm=2.0), GRID, FdkParameters()), "2 columns beside|-2 columns beside"),
        (prepare(arc, GRID, FdkParameters()), "no weights 'auto'"),
        (prepare(circle(n_cols=34, offset_u_mm=8.0), wide, FdkParameters()), "no weights 'auto'"),
        (prepare(ConeBeamGeometry(lifted, 64, 48), GRID, FdkParameters(tilted="general")), "one circular orbit"),
    ]  # fmt: skip
    for setup, message in cases:
        with pytest.raises(ParameterError, match=message):
            astra_fdk.AstraFdk("astra").start(setup)
    assert astra_fdk.refusal(prepare(circle(), GRID, FdkParameters())) == ""
    assert astra_fdk.refusal(prepare(arc, GRID, FdkParameters(redundancy="parker"))) == ""
    backend = astra_fdk.AstraFdk("astra")
    setup = prepare(circle(), GRID, FdkParameters())
    with pytest.raises(BackendUnavailableError, match="cannot store filtered rows"):
        backend.filter_rows(setup, np.zeros((1, 64, 48), np.float32), np.zeros(1, np.int64), row_start=0)
    with pytest.raises(BackendUnavailableError, match="cannot store filtered rows"):
        backend.start(setup).add_filtered(np.zeros((1, 1, 1), np.float32), np.zeros(1, np.int64))
    with pytest.raises(BackendUnavailableError, match="virtual"):
        backend.resample(setup, [], np.zeros(0, np.int64), frame_row_start=0, row_start=0, row_stop=1)


class StandIn:
    """Takes the calls that the back end makes to the toolbox, and fills the volume with the sum of the rows."""

    def __init__(self, *, cuda=True):
        self.__version__ = "stand-in"
        self.links, self.left, self.algorithm_settings = {}, set(), None
        self.use_cuda = lambda: cuda
        self.data3d = SimpleNamespace(link=self.link, delete=lambda ids: self.left.difference_update(ids))
        self.algorithm = SimpleNamespace(create=self.create, run=self.run, delete=lambda id: self.left.discard(id))

    def create_proj_geom(self, kind, n_rows, n_cols, vectors):
        return {"type": kind, "shape": (n_rows, len(vectors), n_cols), "vectors": vectors}

    def create_vol_geom(self, n_rows, n_cols, n_slices, *limits):
        return {"shape": (n_slices, n_rows, n_cols), "limits": limits}

    def astra_dict(self, kind):
        return {"type": kind}

    def link(self, kind, geometry, array):
        assert array.shape == geometry["shape"]
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        number = len(self.links) + 1
        self.links[number] = (kind, geometry, array)
        self.left.add(number)
        return number

    def create(self, settings):
        self.algorithm_settings = settings
        self.left.add(100)
        return 100

    def run(self, number):
        assert number == 100
        rows = self.links[self.algorithm_settings["ProjectionDataId"]][2]
        self.links[self.algorithm_settings["ReconstructionDataId"]][2][:] = rows.sum()


def test_a_slab_is_given_to_astra_once_all_views_came(monkeypatch):
    astra = StandIn()
    monkeypatch.setitem(sys.modules, "astra", astra)
    setup = prepare(circle(), GRID, FdkParameters(filter_window="hann", cutoff=0.7, outside_value=-1.0), Slab(4, 12))
    accumulator = load_backend("astra").start(setup)
    lines = np.ones((24, setup.band.n_rows, 48), dtype=np.float32)
    accumulator.add(lines[:10], np.arange(10))
    with pytest.raises(ParameterError, match="needs all 24 views, got 10"):
        accumulator.read_slices(0, 8)
    accumulator.add(list(lines[10:]), np.arange(10, 24))
    got = accumulator.read_slices(2, 5)
    assert got.shape == (3, 16, 16)
    assert got[0, 8, 8] == lines.sum()
    assert got[0, 0, 0] == -1.0
    option = astra.algorithm_settings["option"]
    assert option == {"ShortScan": False, "FilterType": "hann", "FilterD": 0.7}  # codespell:ignore FilterD
    (kind, projections, _), (_, volume, _) = astra.links.values()
    assert kind == "-sino"
    assert projections["shape"] == (setup.band.n_rows, 24, 48)
    # Slices 4 to 11 of a volume whose middle is at 2 mm: 1 mm each.
    assert volume == {"shape": (8, 16, 16), "limits": (-8.0, 8.0, -8.0, 8.0, -4.0, 4.0)}
    assert not astra.left


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(BackendUnavailableError, match="astra-toolbox cannot be imported"):
        load_backend("astra")
    monkeypatch.setitem(sys.modules, "astra", StandIn(cuda=False))
    with pytest.raises(BackendUnavailableError, match="finds no usable NVIDIA GPU"):
        load_backend("astra")
    assert importlib.import_module("reconstruction.backends.astra_fdk").open_backend("astra").name == "astra"
