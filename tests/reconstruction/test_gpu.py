# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: ``pytest -m gpu``.  Deselected by nobody: without one each test skips with the reason."""

import numpy as np
import pytest

from reconstruction.backends import list_backends, load_backend
from reconstruction.backends.cupy_fdk import open_backend
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import marker_phantom
from reconstruction.projector import forward_project
from reconstruction.slabs import cut_slabs
from tests.support.fdk_cases import circle, made_by, off, scan_of, setups

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def projections():
    return np.random.default_rng(3).random((72, 64, 48)).astype(np.float32)


def usable(name):
    # No GPU is no fault, not even in CI: what can be proven without one is proven elsewhere.
    lacking = list_backends()[name]
    if lacking:
        pytest.skip(lacking)
    return load_backend(name)


@pytest.mark.parametrize("case", list(setups()))
def test_every_pose_agrees_with_the_judge(case, projections):
    setup = setups()[case]
    expected = made_by(load_backend("numpy_reference"), setup, projections)
    linear = made_by(usable("cupy-linear"), setup, projections)
    assert off(linear, expected) < 1e-5
    assert np.array_equal(made_by(usable("cupy-layered"), setup, projections), linear)
    assert np.array_equal(made_by(usable("cupy"), setup, projections), linear)


@pytest.mark.parametrize("case", list(setups()))
def test_float16_agrees_with_the_judge_on_a_scan(case):
    setup = setups()[case]
    lines = scan_of(setup)
    half = made_by(usable("cupy-float16"), setup, lines)
    assert off(half, made_by(load_backend("numpy_reference"), setup, lines)) < 3e-4
    assert np.array_equal(made_by(open_backend("cupy-float16-layered"), setup, lines), half)
    assert np.array_equal(made_by(open_backend("cupy-float16-linear"), setup, lines), half)


def test_the_same_bytes_again_and_in_slabs():
    usable("cupy")
    geometry = ConeBeamGeometry.circular(
        sod_mm=200, sdd_mm=300, angles_rad=np.arange(180) * 2 * np.pi / 180, n_rows=256, n_cols=256, pitch_u_mm=0.5,
        pitch_v_mm=0.5,
    )  # fmt: skip
    grid = VolumeGrid((192, 192, 192), (0.3, 0.3, 0.3), (0.0, 0.0, 0.0))
    lines = np.random.default_rng(1).random((180, 256, 256)).astype(np.float32)
    whole = reconstruct(lines, geometry, grid, backend="cupy")
    assert np.array_equal(reconstruct(lines, geometry, grid, backend="cupy"), whole)
    parts = [
        reconstruct(lines, geometry, grid, backend="cupy", slab=slab, batch_views=20) for slab in cut_slabs(192, 3)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_both_variants_were_timed(projections):
    backend = usable("cupy")
    setup = prepare(circle(), setups()["full turn"].grid, FdkParameters())
    made_by(backend, setup, projections)
    assert set(backend.chosen) == {"upright"}
    assert backend.chosen["upright"] in ("linear", "layered")


def test_astra_agrees_on_a_phantom_that_has_a_left_and_a_right():
    backend = usable("astra")
    geometry = circle(180, offset_u_mm=0.0, offset_v_mm=0.0, n_cols=64)
    grid = VolumeGrid((16, 32, 32), (0.6, 0.6, 0.6))
    lines = forward_project(marker_phantom(8.0), geometry).astype(np.float32)
    setup = prepare(geometry, grid, FdkParameters())
    ours = made_by(load_backend("numpy_reference"), setup, lines)
    theirs = made_by(backend, setup, lines)
    inside = ours != 0
    assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.999
    assert theirs[inside].mean() == pytest.approx(ours[inside].mean(), rel=5e-3)
