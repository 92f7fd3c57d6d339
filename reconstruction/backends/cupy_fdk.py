# SPDX-License-Identifier: Apache-2.0
"""FDK on an NVIDIA GPU: CuPy for memory, streams and cuFFT, and the kernels of ``fdk.cu`` compiled by NVRTC.

``cupy`` holds filtered views as float32, ``cupy-float16`` as float16 with a scale of each view; sums are float32 in
both.  They are names and not a parameter, since precision is part of what is made.  ``-linear`` and ``-layered`` force
one way of reading the views; otherwise both are timed on a slab's first views and the faster one runs.  They give the
same bits, and so the choice is no part of the result.

CuPy is imported when the back end is asked for, and the GPU is not touched before its first slab.
"""

from __future__ import annotations

import importlib
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends.device_fdk import DeviceFdk
from reconstruction.backends.device_sizes import cufft_bytes
from reconstruction.backends.launches import KERNELS
from reconstruction.errors import MemoryBudgetError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from reconstruction.backends.launches import Launch

#: Options of NVRTC; fdk.cu says why.
COMPILER_OPTIONS = ("--std=c++17", "--fmad=false")
#: cudaArrayLayered of the CUDA runtime, which CuPy does not name.
_ARRAY_LAYERED = 1


def source() -> str:
    """The text of ``fdk.cu``."""
    return (resources.files("reconstruction.backends") / "fdk.cu").read_text(encoding="utf-8")


def missing(name: str) -> str:
    """What the GPU back end lacks on this machine, in one sentence."""
    del name
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        return f"the package CuPy cannot be imported ({error}): install conepacs[gpu] on a machine with an NVIDIA GPU"
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy {cupy.__version__} finds no usable NVIDIA GPU ({error})"
    if n_devices < 1:
        return f"CuPy {cupy.__version__} finds no NVIDIA GPU"
    try:
        # Through CuPy's own attribute, which finds the library of the wheel first.
        _ = cupy.cuda.cufft
    except ImportError as error:
        return f"CuPy {cupy.__version__} cannot load cuFFT ({error}): install conepacs[gpu]"
    return ""


def open_backend(name: str) -> DeviceFdk:
    """Return a GPU back end: ``cupy[-float16][-linear|-layered]``."""
    parts = name.split("-")[1:]
    variant = next((part for part in parts if part in ("linear", "layered")), None)
    half = "float16" in parts
    # Linear and layered reads give the same bits: the name of what was made does not tell them apart.
    return DeviceFdk("cupy-float16" if half else "cupy", lambda: CupyDevice(_cupy()), half=half, variant=variant)


def _cupy() -> ModuleType:
    return importlib.import_module("cupy")


class CupyBuffer:
    """Memory of the GPU outside CuPy's pool: freeing it waits for all work that may still use it."""

    def __init__(self, cupy: Any, n_bytes: int) -> None:
        self.pointer = cupy.cuda.MemoryPointer(cupy.cuda.Memory(n_bytes), 0)
        self.address = int(self.pointer.ptr)
        self.n_bytes = n_bytes

    def array(self, cupy: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """The start of the buffer as an array of CuPy."""
        return cupy.ndarray(shape, dtype=dtype, memptr=self.pointer)


class CupyTransforms:
    """A pair of cuFFT plans."""

    def __init__(self, cupy: Any, n: int, n_rows: int) -> None:
        cufft = cupy.cuda.cufft
        self._cupy, self._n, self._n_rows, self._cufft = cupy, n, n_rows, cufft
        self._forward = cufft.Plan1d(n, cufft.CUFFT_R2C, n_rows)
        self._backward = cufft.Plan1d(n, cufft.CUFFT_C2R, n_rows)

    def forward(self, rows: Any, spectra: Any, stream: Any) -> None:
        """Transform (row, n) float32 to (row, n // 2 + 1) complex64."""
        with stream:
            self._forward.fft(self._rows(rows), self._spectra(spectra), self._cufft.CUFFT_FORWARD)

    def backward(self, spectra: Any, rows: Any, stream: Any) -> None:
        """Transform back, not divided by the length."""
        with stream:
            self._backward.fft(self._spectra(spectra), self._rows(rows), self._cufft.CUFFT_INVERSE)

    def _rows(self, buffer: Any) -> Any:
        return buffer.array(self._cupy, (self._n_rows, self._n), "float32")

    def _spectra(self, buffer: Any) -> Any:
        return buffer.array(self._cupy, (self._n_rows, self._n // 2 + 1), "complex64")


class CupyTexture:
    """A layered CUDA array and a texture that reads it by point sampling, pixels counted from 0, edges repeated."""

    def __init__(self, cupy: Any, n_layers: int, height: int, width: int, item_bytes: int) -> None:
        runtime, texture = cupy.cuda.runtime, cupy.cuda.texture
        self._cupy, self._shape, self._dtype = cupy, (n_layers, height, width), f"float{8 * item_bytes}"
        channel = texture.ChannelFormatDescriptor(8 * item_bytes, 0, 0, 0, runtime.cudaChannelFormatKindFloat)
        self._array = texture.CUDAarray(channel, width, height, n_layers, _ARRAY_LAYERED)
        resource = texture.ResourceDescriptor(runtime.cudaResourceTypeArray, cuArr=self._array)
        how = texture.TextureDescriptor(
            (runtime.cudaAddressModeClamp,) * 3, runtime.cudaFilterModePoint, runtime.cudaReadModeElementType,
            normalizedCoords=0,
        )  # fmt: skip
        self._texture = texture.TextureObject(resource, how)
        self.handle = int(self._texture.ptr)

    def fill(self, source: Any, n_layers: int, stream: Any) -> None:
        """Copy the stack; layers beyond `n_layers` come along, since an array is copied whole."""
        del n_layers
        self._array.copy_from(source.array(self._cupy, self._shape, self._dtype), stream)


class CupyDevice:
    """The current NVIDIA GPU."""

    measures = True

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        self.name = properties["name"].decode()
        module = cupy.RawModule(code=source(), options=COMPILER_OPTIONS)
        self._kernels = {name: module.get_function(name) for name in KERNELS}

    def free_bytes(self) -> int:
        """Memory that can still be allocated; what CuPy's pool holds idle is given back first."""
        self._cupy.get_default_memory_pool().free_all_blocks()
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def allocate(self, n_bytes: int) -> CupyBuffer:
        """Memory of the GPU, not cleared.

        Raises
        ------
        MemoryBudgetError
            If another program has taken it since it was counted.
        """
        try:
            return CupyBuffer(self._cupy, n_bytes)
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            free = self.free_bytes()
            raise MemoryBudgetError(
                f"{self.name} gave no {n_bytes / 1e9:.3g} GB, with {free / 1e9:.3g} GB free ({error}): end what else "
                f"runs on it, or cut thinner slabs"
            ) from error

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Page-locked memory."""
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(n_bytes), dtype=np.uint8, count=n_bytes)

    def new_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._cupy.cuda.Stream(non_blocking=True)

    def record(self, stream: Any) -> Any:
        """An event at the stream's end so far."""
        return stream.record()

    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of the stream wait for an event."""
        stream.wait_event(event)

    def finish(self, event: Any) -> None:
        """Wait here for an event."""
        event.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two events that have happened."""
        return float(self._cupy.cuda.get_elapsed_time(start, end))

    def upload(self, target: Any, source: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous array to the start of a buffer."""
        if source.nbytes:
            target.pointer.copy_from_host_async(source.ctypes.data, source.nbytes, stream)

    def download(self, target: NDArray[Any], source: Any, stream: Any) -> None:
        """Copy the start of a buffer into a contiguous array."""
        source.pointer.copy_to_host_async(target.ctypes.data, target.nbytes, stream)

    def clear(self, buffer: Any, n_bytes: int, stream: Any) -> None:
        """Fill the start of a buffer with zeros."""
        buffer.pointer.memset_async(0, n_bytes, stream)

    def launch(self, launch: Launch, stream: Any) -> None:
        """Run a kernel; CuPy passes an array of one struct by value."""
        with stream:
            self._kernels[launch.kernel](launch.grid, launch.block, (launch.arguments,))

    def row_transforms(self, n: int, n_rows: int) -> CupyTransforms:
        """Plans of cuFFT for one length and number of rows."""
        return CupyTransforms(self._cupy, n, n_rows)

    def row_transform_bytes(self, n: int, n_rows: int) -> int:
        """What cuFFT's documentation says."""
        return cufft_bytes(n, n_rows)

    def layered_texture(self, n_layers: int, height: int, width: int, item_bytes: int) -> CupyTexture:
        """A stack of float32 or float16 images."""
        return CupyTexture(self._cupy, n_layers, height, width, item_bytes)
