# SPDX-License-Identifier: Apache-2.0
"""RTK as an outside judge of the projector and of OS-SART."""

import importlib.util
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from benchmarks import rtk_iterative_peer
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.projectors import open_pair, pad_volume
from reconstruction.iterative.reconstruct import reconstruct_iterative
from reconstruction.phantom import sample, shepp_logan_3d
from reconstruction.projector import forward_project
from reconstruction.slabs import RowBand
from tests.support.peers import require_peer

VIEWS, SIDE = 24, 32
GRID = VolumeGrid((SIDE, SIDE, SIDE), (1.56, 1.5, 1.6))
HEAD = shepp_logan_3d(22.0, contrast="high", scale=0.02)


@pytest.fixture(scope="module")
def judge():
    """Calls RTK in a process of its own; see tests/peers/conftest.py."""
    require_peer("itk-rtk", importlib.util.find_spec("itk") is not None, "pip install itk-rtk")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments, **settings: pool.submit(function, *arguments, **settings).result()


def geometry_of(**changes):
    values = {
        "sod_mm": 200.0, "sdd_mm": 300.0, "angles_rad": 0.2 + np.arange(VIEWS) * 2 * math.pi / VIEWS, "n_rows": 48,
        "n_cols": 52, "pitch_u_mm": 1.6, "pitch_v_mm": 1.5,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def test_line_integrals_are_those_of_rtks_joseph_projector(judge):
    geometry = geometry_of(offset_u_mm=2.3, offset_v_mm=-1.1)
    volume = sample(HEAD, GRID, supersample=2)
    expected = judge(rtk_iterative_peer.joseph, volume, geometry, GRID)
    pair = open_pair("numba", geometry, GRID, RowBand(0, 48))
    got = pair.project(pad_volume(volume), np.arange(VIEWS)).transpose(0, 2, 1)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 1e-6 * np.sqrt(np.mean(expected**2))


def test_os_sart_is_no_worse_than_rtks_sart(judge):
    geometry = geometry_of()
    lines = forward_project(HEAD, geometry, supersample=2)
    counts = np.random.default_rng(1).poisson(5e3 * np.exp(-lines))
    noisy = -np.log(np.maximum(counts, 1) / 5e3).astype(np.float32)
    peer = judge(rtk_iterative_peer.sart, noisy, geometry, GRID, iterations=6, subset=4).value
    ours = reconstruct_iterative(noisy, geometry, GRID, IterativeParameters("os-sart", iterations=6, subsets=6)).volume
    truth = sample(HEAD, GRID, supersample=3)
    y = GRID.origin_mm[1] + 1.5 * np.arange(SIDE)
    x = GRID.origin_mm[0] + 1.6 * np.arange(SIDE)
    inside = np.zeros(GRID.shape, dtype=bool)
    inside[4:-4] = np.hypot(y[:, None], x[None]) < 22
    error = {name: np.sqrt(np.mean((v - truth)[inside] ** 2)) for name, v in (("rtk", peer), ("ours", ours))}
    assert error["ours"] < 1.05 * error["rtk"]
    # The same picture by two programs: closer to each other than noise and few views leave them from the truth.
    assert np.sqrt(np.mean((ours - peer)[inside] ** 2)) < error["rtk"]
