# SPDX-License-Identifier: Apache-2.0
"""SIRT, OS-SART and total variation: better than FDK on few noisy views, right in mu, the same whatever the slabs."""

import math

import numpy as np
import pytest

from reconstruction.errors import GeometryError, ParameterError
from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.reconstruct import reconstruct_iterative
from reconstruction.iterative.region import check_directions, make_region, seen_radius_mm, spread
from reconstruction.iterative.scale import DataScale, noise_of, scale_region, tv_weight
from reconstruction.iterative.solver import ordered_subsets
from reconstruction.phantom import Phantom, sample, shepp_logan_3d, uniform_cylinder
from reconstruction.projector import forward_project


def circular(n_views=30, **changes):
    values = {
        "sod_mm": 120.0, "sdd_mm": 180.0, "angles_rad": np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 40, "n_cols": 48, "pitch_u_mm": 1.5, "pitch_v_mm": 1.5,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def noisy(lines, photons, seed=1):
    counts = np.random.default_rng(seed).poisson(photons * np.exp(-lines))
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)


def rmse(volume, truth, inside):
    return float(np.sqrt(np.mean((volume - truth)[inside].astype(np.float64) ** 2)))


def test_few_noisy_views_are_better_iterated_and_best_with_total_variation():
    geometry = circular(60, sod_mm=200.0, sdd_mm=300.0, n_rows=60, n_cols=60, pitch_u_mm=4 / 3, pitch_v_mm=4 / 3)
    grid = VolumeGrid.cubic(40, 1.25)
    head = shepp_logan_3d(24.0, contrast="high", scale=0.02)
    lines = noisy(forward_project(head, geometry, supersample=2), 2e3)
    truth = sample(head, grid, supersample=3)
    at = grid.origin_mm[0] + 1.25 * np.arange(40)
    inside = np.broadcast_to((np.hypot(at[:, None], at) < 24)[None], truth.shape) & (np.abs(at) < 20)[:, None, None]
    fdk = rmse(reconstruct(lines, geometry, grid), truth, inside)
    ratios = {
        method: rmse(reconstruct_iterative(lines, geometry, grid, parameters).volume, truth, inside) / fdk
        for method, parameters in (
            ("sirt", IterativeParameters("sirt", iterations=20)),
            ("os-sart", IterativeParameters("os-sart", iterations=6)),
            ("tv", IterativeParameters("tv", iterations=12)),
        )
    }
    assert ratios["sirt"] < 0.8
    assert ratios["os-sart"] < 0.8
    assert ratios["tv"] < 0.5


@pytest.mark.parametrize("changes", [{}, {"offset_u_mm": 20.0}])
def test_mu_of_a_cylinder_is_right(changes):
    """Also where the cylinder goes on above and below the volume, and where the panel sees one side only."""
    geometry = circular(36, **changes)
    grid = VolumeGrid((10, 24, 24), (1.5, 1.5, 1.5))
    lines = forward_project(uniform_cylinder(13.0, 300.0, 0.02), geometry, supersample=2)
    result = reconstruct_iterative(lines, geometry, grid, IterativeParameters("os-sart", iterations=12, subsets=6))
    at = grid.origin_mm[0] + 1.5 * np.arange(24)
    core = np.hypot(at[:, None], at) < 8
    means = result.volume[:, core].mean(axis=1)
    assert np.abs(means / 0.02 - 1).max() < 5e-3
    assert all(b < a for a, b in zip(result.residuals, result.residuals[1:], strict=False))


def test_matter_around_a_small_volume_does_not_raise_mu():
    geometry = circular(36)
    grid = VolumeGrid((4, 8, 8), (1.5, 1.5, 1.5), (3.0, -2.0, 1.0))
    lines = forward_project(uniform_cylinder(17.0, 300.0, 0.02), geometry, supersample=2)
    result = reconstruct_iterative(lines, geometry, grid, IterativeParameters("os-sart", iterations=10, subsets=6))
    assert result.volume.shape == grid.shape
    assert result.volume.mean() == pytest.approx(0.02, rel=5e-3)


@pytest.mark.parametrize(
    "parameters",
    [
        IterativeParameters("os-sart", iterations=6),
        IterativeParameters("tv", iterations=10),
        IterativeParameters("sirt", iterations=10),
    ],
    ids=lambda parameters: parameters.method,
)
def test_slabs_equal_the_whole(parameters):
    geometry = circular(24, n_rows=64, n_cols=24, pitch_u_mm=3.0, pitch_v_mm=1.2)
    grid = VolumeGrid((40, 14, 14), (0.8, 2.8, 2.8))
    head = shepp_logan_3d(19.0, contrast="high", scale=0.02)
    lines = noisy(forward_project(head, geometry), 2e4)
    whole = reconstruct_iterative(lines, geometry, grid, parameters)
    for slab in (Slab(0, 8), Slab(16, 24)):
        part = reconstruct_iterative(lines, geometry, grid, parameters, slab=slab)
        assert part.tv_weight == whole.tv_weight
        assert np.abs(part.volume - whole.volume[slab.z_start : slab.z_stop]).max() < 1e-4 * whole.volume.max()


def test_starting_from_fdk_needs_fewer_passes():
    geometry, grid = circular(30), VolumeGrid.cubic(16, 2.0)
    body = uniform_cylinder(12.0, 20.0, 0.02)
    lines, truth = forward_project(body, geometry, supersample=2), sample(body, grid, supersample=3)
    few = {
        start: reconstruct_iterative(lines, geometry, grid, IterativeParameters("sirt", iterations=2, start=start))
        for start in ("zero", "fdk")
    }
    assert few["fdk"].residuals[0] < 0.5 * few["zero"].residuals[0]
    assert np.abs(few["fdk"].volume - truth).mean() < np.abs(few["zero"].volume - truth).mean()


def test_bits_do_not_depend_on_threads():
    geometry, grid = circular(12), VolumeGrid.cubic(12, 2.5)
    lines = forward_project(uniform_cylinder(10.0, 20.0, 0.02), geometry)
    parameters = IterativeParameters("tv", iterations=2)
    one, two = (reconstruct_iterative(lines, geometry, grid, parameters, threads=n).volume for n in (1, 2))
    assert np.array_equal(one, two)


def test_the_reference_pair_gives_the_same_volume():
    geometry, grid = circular(8, n_rows=16, n_cols=20, pitch_u_mm=3.2, pitch_v_mm=3.2), VolumeGrid.cubic(8, 3.0)
    lines = forward_project(uniform_cylinder(8.0, 14.0, 0.02), geometry)
    parameters = IterativeParameters("tv", iterations=2, subsets=2)
    fast, plain = (
        reconstruct_iterative(lines, geometry, grid, parameters, name, guard_slices=1).volume
        for name in ("numba", "numpy_reference")
    )
    assert np.abs(fast - plain).max() < 1e-5 * plain.max()


def test_a_region_holds_all_that_whole_rays_cross():
    geometry, grid = circular(), VolumeGrid.cubic(16, 1.0)
    region = make_region(geometry, grid, Slab(12, 16), guard_slices=2)
    assert region.radius_mm == pytest.approx(seen_radius_mm(geometry))
    assert region.radius_mm + 0.5 < region.grid.shape[1] / 2
    low, high = region.z_edges_mm
    assert low <= spread(geometry, region.radius_mm, 4.0, 8.0)[0]
    assert high >= spread(geometry, region.radius_mm, 4.0, 8.0)[1]
    # Every ray that crosses the wanted slices in the field is whole.
    wanted = spread(geometry, region.radius_mm, 4.0, 8.0)
    assert low <= wanted[0] < wanted[1] <= high
    cropped = region.crop(np.ones(region.grid.shape, dtype=np.float32), -0.5)
    assert cropped.shape == (4, 16, 16)
    assert (cropped[0, 0, 0], cropped[0, 8, 8]) == (-0.5, 1.0)


def test_a_point_that_few_views_see_is_refused():
    arc = circular(angles_rad=np.radians(np.arange(0, 150, 5.0)))
    grid = VolumeGrid.cubic(16, 1.0)
    with pytest.raises(GeometryError, match=r"seen by 30 of 30 views, with a gap of \d+ degrees .* scan the missing"):
        reconstruct_iterative(np.zeros((30, 40, 48), dtype=np.float32), arc, grid)
    with pytest.raises(GeometryError, match="reaches the source"):
        make_region(circular(), grid, radius_mm=130.0)


def test_wrong_arrays_are_refused():
    geometry, grid = circular(), VolumeGrid.cubic(8, 2.0)
    with pytest.raises(GeometryError, match=r"shape \(3, 40, 48\), the geometry says \(30, 40, 48\)"):
        reconstruct_iterative(np.zeros((3, 40, 48), dtype=np.float32), geometry, grid)
    with pytest.raises(ParameterError, match="float32 line integrals, got float64"):
        reconstruct_iterative(np.zeros((30, 40, 48)), geometry, grid)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "art"}, "unknown method 'art'"),
        ({"start": "noise"}, "unknown start 'noise'"),
        ({"iterations": 0}, "iterations must be 1 to 1000, got 0"),
        ({"subsets": 0}, "subsets must be at least 1, got 0"),
        ({"method": "sirt", "subsets": 4}, "sirt uses all views at once, got 4 subsets"),
        ({"relaxation": 2.0}, "between 0 and 2, got 2"),
        ({"tv_strength": -1.0}, "0 or more, got -1"),
    ],
)
def test_wrong_parameters_are_refused(values, told):
    with pytest.raises(ParameterError, match=told):
        IterativeParameters(**values)


def test_subsets_hold_every_view_once_and_lie_far_apart():
    subsets = ordered_subsets(23, 4)
    assert sorted(np.concatenate(subsets).tolist()) == list(range(23))
    assert [int(views[0]) for views in subsets] == [0, 2, 1, 3]
    assert IterativeParameters("sirt").subset_count(60) == 1
    assert IterativeParameters("os-sart").subset_count(60) == 10
    assert IterativeParameters("tv", subsets=100).subset_count(60) == 60


def test_the_weight_follows_noise_edges_views_and_pixels():
    geometry, grid = circular(30), VolumeGrid.cubic(16, 1.5)
    tv = IterativeParameters("tv", subsets=5)

    def weight(scale, geometry=geometry, grid=grid, parameters=tv):
        return tv_weight(scale, scale_region(geometry, grid), parameters)

    noise = weight(DataScale(0.0, 0.01))
    assert noise > 0
    assert weight(DataScale(0.0, 0.02)) == pytest.approx(2 * noise)
    # An edge of mu 0.01 / mm in voxels of 1.5 mm is as wrong as that noise is large.
    assert weight(DataScale(0.01 / 1.5, 0.0)) == pytest.approx(noise)
    assert weight(DataScale(0.01 / 1.5, 0.01)) == pytest.approx(math.sqrt(2) * noise)
    assert weight(DataScale(0.0, 0.01), geometry=circular(120)) == pytest.approx(noise / 2)
    fine = circular(30, n_rows=80, n_cols=96, pitch_u_mm=0.75, pitch_v_mm=0.75)
    assert weight(DataScale(0.0, 0.01), geometry=fine) == pytest.approx(noise / 2, rel=0.01)
    assert weight(DataScale(0.0, 0.01), parameters=IterativeParameters("tv", subsets=10)) == pytest.approx(2 * noise)
    assert weight(DataScale(0.0, 0.01), parameters=IterativeParameters("tv", tv_strength=0.0)) == 0.0


def test_methods_without_total_variation_stop_where_they_would_fit_noise():
    geometry, grid = circular(60), VolumeGrid.cubic(24, 2.0)
    clean = forward_project(shepp_logan_3d(20.0, contrast="high", scale=0.02), geometry)
    passes = {
        photons: len(reconstruct_iterative(noisy(clean, photons), geometry, grid).residuals) for photons in (100, 1e5)
    }
    assert passes[100] < passes[1e5] <= 10
    asked = reconstruct_iterative(noisy(clean, 100), geometry, grid, IterativeParameters("os-sart", iterations=7))
    assert len(asked.residuals) == 7


def test_turns_that_repeat_angles_add_no_directions():
    """Three circles of 30 views each, one above the other, see as many directions as one: they are not refused."""
    one = circular(30)
    poses = np.concatenate([one.poses] * 3)
    for turn in range(3):
        poses[30 * turn : 30 * turn + 30, [2, 5]] += 4.0 * (turn - 1)
    check_directions(ConeBeamGeometry(poses, one.n_rows, one.n_cols), VolumeGrid.cubic(16, 1.5), 12.0)


def test_noise_of_line_integrals_is_found_beside_edges():
    geometry = circular(6, n_rows=60, n_cols=90, pitch_u_mm=0.8)
    body = Phantom((*uniform_cylinder(14.0, 24.0, 0.02).shapes, *uniform_cylinder(3.0, 24.0, 0.03).shapes))
    lines = forward_project(body, geometry).transpose(0, 2, 1)
    rng = np.random.default_rng(2)
    found = noise_of((lines + rng.normal(scale=0.01, size=lines.shape)).astype(np.float32))
    assert found == pytest.approx(0.01, rel=0.2)
    assert noise_of(np.zeros_like(lines)) == 0.0
