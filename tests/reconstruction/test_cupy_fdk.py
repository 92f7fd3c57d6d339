# SPDX-License-Identifier: Apache-2.0
"""The CuPy side of the GPU back end without a GPU: its calls on a stand-in, and the names they have in CuPy."""

import importlib
import importlib.util
import json
import sys

import numpy as np
import pytest

from reconstruction.backends import cupy_fdk, load_backend
from reconstruction.errors import BackendUnavailableError, MemoryBudgetError
from reconstruction.fdk import FdkParameters, prepare
from tests.support import cupy_stand_in
from tests.support.cuda_host import compiler
from tests.support.fdk_cases import GRID, circle, made_by, off
from tests.support.peers import require_peer


@pytest.fixture
def projections():
    return np.random.default_rng(3).random((36, 64, 48)).astype(np.float32)


@pytest.fixture
def cupy(monkeypatch):
    require_peer("a C++ compiler", compiler() is not None, "install g++")
    module = cupy_stand_in.stand_in()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.parametrize("name", ["cupy", "cupy-linear", "cupy-layered", "cupy-float16"])
def test_every_name_reconstructs(name, cupy, projections, monkeypatch):
    monkeypatch.setattr("reconstruction.backends.device_filter._MOST_ROWS", 256)
    setup = prepare(circle(), GRID, FdkParameters())
    backend = load_backend(name)
    assert backend.name == ("cupy-float16" if "float16" in name else "cupy")
    half = "float16" in name
    expected = made_by(load_backend("numpy_reference"), setup, projections)
    assert off(made_by(backend, setup, projections), expected) < (3e-4 if half else 1e-5)
    # Both variants took the same time here: the first named is kept.
    assert backend.chosen == ({} if name in ("cupy-linear", "cupy-layered") else {"upright": "linear"})
    filtered = backend.filter_rows(setup, projections, setup.views, row_start=0)
    judged = load_backend("numpy_reference").filter_rows(setup, projections, setup.views, row_start=0)
    assert off(filtered, judged) < 2e-6


def test_a_gpu_that_is_taken_meanwhile_is_said(cupy, monkeypatch):
    monkeypatch.setattr(cupy_stand_in.Memory, "most", 10_000)
    with pytest.raises(MemoryBudgetError, match=r"a stand-in gave no .* GB, with 8.59 GB free .*thinner slabs"):
        load_backend("cupy").start(prepare(circle(), GRID, FdkParameters()))


def test_what_is_missing_is_said_in_one_sentence(cupy, monkeypatch):
    def no_driver():
        raise cupy_stand_in.RuntimeFault("cudaErrorInsufficientDriver")

    assert cupy_fdk.missing("cupy") == ""
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert cupy_fdk.missing("cupy") == "CuPy stand-in finds no NVIDIA GPU"
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_driver)
    assert cupy_fdk.missing("cupy") == "CuPy stand-in finds no usable NVIDIA GPU (cudaErrorInsufficientDriver)"
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    cupy.cuda = cupy_stand_in.WithoutCufft(cupy.cuda)
    assert "cannot load cuFFT (libcufft.so.12)" in cupy_fdk.missing("cupy")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailableError, match=r"CuPy cannot be imported .*install conepacs\[gpu\]"):
        load_backend("cupy-float16")


def test_cupy_has_what_is_called():
    """CuPy imports without a GPU: names, and arguments where its functions show them."""
    require_peer("CuPy", importlib.util.find_spec("cupy") is not None, "pip install conepacs[gpu]")
    cupy = importlib.import_module("cupy")
    runtime, texture = cupy.cuda.runtime, cupy.cuda.texture
    for name in (
        "cudaChannelFormatKindFloat", "cudaResourceTypeArray", "cudaAddressModeClamp", "cudaFilterModePoint",
        "cudaReadModeElementType", "getDevice", "getDeviceCount", "getDeviceProperties", "memGetInfo",
        "CUDARuntimeError",
    ):  # fmt: skip
        assert hasattr(runtime, name), name
    for name in ("copy_from_host_async", "copy_to_host_async", "memset_async"):
        assert hasattr(cupy.cuda.MemoryPointer, name)
    # These touch no device: they are what the texture is described by.
    channel = texture.ChannelFormatDescriptor(16, 0, 0, 0, runtime.cudaChannelFormatKindFloat)
    assert channel.get_channel_format() == {"x": 16, "y": 0, "z": 0, "w": 0, "f": runtime.cudaChannelFormatKindFloat}
    how = texture.TextureDescriptor(
        (runtime.cudaAddressModeClamp,) * 3, runtime.cudaFilterModePoint, runtime.cudaReadModeElementType,
        normalizedCoords=0,
    )  # fmt: skip
    described = how.get_texture_desc()
    assert (described["filterMode"], described["normalizedCoords"]) == (runtime.cudaFilterModePoint, 0)
    assert (
        cupy.RawModule(code=cupy_fdk.source(), options=cupy_fdk.COMPILER_OPTIONS).options == cupy_fdk.COMPILER_OPTIONS
    )
    for name in ("Memory", "Stream", "alloc_pinned_memory", "get_elapsed_time"):
        assert hasattr(cupy.cuda, name), name


def test_the_benchmark_says_when_there_is_no_gpu(monkeypatch, capsys):
    from benchmarks import fdk_gpu

    monkeypatch.setitem(sys.modules, "cupy", None)
    assert fdk_gpu.main([]) == fdk_gpu.NO_GPU
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("No figure without a GPU: the package CuPy cannot be imported")
    assert said.err.count("\n") == 1


def test_the_benchmark_runs_on_a_stand_in(cupy, capsys, monkeypatch):
    from benchmarks import fdk_gpu

    # itk is not imported into the tests' own process.
    monkeypatch.setattr(fdk_gpu, "rtk_on_gpu", lambda *_: (None, "not tried"))
    assert fdk_gpu.main(["--size", "16", "--views", "12", "--repeats", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["device"] == "a stand-in"
    assert set(found["seconds"]) >= set(fdk_gpu.OURS)
    assert found["rel_rmse"]["cupy-linear"] == found["rel_rmse"]["cupy-layered"] < 1e-6
    assert found["rel_rmse"]["cupy-float16-linear"] < 3e-4
    assert found["missing"]["rtk-cuda"] == "not tried"
    assert set(found["peer_over_ours"]) == set(found["seconds"]) - set(fdk_gpu.OURS)
