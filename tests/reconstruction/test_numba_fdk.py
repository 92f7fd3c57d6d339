# SPDX-License-Identifier: Apache-2.0
"""The numba back end's own parts: the FFT of rows in lanes, what a row's bits depend on, groups of views."""

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest

import reconstruction.backends
from reconstruction.backends import load_backend
from reconstruction.backends.fft_kernel import convolve_rows, plan_rows
from reconstruction.backends.simd import ISA_TAGS, LANES, host_features
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.slabs import grouped_batches, view_batches

PATHS = [isa for isa in ISA_TAGS if host_features()[isa]]
GRID = VolumeGrid((32, 16, 16), (1.0, 1.0, 1.0))


def geometry_of(n_views, n_cols=40):
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=100, sdd_mm=150, angles_rad=angles, n_rows=52, n_cols=n_cols, pitch_u_mm=1.0, pitch_v_mm=1.0
    )


@pytest.mark.parametrize("isa", PATHS)
def test_rows_are_convolved_as_by_numpy(isa):
    rng = np.random.default_rng(1)
    for n_fft in (2, 4, 6, 8, 10, 16, 18, 24, 30, 48, 50, 90, 128, 144, 240, 480, 768, 1000, 1024, 1200):
        rows = rng.standard_normal((LANES[isa], n_fft))
        response = rng.standard_normal(n_fft // 2 + 1)
        expected = np.fft.irfft(np.fft.rfft(rows) * response, n_fft)
        plan = plan_rows(n_fft, response)
        buffer = np.ascontiguousarray(rows.T, dtype=np.float32)
        convolve_rows(ISA_TAGS[isa], buffer, n_fft, plan.radices, plan.twiddles, plan.pairs, plan.factors)
        assert np.abs(buffer.T - expected).max() < 1e-6 * np.abs(expected).max(), n_fft


def test_a_length_with_another_factor_is_refused():
    with pytest.raises(ValueError, match="factor 7"):
        plan_rows(14, np.ones(8))


@pytest.mark.parametrize("isa", PATHS)
def test_a_rows_bits_do_not_depend_on_its_neighbours(isa):
    geometry = geometry_of(8)
    setup = prepare(geometry, GRID, FdkParameters())
    backend = load_backend(f"numba-{isa}")
    lines = np.random.default_rng(2).random((8, 52, 40), dtype=np.float32)
    views = np.arange(8)
    whole = backend.filter_rows(setup, lines, views, row_start=0, threads=2)
    part = backend.filter_rows(setup, lines[3:5, 7:44], views[3:5], row_start=7, threads=1)
    assert np.array_equal(part, whole[3:5, 7:44])


def test_rows_that_are_read_only_or_not_contiguous_are_taken():
    geometry = geometry_of(7)
    lines = np.random.default_rng(2).random((7, 52, 40), dtype=np.float32)
    expected = reconstruct(lines, geometry, GRID)
    turned = np.asfortranarray(lines)
    turned.setflags(write=False)
    assert np.array_equal(reconstruct(turned, geometry, GRID), expected)


def test_batches_split_no_four_neighbours():
    for n_views, room in ((40, 12), (39, 16), (3, 4), (7, 5), (360, 128)):
        plain = view_batches(n_views, None, room)
        assert [list(b) for b in grouped_batches(np.arange(n_views), room)] == [list(b) for b in plain]
    some = np.array([3, 5, 6, 7, 9, 10, 13])
    assert [b.tolist() for b in grouped_batches(some, 5)] == [[3, 5, 6, 7], [9, 10, 13]]
    assert [b.tolist() for b in grouped_batches(some, 4)] == [[3, 5, 6, 7], [9, 10, 13]]
    with pytest.raises(MemoryBudgetError, match="room for 4 views"):
        grouped_batches(some, 3)


def test_kernels_name_what_they_are_compiled_from():
    """Numba's cache looks at a function's own file alone: a change in another must change that file as well."""
    folder = Path(reconstruction.backends.__file__).parent
    named = 0
    for path in sorted(folder.glob("*kernel*.py")):
        text = path.read_text()
        others = sorted(set(re.findall(r"^from reconstruction\.backends\.(\w+) import", text, flags=re.MULTILINE)))
        if others:
            named += 1
            sums = {other: hashlib.sha256((folder / f"{other}.py").read_bytes()).hexdigest()[:12] for other in others}
            line = "COMPILED_WITH = {" + ", ".join(f'"{other}": "{digest}"' for other, digest in sums.items()) + "}"
            assert line in text.splitlines(), f"{path.name} must hold: {line}"
    assert named >= 5


def test_a_constant_row_keeps_no_rounding_of_what_the_ramp_suppresses():
    geometry = geometry_of(8, n_cols=512)
    setup = prepare(geometry, GRID, FdkParameters())
    lines = np.ones((1, 52, 512), dtype=np.float32)
    expected = load_backend("numpy_reference").filter_rows(setup, lines, np.arange(1), row_start=0)
    for isa in PATHS:
        got = load_backend(f"numba-{isa}").filter_rows(setup, lines, np.arange(1), row_start=0)
        assert abs(float((got - expected).mean(dtype=np.float64))) < 5e-7 * float(np.abs(expected).max())
