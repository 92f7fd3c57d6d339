# SPDX-License-Identifier: Apache-2.0
"""What every back end must do, judged by the plain one and by exact projections of a cylinder."""

import math
from dataclasses import replace

import numpy as np
import pytest

from reconstruction.backends import BACKENDS, list_backends, load_backend
from reconstruction.errors import BackendUnavailableError, GeometryError, ParameterError
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.slabs import cut_slabs, view_batches
from reconstruction.virtual_views import VirtualViews

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
@pytest.mark.parametrize("kernel", ["four_fold", "upright", "any_pose"])
def test_every_kernel_agrees_with_the_judge(name, kernel, projections, judged):
    usable(name)
    choice = {"four_fold": kernel == "four_fold", "force_general": kernel == "any_pose"}
    assert prepare(geometry_of(), GRID, FdkParameters(), **choice).kernel == kernel
    got = reconstruct(projections, geometry_of(), GRID, backend=name, batch_views=16, threads=2, **choice)
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
def test_coarse_voxels_agree_too(name, projections):
    usable(name)
    grid = VolumeGrid((10, 8, 8), (3.0, 3.0, 3.0))
    got = reconstruct(projections, geometry_of(), grid, backend=name)
    assert off(got, reconstruct(projections, geometry_of(), grid, backend="numpy_reference")) < 1e-5


def moved(n_views=40, *, tilt=0.0):
    """Views off their circle, with the panel tilted by up to `tilt`."""
    poses = geometry_of(n_views).poses.copy()
    rng = np.random.default_rng(8)
    poses[:, 2] += rng.uniform(-1, 1, n_views)
    poses[:, 3:6] += rng.uniform(-0.5, 0.5, (n_views, 3))
    poses[:, 9:11] += rng.uniform(-tilt, tilt, (n_views, 2))
    return ConeBeamGeometry(poses, 64, 48)


def climbing(n_views, turn_views, pitch_mm, *, steps=False):
    """A helix, or a stack of circles, of `pitch_mm` a turn."""
    angles = 0.3 + np.arange(n_views) * 2 * math.pi / turn_views
    poses = geometry_of(angles_rad=angles).poses.copy()
    turns = np.arange(n_views) // turn_views if steps else np.arange(n_views) / turn_views
    for axis in (2, 5):
        poses[:, axis] += (turns - turns.mean()) * pitch_mm
    return ConeBeamGeometry(poses, 64, 48)


def short_arc():
    return geometry_of(angles_rad=np.linspace(0, 4.2, 30))


TALL = VolumeGrid((64, 16, 16), (0.8, 1.2, 1.2))
#: Name -> geometry, grid, parameters, and the kernel that is to run.
SCANS = {
    "shifted": (moved(), GRID, {}, "upright"),
    "tilted, set upright": (moved(tilt=0.02), GRID, {}, "upright"),
    "tilted, general": (moved(tilt=0.02), GRID, {"tilted": "general"}, "any_pose"),
    "helix": (climbing(67, 22, 15.0), TALL, {}, "upright"),
    "stack": (climbing(63, 21, 22.0, steps=True), TALL, {}, "upright"),
    "short arc": (short_arc(), GRID, {}, "upright"),
    "short arc, Parker": (short_arc(), GRID, {"redundancy": "parker"}, "upright"),
    "offset panel": (geometry_of(n_cols=40, offset_u_mm=9.0), GRID, {}, "four_fold"),
    "continued rows": (geometry_of(39), GRID, {"truncation_padding": 0.3}, "upright"),
    "value outside": (geometry_of(39), GRID, {"outside_value": -1.0}, "upright"),
    "beyond the panel": (geometry_of(), VolumeGrid((96, 24, 24), (0.8, 1.0, 1.0)), {}, "four_fold"),
    "region beside the axis": (moved(), VolumeGrid((20, 9, 11), (0.5, 0.6, 0.7), (3.0, -4.0, 1.0)), {}, "upright"),
}
#: Each path once: ``numba`` is one of the others.
PATHS = [name for name in FAST_BACKENDS if name != "numba"]


@pytest.fixture(scope="module")
def judged_scans():
    """What the judge makes of a scan, once for all back ends."""
    made = {}

    def judge(scan):
        if scan not in made:
            geometry, grid, parameters, _ = SCANS[scan]
            shape = (geometry.n_views, geometry.n_rows, geometry.n_cols)
            lines = np.random.default_rng(3).random(shape, dtype=np.float32)
            volume = reconstruct(lines, geometry, grid, FdkParameters(**parameters), backend="numpy_reference")
            made[scan] = lines, volume
        return made[scan]

    return judge


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scan", SCANS)
def test_every_orbit_agrees_with_the_judge_and_slabs_do_not_change_a_bit(name, scan, judged_scans):
    usable(name)
    geometry, grid, parameters, kernel = SCANS[scan]
    lines, expected = judged_scans(scan)
    chosen = FdkParameters(**parameters)
    assert prepare(geometry, grid, chosen).kernel == kernel
    whole = reconstruct(lines, geometry, grid, chosen, backend=name, threads=1)
    assert off(whole, expected) < 1e-5
    parts = [
        reconstruct(lines, geometry, grid, chosen, backend=name, slab=slab, threads=2, batch_views=14)
        for slab in cut_slabs(grid.shape[0], 4)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scan", ["helix", "stack"])
def test_the_general_kernel_shares_slices_too(name, scan, judged_scans):
    usable(name)
    geometry, grid, _, _ = SCANS[scan]
    lines, expected = judged_scans(scan)
    setup = prepare(geometry, grid, FdkParameters(), force_general=True)
    assert setup.kernel == "any_pose"
    assert setup.slice_weights is not None
    assert off(reconstruct(lines, geometry, grid, backend=name, force_general=True), expected) < 1e-5


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("n_slots", [1, 2])
def test_virtual_views_agree_with_the_plain_way(name, n_slots):
    usable(name)
    geometry, n_views, n_rows, n_cols = geometry_of(3, n_rows=40, n_cols=50), 3, 36, 31
    rng = np.random.default_rng(6)
    frames = [[rng.random((30, n_cols), dtype=np.float32) for _ in range(n_slots)] for _ in range(n_views)]
    maps = np.zeros((n_views, n_slots, 3, 3))
    maps[..., [0, 1, 2], [0, 1, 2]] = 1.0
    maps += rng.uniform(-0.02, 0.02, maps.shape) * np.array([[1, 1, 0], [1, 1, 0], [1e-2, 1e-2, 0]])
    maps[..., 0, 2] = -20.0 * np.arange(n_slots) + 0.3
    maps[..., 1, 2] = -1.7
    indices = np.arange(n_views * n_slots).reshape(n_views, n_slots)
    indices[0, 1:] = -1
    virtual = VirtualViews(indices, maps, 6.0, n_rows, n_cols, rectified=True, merged=n_slots > 1)
    setup = replace(prepare(geometry_of(), GRID, FdkParameters()), geometry=geometry, virtual=virtual)
    views = np.array([2, 0])
    chosen = [frames[view] for view in views]
    bounds = {"frame_row_start": 3, "row_start": 5, "row_stop": 38}
    expected = load_backend("numpy_reference").resample(setup, chosen, views, **bounds)
    got = load_backend(name).resample(setup, chosen, views, threads=2, **bounds)
    assert got.shape == (2, 33, 50)
    assert got.dtype == np.float32
    assert (expected == 0).any()
    assert (expected != 0).any()
    assert off(got, expected) < 1e-5


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
