# SPDX-License-Identifier: Apache-2.0
"""As much of CuPy as the GPU back end uses, on the host: what it calls, with which arguments, can be tried.

It follows CuPy 14's source: which arguments there are, what must be contiguous, what shapes copies must have.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.fft

from reconstruction.backends.launches import Launch
from tests.support.cuda_host import HostDevice, HostTexture, shared_library


class RuntimeFault(RuntimeError):
    """Stands for CUDARuntimeError."""


class Memory:
    """cudaMalloc."""

    def __init__(self, size: int) -> None:
        if size > Memory.most:
            raise RuntimeFault("cudaErrorMemoryAllocation: out of memory")
        self.array = np.full(size, 0xFF, dtype=np.uint8)
        self.size = size

    most = 1 << 40


class MemoryPointer:
    """A place in device memory; copies take a host address and a number of bytes."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.ptr = mem, int(mem.array.ctypes.data) + offset

    def copy_from_host_async(self, mem: int, size: int, stream: Any = None) -> None:
        assert isinstance(mem, int)
        assert isinstance(stream, Stream)
        assert size <= self.mem.size
        ctypes.memmove(self.ptr, mem, size)

    def copy_to_host_async(self, mem: int, size: int, stream: Any = None) -> None:
        assert isinstance(mem, int)
        assert isinstance(stream, Stream)
        assert size <= self.mem.size
        ctypes.memmove(mem, self.ptr, size)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        assert isinstance(stream, Stream)
        assert size <= self.mem.size
        ctypes.memset(self.ptr, value, size)


class Stream:
    """A stream that is always done; kernels and FFTs must run inside ``with stream``."""

    current: list[Any] = []  # noqa: RUF012 - CuPy's is global as well

    def __init__(self, *, non_blocking: bool = False) -> None:
        assert non_blocking

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        Stream.current.pop()

    def record(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def wait_event(self, event: Any) -> None:
        event.synchronize()


def ndarray(shape: tuple[int, ...], *, dtype: str, memptr: MemoryPointer) -> Any:
    """A host array over the memory, with the members of CuPy's that are used."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    assert size <= memptr.mem.size
    return SimpleNamespace(
        shape=shape, dtype=np.dtype(dtype), data=memptr, host=memptr.mem.array[:size].view(dtype).reshape(shape)
    )


class Plan1d:
    """cuFFT's plan of many rows."""

    def __init__(self, nx: int, fft_type: int, batch: int) -> None:
        self.nx, self.fft_type, self.batch = nx, fft_type, batch

    def fft(self, a: Any, out: Any, direction: int) -> None:
        assert Stream.current
        if self.fft_type == CUFFT.CUFFT_R2C:
            assert direction == CUFFT.CUFFT_FORWARD
            assert (a.dtype, a.shape) == (np.float32, (self.batch, self.nx))
            out.host[:] = scipy.fft.rfft(a.host, axis=1)
        else:
            assert direction == CUFFT.CUFFT_INVERSE
            assert (a.dtype, a.shape) == (np.complex64, (self.batch, self.nx // 2 + 1))
            out.host[:] = scipy.fft.irfft(a.host, self.nx, axis=1, norm="forward")


CUFFT = SimpleNamespace(Plan1d=Plan1d, CUFFT_R2C=0x2A, CUFFT_C2R=0x2C, CUFFT_FORWARD=-1, CUFFT_INVERSE=1)


class CUDAarray:
    """A layered array: its copy wants the whole shape, and the channel's kind of number."""

    def __init__(self, desc: tuple[int, ...], width: int, height: int = 0, depth: int = 0, flags: int = 0) -> None:
        assert flags == 1
        self.shape, self.bits = (depth, height, width), desc[0]
        self.texture = HostTexture(HostDevice(shared_library()), depth, height, width, desc[0] // 8)

    def copy_from(self, in_arr: Any, stream: Any = None) -> None:
        assert isinstance(stream, Stream)
        assert in_arr.shape == self.shape
        assert in_arr.dtype == np.dtype(f"float{self.bits}")
        self.texture.pixels.array[:] = in_arr.host.view(np.uint8).ravel()


class RawModule:
    """The same kernels, from the library of the host."""

    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        assert "KERNEL(weigh_rows" in code
        self.options = options

    def get_function(self, name: str) -> Any:
        device = HostDevice(shared_library())
        stream = device.new_stream()

        def run(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            assert Stream.current
            (struct,) = args
            assert isinstance(struct, np.ndarray)
            assert struct.size == 1  # only then does CuPy pass it by value
            device.launch(Launch(name, (grid[0], grid[1], grid[2]), (block[0], block[1], block[2]), struct), stream)
            stream.run()

        return run


class WithoutCufft:
    """``cupy.cuda`` where the library of cuFFT is not installed."""

    def __init__(self, cuda: Any) -> None:
        self.runtime = cuda.runtime

    def __getattr__(self, name: str) -> Any:
        assert name == "cufft"
        raise ImportError("libcufft.so.12")


def stand_in(*, free_bytes: int = 1 << 33) -> Any:
    """A module like ``cupy``."""
    texture = SimpleNamespace(
        ChannelFormatDescriptor=lambda x, y, z, w, f: (x, y, z, w, f),
        CUDAarray=CUDAarray,
        ResourceDescriptor=lambda restype, cuArr: (restype, cuArr),
        TextureDescriptor=lambda modes, filtering, read, normalizedCoords: (modes, filtering, read),
        TextureObject=lambda resource, how: SimpleNamespace(ptr=resource[1].texture.handle, keep=(resource, how)),
    )
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeFault, getDevice=lambda: 0, getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {"name": b"a stand-in"}, memGetInfo=lambda: (free_bytes, free_bytes),
        cudaChannelFormatKindFloat=2, cudaResourceTypeArray=0, cudaAddressModeClamp=1, cudaFilterModePoint=0,
        cudaReadModeElementType=0,
    )  # fmt: skip
    cuda = SimpleNamespace(
        cufft=CUFFT, Memory=Memory, MemoryPointer=MemoryPointer, Stream=Stream, runtime=runtime, texture=texture,
        alloc_pinned_memory=lambda size: bytearray(size), get_elapsed_time=lambda start, end: 1.0,
    )  # fmt: skip
    return SimpleNamespace(
        __version__="stand-in", cuda=cuda, ndarray=ndarray, RawModule=RawModule,
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
    )  # fmt: skip
