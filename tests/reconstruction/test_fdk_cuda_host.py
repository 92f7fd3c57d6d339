# SPDX-License-Identifier: Apache-2.0
"""The CUDA source, compiled as C++, against the judge: every pose, both ways to read, both ways to store."""

from dataclasses import replace

import numpy as np
import pytest

from reconstruction.backends import launches, load_backend
from reconstruction.backends.device_filter import upload_new, weighting_of
from reconstruction.backends.device_sizes import SlabSizes, resampled_view_bytes
from reconstruction.bricks import Area, Window
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.virtual_views import VirtualViews
from tests.support.cuda_host import HostDevice, compiler, host_backend, shared_library
from tests.support.fdk_cases import GRID, N_VIEWS, circle, made_by, off, scan_of, setups, tilted_panel, unequal_steps
from tests.support.peers import require_peer


@pytest.fixture(autouse=True)
def _compiler():
    require_peer("a C++ compiler", compiler() is not None, "install g++")


@pytest.fixture(scope="module")
def projections():
    return np.random.default_rng(3).random((2 * N_VIEWS, 64, 48)).astype(np.float32)


@pytest.mark.parametrize("case", list(setups()))
def test_every_pose_agrees_with_the_judge(case, projections):
    # White noise is the hardest for float32: neighbouring pixels have nothing in common.
    setup = setups()[case]
    expected = made_by(load_backend("numpy_reference"), setup, projections)
    linear = made_by(host_backend(), setup, projections)
    assert off(linear, expected) < 1e-5
    assert np.array_equal(made_by(host_backend(variant="layered"), setup, projections), linear)


@pytest.mark.parametrize("case", list(setups()))
def test_float16_agrees_with_the_judge_on_a_scan_from_every_pose(case, projections):
    """Held on a phantom with 2 % of noise; what float16 does to nothing but noise, which no scan is, is only said."""
    setup = setups()[case]
    lines = scan_of(setup)
    expected = made_by(load_backend("numpy_reference"), setup, lines)
    half = made_by(host_backend(half=True), setup, lines)
    error = off(half, expected)
    noise = off(
        made_by(host_backend(half=True), setup, projections),
        made_by(load_backend("numpy_reference"), setup, projections),
    )
    print(f"{case}: float16 differs by {error:.1e} of the maximum on a scan, {noise:.1e} on white noise")
    assert 0 < error < 3e-4
    assert noise < 1e-3
    if case in ("full turn", "three tilts", "rings"):
        assert np.array_equal(made_by(host_backend(half=True, variant="layered"), setup, lines), half)


def test_the_host_weighs_only_what_the_device_cannot():
    ways = {name: weighting_of(setup) for name, setup in setups().items()}
    assert ways["full turn"] == "shared"
    assert ways["helix"] == "cosine"
    assert ways["short arc"] == "columns"
    assert ways["three tilts, short arc"] == "rays"


def test_slabs_bricks_and_batches_do_not_change_a_bit(projections, monkeypatch):
    # Slices come back a few at a time, and the last copy is shorter.
    monkeypatch.setattr("reconstruction.backends.device_sizes.SLICES_BYTES", 20 * 4 * 12 * 12)
    grid = VolumeGrid((150, 12, 12), (0.8, 1.0, 1.0), (0.0, 0.0, 0.5))
    whole = made_by(host_backend(), prepare(circle(), grid, FdkParameters()), projections)
    # Little memory holds a few views: batches of the back end's own, on top of the caller's.
    for slab, free_bytes in ((Slab(0, 48), 1 << 33), (Slab(48, 144), 2_400_000), (Slab(144, 150), 1 << 33)):
        setup = prepare(circle(), grid, FdkParameters(), slab)
        backend = host_backend(free_bytes=free_bytes)
        assert setup.quarter is not None
        part = made_by(backend, setup, projections, batch=12)
        assert np.array_equal(part, whole[slab.z_start : slab.z_stop])
    area = Area(3, 11, 1, 9)
    four_fold_off = made_by(host_backend(), prepare(circle(), grid, FdkParameters(), four_fold=False), projections)
    brick = made_by(host_backend(), prepare(circle(), grid, FdkParameters(), Slab(16, 64), area=area), projections)
    assert np.array_equal(brick, four_fold_off[16:64, 3:11, 1:9])


def test_few_views_at_a_time_are_taken_where_memory_is_short(projections):
    setup = prepare(unequal_steps(), GRID, FdkParameters())
    roomy, tight = host_backend(), host_backend(free_bytes=500_000)
    assert roomy.start(setup).batch_views == N_VIEWS
    assert 2 <= tight.start(setup).batch_views <= 8
    assert np.array_equal(made_by(tight, setup, projections), made_by(roomy, setup, projections))
    device = tight.device
    assert device.allocated < 3 * 500_000  # three slabs were begun, each within what was free


def test_what_does_not_fit_is_refused_with_what_would(projections):
    setup = prepare(circle(), GRID, FdkParameters())
    with pytest.raises(
        MemoryBudgetError, match=r"a slab of 40 slices needs .* GB on the host.*cut slabs of at most \d+ s"
    ):
        host_backend(free_bytes=300_000).start(setup)
    with pytest.raises(MemoryBudgetError, match="cut bricks, or take larger voxels"):
        host_backend(free_bytes=1000).start(setup)


@pytest.mark.parametrize("variant", ["linear", "layered"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "case", ["full turn", "short arc", "three tilts, short arc", "rings", "a brick", "set upright"]
)
def test_what_is_held_is_what_the_sizes_say_and_within_what_is_free(case, half, variant, projections):
    """Plans are made by these sizes where no GPU is: all buffers at their peak, resampled views among them."""
    setup = prepare(tilted_panel(), GRID, FdkParameters()) if case == "set upright" else setups()[case]
    free_bytes = 3_000_000
    backend = host_backend(half=half, variant=variant, free_bytes=free_bytes)
    device = backend.device
    accumulator = backend.start(setup)
    for views in setup.batches(16):
        band, panel = setup.band_of(views), setup.geometry
        if setup.virtual is None:
            lines = np.stack([projections[i, band.row_start : band.row_stop, : panel.n_cols] for i in views])
        else:
            start, stop = setup.virtual.rows_of_frames(views, band.row_start, band.row_stop, panel.n_cols)
            frames = [[projections[i, start:stop]] for i in views]
            lines = backend.resample(
                setup, frames, views, frame_row_start=start, row_start=band.row_start, row_stop=band.row_stop
            )
        accumulator.add(lines, views)
    accumulator.read_slices(0, setup.slab.n_slices)
    sizes = SlabSizes(setup, half, variant == "layered")
    said = sizes.cost(device.row_transform_bytes, backend.chunk_values).bytes_with(accumulator.batch_views)
    assert 0.7 * said < device.most_held <= said <= 0.9 * free_bytes


def test_views_are_resampled_a_few_at_a_time_where_little_is_free(projections):
    setup = prepare(tilted_panel(), GRID, FdkParameters())
    assert setup.virtual is not None
    views, panel = setup.views, setup.geometry
    wanted = {"frame_row_start": 0, "row_start": 0, "row_stop": panel.n_rows}
    frames = [[projections[i]] for i in views]
    one = resampled_view_bytes(setup, panel.n_rows, 64)
    few, many = host_backend(free_bytes=5 * one), host_backend()
    assert np.array_equal(few.resample(setup, frames, views, **wanted), many.resample(setup, frames, views, **wanted))
    assert few.device.most_held <= 4 * one < many.device.most_held <= 8 * one
    with pytest.raises(MemoryBudgetError, match=r"the rows of one view need .* GB on the host.*: cut thinner slabs"):
        host_backend(free_bytes=one).resample(setup, frames, views, **wanted)


def test_the_faster_variant_is_taken_and_remembered(projections):
    setup = prepare(unequal_steps(), GRID, FdkParameters())
    expected = made_by(host_backend(), setup, projections)
    for faster in ("linear", "layered"):
        times = {"upright_linear_float32": 2.0, "upright_layered": 1.0 if faster == "layered" else 3.0}
        backend = host_backend(variant=None, times=times)
        assert np.array_equal(made_by(backend, setup, projections), expected)
        assert backend.chosen == {"upright": faster}
        trials = len(backend.device.launched)
        assert np.array_equal(made_by(backend, setup, projections), expected)
        again = [call.kernel for call in backend.device.launched[trials:] if call.kernel.startswith("upright")]
        assert again == [f"upright_{faster}" if faster == "layered" else "upright_linear_float32"]


@pytest.mark.parametrize("half", [False, True])
def test_filtering_apart_gives_the_same(half, projections):
    for case in ("full turn", "helix", "short arc", "three tilts, short arc", "truncated, air outside"):
        setup = setups()[case]
        views = setup.views
        band, n_cols = setup.band_of(views), setup.geometry.n_cols
        backend = host_backend(half=half)
        lines = np.ascontiguousarray(projections[views, band.row_start : band.row_stop, :n_cols])
        filtered = backend.filter_rows(setup, lines, views, row_start=band.row_start)
        judged = load_backend("numpy_reference").filter_rows(setup, lines, views, row_start=band.row_start)
        assert off(filtered, judged) < 2e-6
        accumulator = backend.start(setup)
        accumulator.add_filtered(filtered, views)
        got = accumulator.read_slices(0, setup.slab.n_slices)
        assert off(got, made_by(backend, setup, projections)) < (3e-4 if half else 1e-6)


def test_windows_of_filtered_values_are_taken(projections):
    setup = prepare(circle(), GRID, FdkParameters(), Slab(0, 16), area=Area(8, 12, 8, 12))
    views = setup.views
    whole = np.random.default_rng(1).random((N_VIEWS, 64, setup.ramp.n_out)).astype(np.float32)
    window = Window(setup.band.row_start, setup.band.row_stop, 5, setup.ramp.n_out - 4)
    found = []
    for name, backend in (("judge", load_backend("numpy_reference")), ("host", host_backend())):
        accumulator = backend.start(setup)
        for part in (views[:20], views[20:]):
            rows = whole[part, window.row_start : window.row_stop, window.col_start : window.col_stop]
            accumulator.add_filtered(np.ascontiguousarray(rows), part, window)
        # The same slab takes windows of another shape.
        accumulator.add_filtered(whole[views[:3], setup.band.row_start : setup.band.row_stop], views[:3])
        found.append(accumulator.read_slices(0, 16))
        assert np.abs(found[-1]).max() > 0, name
    assert off(found[1], found[0]) < 1e-5


def test_virtual_views_are_resampled_as_the_plain_way_does(projections):
    rng = np.random.default_rng(2)
    homographies = np.tile(np.eye(3), (3, 2, 1, 1))
    homographies[:, :, :2] += rng.uniform(-0.02, 0.02, (3, 2, 2, 3))
    homographies[:, :, 2, :2] += rng.uniform(-1e-4, 1e-4, (3, 2, 2))
    homographies[:, 1, 0, 2] -= 30
    virtual = VirtualViews(np.array([[0, 1], [2, 3], [4, -1]]), homographies, 6.0, 64, 48, True, True)
    setup = replace(prepare(circle(3), GRID, FdkParameters()), virtual=virtual, geometry=circle(3, n_cols=76))
    frames = [[projections[0, 8:50], projections[1, 8:50]], [projections[2, 8:50], projections[3, 8:50]],
              [projections[4, 8:50], np.zeros((0, 0), np.float32)]]  # fmt: skip
    options = {"frame_row_start": 8, "row_start": 12, "row_stop": 40}
    views = np.arange(3)
    got = host_backend().resample(setup, frames, views, **options)
    expected = load_backend("numpy_reference").resample(setup, frames, views, **options)
    assert got.shape == (3, 28, 76)
    assert np.array_equal(got == 0, expected == 0)
    assert off(got, expected) < 1e-6


def test_float16_is_rounded_as_it_should_be():
    device = HostDevice(shared_library())
    stream = device.new_stream()
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 1 << 32, 30_000, dtype=np.uint32)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:31744] + np.roll(halves, -1)[:31744]) / 2  # ties, which go to even
    values = np.concatenate([bits.view(np.float32), halves, between])
    values = values[np.isfinite(values)].astype(np.float32)
    values = np.ascontiguousarray(values[: len(values) // 64 * 64])
    rows, n_cols = len(values) // 64, 64
    source, scale = upload_new(device, values, stream), upload_new(device, np.ones(1, np.float32), stream)
    target = device.allocate(2 * (rows + 2) * (n_cols + 2))
    device.clear(target, target.n_bytes, stream)
    device.launch(
        launches.transpose_rows(
            rows=source.address, views=target.address, scales=scale.address, first_row=0, n_chunk_rows=rows,
            n_rows=rows, period=n_cols, col_start=0, n_cols=n_cols, half=1,
        ),
        stream,
    )  # fmt: skip
    got = np.empty((n_cols + 2, rows + 2), dtype=np.float16)
    device.download(got, target, stream)
    device.finish(device.record(stream))
    with np.errstate(over="ignore"):
        expected = values.reshape(rows, n_cols).astype(np.float16)
    assert np.array_equal(got[1:-1, 1:-1].T.view(np.uint16), expected.view(np.uint16))
    assert not got[0].any()
    assert not got[:, -1].any()


def test_launches_know_their_arguments():
    with pytest.raises(TypeError, match="multiply_spectra takes spectra"):
        launches.multiply_spectra(spectra=1, n_bins=2, n_rows=3)
    with pytest.raises(TypeError, match="unknown back-projection 'fast'"):
        launches.back_project("fast")
