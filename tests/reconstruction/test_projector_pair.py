# SPDX-License-Identifier: Apache-2.0
"""The projector pair: exact transposes, right line integrals, the same bits on any number of threads."""

import math

import numpy as np
import pytest

from reconstruction.backends.simd import host_features
from reconstruction.errors import BackendUnavailableError
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.iterative.projectors import empty_volume, open_pair, pad_volume, rays_per_side, unpad_volume
from reconstruction.phantom import rotation_about, sample, uniform_cylinder
from reconstruction.projector import forward_project
from reconstruction.slabs import RowBand

VIEWS = 12


def circular(**changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 160.0, "angles_rad": 0.1 + np.arange(VIEWS) * 2 * math.pi / VIEWS,
        "n_rows": 20, "n_cols": 24, "pitch_u_mm": 1.6, "pitch_v_mm": 1.6,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def tilted():
    """Panels turned about all three of their axes, a little differently in each view."""
    geometry = circular()
    poses = geometry.poses.copy()
    for view, pose in enumerate(poses):
        normal = (pose[3:6] - pose[0:3]) / np.linalg.norm(pose[3:6] - pose[0:3])
        for axis, angle in ((normal, 0.2), (pose[6:9] / 1.6, 0.15 + 0.01 * view), (pose[9:12] / 1.6, -0.1)):
            turn = np.array(rotation_about(tuple(axis), angle))
            pose[6:9], pose[9:12] = turn @ pose[6:9], turn @ pose[9:12]
    return ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)


def helical():
    geometry = circular()
    poses = geometry.poses.copy()
    rise = np.linspace(-6, 6, VIEWS)
    poses[:, 2] += rise
    poses[:, 5] += rise
    return ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)


GEOMETRIES = {
    "circular": circular(),
    "offset": circular(offset_u_mm=7.3, offset_v_mm=-2.1),
    "tilted": tilted(),
    "helical": helical(),
}
GRIDS = {
    "cubic": VolumeGrid.cubic(16, 1.0),
    "flat": VolumeGrid((9, 15, 18), (1.7, 0.9, 1.1), (0.6, -0.4, 1.2)),
    "fine": VolumeGrid((20, 22, 24), (0.5, 0.6, 0.5), (1.0, 2.0, -1.0)),
    "coarse": VolumeGrid((6, 7, 5), (4.0, 3.5, 5.0), (0.5, 0.0, -2.0)),
}
BAND = RowBand(2, 19)


def pair_of(geometry, grid, backend="numba", band=BAND, threads=2):
    return open_pair(backend, geometry, grid, band, threads=threads)


def random_volume(grid, seed=0):
    return pad_volume(np.random.default_rng(seed).normal(size=grid.shape).astype(np.float32))


def random_lines(geometry, band=BAND, seed=1):
    shape = geometry.n_views, geometry.n_cols, band.n_rows
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def transposed(pair, lines, grid, views):
    out = empty_volume(grid.shape)
    pair.back_project(lines, views, out)
    return out


@pytest.mark.parametrize("grid_name", GRIDS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_pair_is_adjoint_on_any_pose_and_voxel_shape(name, grid_name):
    geometry, grid = GEOMETRIES[name], GRIDS[grid_name]
    pair, views = pair_of(geometry, grid), np.arange(VIEWS)
    volume, lines = random_volume(grid), random_lines(geometry)
    projected = pair.project(volume, views).astype(np.float64)
    back = unpad_volume(transposed(pair, lines, grid, views), grid.shape[0]).astype(np.float64)
    one, other = np.vdot(projected, lines), np.vdot(unpad_volume(volume, grid.shape[0]), back)
    assert np.linalg.norm(projected) > 1.0
    assert abs(one - other) < 1e-5 * abs(one)
    assert abs(one - other) < 1e-7 * np.linalg.norm(projected) * np.linalg.norm(lines)


PATHS = [f"numba-{isa}" for isa, present in host_features().items() if present]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "grid_name"), [*((name, "flat") for name in GEOMETRIES), ("offset", "coarse")])
def test_compiled_and_plain_pairs_agree(name, grid_name, path):
    geometry, grid = GEOMETRIES[name], GRIDS[grid_name]
    views = np.array([0, 3, 7, 10])
    compiled, plain = pair_of(geometry, grid, path), pair_of(geometry, grid, "numpy_reference")
    assert compiled.name == path
    assert compiled.upright == (name != "tilted")
    volume, lines = random_volume(grid), random_lines(geometry)[views]
    expected = plain.project(volume, views)
    assert np.abs(compiled.project(volume, views) - expected).max() < 1e-5 * np.abs(expected).max()
    expected = unpad_volume(transposed(plain, lines, grid, views), grid.shape[0])
    got = unpad_volume(transposed(compiled, lines, grid, views), grid.shape[0])
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_several_rays_a_pixel_stay_adjoint_and_agree_with_the_plain_pair():
    geometry, grid = circular(n_rows=8, n_cols=10, pitch_u_mm=4.0, pitch_v_mm=4.0), GRIDS["cubic"]
    band, views = RowBand(0, 8), np.arange(VIEWS)
    assert rays_per_side(geometry, grid) == 3
    compiled, plain = (pair_of(geometry, grid, name, band) for name in ("numba", "numpy_reference"))
    volume, lines = random_volume(grid), random_lines(geometry, band)
    projected = compiled.project(volume, views).astype(np.float64)
    back = unpad_volume(transposed(compiled, lines, grid, views), grid.shape[0]).astype(np.float64)
    assert np.vdot(projected, lines) == pytest.approx(np.vdot(unpad_volume(volume, grid.shape[0]), back), rel=1e-5)
    assert np.abs(projected - plain.project(volume, views)).max() < 1e-5 * np.abs(projected).max()


@pytest.mark.parametrize("name", ["tilted", "helical"])
def test_bits_do_not_depend_on_the_number_of_threads(name):
    grid, views = GRIDS["cubic"], np.arange(VIEWS)
    geometry = GEOMETRIES[name]
    volume, lines = random_volume(grid), random_lines(geometry)
    one, three = pair_of(geometry, grid, threads=1), pair_of(geometry, grid, threads=3)
    assert np.array_equal(one.project(volume, views), three.project(volume, views))
    assert np.array_equal(transposed(one, lines, grid, views), transposed(three, lines, grid, views))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_cylinder_of_voxels_has_its_analytic_line_integrals(name):
    geometry, grid = GEOMETRIES[name], VolumeGrid.cubic(48, 0.5)
    phantom = uniform_cylinder(8.0, 14.0, 0.02)
    expected = forward_project(phantom, geometry, supersample=2).transpose(0, 2, 1)
    pair = pair_of(geometry, grid, band=RowBand(0, geometry.n_rows))
    got = pair.project(pad_volume(sample(phantom, grid, supersample=4)), np.arange(VIEWS))
    thick = expected > 0.6 * expected.max()
    assert got[thick].mean() == pytest.approx(expected[thick].mean(), rel=2e-3)
    assert got.sum() == pytest.approx(expected.sum(), rel=5e-3)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.04 * np.sqrt(np.mean(expected**2))


def test_a_ray_along_the_voxels_counts_them():
    """A ray along y through voxel centres: every voxel counts with its side; outside the volume there is nothing."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=1000.0, sdd_mm=2000.0, angles_rad=[math.pi / 2], n_rows=1, n_cols=1, pitch_u_mm=1.0, pitch_v_mm=1.0
    )
    grid = VolumeGrid((1, 5, 3), (1.0, 2.0, 1.0))
    volume = np.zeros(grid.shape, dtype=np.float32)
    volume[0, :, 1] = [1, 2, 3, 4, 5]
    for backend in ("numba", "numpy_reference"):
        pair = open_pair(backend, geometry, grid, RowBand(0, 1))
        assert pair.project(pad_volume(volume), np.array([0]))[0, 0, 0] == pytest.approx(2.0 * 15, rel=1e-6)


def test_a_back_end_without_projectors_is_refused():
    with pytest.raises(BackendUnavailableError, match=r"'astra' has no projectors.*numba"):
        open_pair("astra", GEOMETRIES["circular"], GRIDS["cubic"], BAND)


def test_compiled_and_plain_denoisers_agree():
    rng = np.random.default_rng(3)
    grid = VolumeGrid((7, 9, 8), (2.0, 1.0, 1.0))
    noisy = pad_volume((1.0 + rng.normal(scale=0.3, size=grid.shape)).astype(np.float32))
    inside = np.zeros(noisy.shape[:2], dtype=bool)
    inside[2:-2, 2:-2] = rng.random(grid.shape[1:]) > 0.1
    noisy[~inside] = 0
    slopes = np.array([1.0, 1.0, 0.5], dtype=np.float32)
    results = []
    for backend in ("numba", "numpy_reference"):
        pair = pair_of(GEOMETRIES["circular"], grid, backend)
        dual = np.zeros((3, *noisy.shape), dtype=np.float32)
        out = np.zeros_like(noisy)
        for _ in range(2):
            pair.denoise(noisy, dual, 0.4, slopes, inside, 0.0, 5, out)
        results.append(out)
    assert np.abs(results[0] - results[1]).max() < 1e-5
    flat = results[0][inside][:, 2:9]
    assert flat.std() < 0.5 * noisy[inside][:, 2:9].std()
    assert flat.mean() == pytest.approx(noisy[inside][:, 2:9].mean(), rel=1e-3)  # TV keeps the mean
