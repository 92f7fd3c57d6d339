# SPDX-License-Identifier: Apache-2.0
"""What every back end must do, judged by the plain one and by exact projections of a cylinder."""

import math

import numpy as np
import pytest

from reconstruction.backends import BACKENDS, list_backends, load_backend
from reconstruction.errors import BackendUnavailableError, GeometryError, ParameterError
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.slabs import cut_slabs, view_batches

#: The GPU's back end with its kernels compiled for the host, under a name that only this suite knows.
CUDA_HOST = "cuda-host"
#: Not here: ASTRA takes few scans, and float16 has a tolerance of its own (tests/reconstruction/test_gpu.py).
FAST_BACKENDS = [*(name for name in BACKENDS if name.startswith("numba")), "cupy", CUDA_HOST]
EXACT_BACKENDS = ["numpy_reference", *FAST_BACKENDS]
GRID = VolumeGrid((36, 24, 24), (0.8, 1.0, 1.0), (0.0, 0.0, 0.5))


def geometry_of(n_views=40, **changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 150.0, "angles_rad": 0.3 + np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 64, "n_cols": 48, "pitch_u_mm": 1.0, "pitch_v_mm": 0.9, "offset_u_mm": 0.7, "offset_v_mm": -0.6,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


@pytest.fixture(autouse=True)
def _host_back_end(monkeypatch):
    monkeypatch.setitem(BACKENDS, CUDA_HOST, "tests.support.cuda_host")


@pytest.fixture(scope="module")
def projections():
    return np.random.default_rng(3).random((40, 64, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def judged(projections):
    return reconstruct(projections, geometry_of(), GRID, backend="numpy_reference")


def usable(name):
    lacking = list_backends()[name]
    if lacking:
        pytest.skip(lacking)
    return name


def off(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FAST_BACKENDS)
@pytest.mark.parametrize("kernel", ["four_fold", "circular", "any_pose"])
def test_every_kernel_agrees_with_the_judge(name, kernel, projections, judged):
    usable(name)
    setup = prepare(geometry_of(), GRID, FdkParameters())
    assert setup.quarter == 10
    got = reconstruct(
        projections, geometry_of(), GRID, backend=name, four_fold=kernel == "four_fold",
        force_general=kernel == "any_pose", batch_views=16, threads=2,
    )  # fmt: skip
    assert got.dtype == np.float32
    assert off(got, judged) < 1e-5


@pytest.mark.parametrize("name", FAST_BACKENDS)
@pytest.mark.parametrize("n_views", [40, 39])
def test_slabs_threads_and_batches_do_not_change_a_bit(name, n_views, projections):
    usable(name)
    geometry = geometry_of(n_views)
    data = projections[:n_views]
    whole = reconstruct(data, geometry, GRID, backend=name, threads=1, batch_views=40)
    for n_slabs in (1, 2, 3):
        parts = [
            reconstruct(data, geometry, GRID, backend=name, slab=slab, threads=2, batch_views=12)
            for slab in cut_slabs(GRID.shape[0], n_slabs)
        ]
        assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", FAST_BACKENDS)
@pytest.mark.parametrize("sense", [1, -1])
def test_clockwise_turns_and_unequal_steps_agree_too(name, sense, projections):
    usable(name)
    steps = np.random.default_rng(5).uniform(0.7, 1.3, 40)
    for angles in (sense * np.arange(40) * math.pi / 20, sense * np.cumsum(steps) / steps.sum() * 2 * math.pi):
        geometry = geometry_of(angles_rad=angles)
        got = reconstruct(projections, geometry, GRID, backend=name)
        assert off(got, reconstruct(projections, geometry, GRID, backend="numpy_reference")) < 1e-5


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_coarse_voxels_take_the_scalar_kernel(name, projections):
    usable(name)
    grid = VolumeGrid((10, 8, 8), (3.0, 3.0, 3.0))
    got = reconstruct(projections, geometry_of(), grid, backend=name)
    assert off(got, reconstruct(projections, geometry_of(), grid, backend="numpy_reference")) < 1e-5


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_tilted_and_shifted_poses_agree_with_the_judge(name, projections):
    usable(name)
    poses = geometry_of().poses.copy()
    rng = np.random.default_rng(8)
    poses[:, 2] += rng.uniform(-1, 1, 40)
    poses[:, 3:6] += rng.uniform(-0.5, 0.5, (40, 3))
    poses[:, 9:11] += rng.uniform(-0.02, 0.02, (40, 2))
    geometry = ConeBeamGeometry(poses, 64, 48)
    assert geometry.circular_orbit is None
    got = reconstruct(projections, geometry, GRID, backend=name)
    assert off(got, reconstruct(projections, geometry, GRID, backend="numpy_reference")) < 1e-5


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_filtering_apart_gives_the_same_as_filtering_in_passing(name, projections):
    usable(name)
    geometry = geometry_of()
    setup = prepare(geometry, GRID, FdkParameters(filter_window="hann", cutoff=0.8), cut_slabs(36, 2)[1])
    backend = load_backend(name)
    fused, apart = backend.start(setup, threads=2), backend.start(setup, threads=2)
    band = slice(setup.band.row_start, setup.band.row_stop)
    for views in view_batches(40, setup.quarter, 20):
        fused.add(projections[views, band], views)
        filtered = backend.filter_rows(setup, projections[views], views, row_start=0)
        apart.add_filtered(np.ascontiguousarray(filtered[:, band]), views)
    expected = fused.read_slices(0, setup.slab.n_slices)
    assert off(apart.read_slices(0, setup.slab.n_slices), expected) < 1e-6


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize(("n_views", "pitch", "voxel"), [(90, 1.0, 1.0), (180, 0.5, 0.7), (91, 1.3, 1.0)])
def test_mu_of_a_cylinder_is_right_whatever_views_pitch_and_voxel(name, n_views, pitch, voxel):
    usable(name)
    radius, mu = 8.0, 0.02
    n_cols = int(60 / pitch)
    geometry = ConeBeamGeometry.circular(
        sod_mm=120, sdd_mm=200, angles_rad=np.arange(n_views) * 2 * math.pi / n_views, n_rows=5, n_cols=n_cols,
        pitch_u_mm=pitch, pitch_v_mm=1.0,
    )  # fmt: skip
    u = (np.arange(n_cols) - (n_cols - 1) / 2) * pitch
    v = np.arange(-2.0, 3.0)
    distance = 120 * np.abs(u) / np.hypot(200, u)  # of the ray from the axis, in the plane
    chord = 2 * np.sqrt(np.maximum(0, radius**2 - distance**2))
    slant = np.sqrt(1 + v[:, None] ** 2 / (200**2 + u[None] ** 2))
    line = np.broadcast_to(mu * chord[None] * slant, (n_views, 5, n_cols)).astype(np.float32)
    n = int(24 / voxel) // 2 * 2
    volume = reconstruct(line, geometry, VolumeGrid((1, n, n), (voxel,) * 3), backend=name)
    x = (np.arange(n) - (n - 1) / 2) * voxel
    middle = np.hypot(x[:, None], x[None]) < 0.7 * radius
    assert float(volume[0][middle].mean()) == pytest.approx(mu, rel=5e-3)
    assert np.all(volume[0][np.hypot(x[:, None], x[None]) > n * voxel / 2] == 0)


def test_bad_input_is_refused(projections):
    geometry = geometry_of()
    with pytest.raises(GeometryError, match=r"\(40, 64, 48\)"):
        reconstruct(projections[:39], geometry, GRID)
    with pytest.raises(ParameterError, match="float32"):
        reconstruct(projections.astype(np.float64), geometry, GRID)
    with pytest.raises(BackendUnavailableError, match="unknown back end 'gpu'"):
        reconstruct(projections, geometry, GRID, backend="gpu")
    with pytest.raises(ParameterError, match="filter window"):
        FdkParameters(filter_window="box")
