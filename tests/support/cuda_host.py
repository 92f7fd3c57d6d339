# SPDX-License-Identifier: Apache-2.0
"""A device that is the host: ``fdk.cu`` compiled as C++, NumPy for memory, SciPy for FFTs.

It runs the same launches as a GPU, in the laziest order that streams and events allow: nothing is done before someone
waits for it.  A buffer that is written again too early, or a wait that is missing, gives wrong numbers here too.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections import deque
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft

from reconstruction.backends.device_fdk import DeviceFdk
from reconstruction.backends.launches import KERNELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reconstruction.backends.launches import Launch

_HEADER = Path(__file__).with_name("cuda_host.h")
#: No sums of products are fused where the source does not say so, as --fmad=false does for NVRTC.
_FLAGS = (
    "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-U_FORTIFY_SOURCE",
)  # fmt: skip


def compiler() -> str | None:
    """Path of a C++ compiler, if there is one."""
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


def build(folder: Path) -> ctypes.CDLL:
    """Compile ``fdk.cu`` for the host into a folder, and load it."""
    program = compiler()
    assert program is not None
    library = folder / "fdk_host.so"
    source = resources.files("reconstruction.backends") / "fdk.cu"
    command = [program, *_FLAGS, "-shared", "-fPIC", "-include", str(_HEADER), "-x", "c++", str(source)]
    done = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    for name in KERNELS:
        function = getattr(loaded, name)
        function.argtypes = [ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_ulong]
        function.restype = ctypes.c_int
    return loaded


class HostBuffer:
    """Memory that counts as the device's; full of NaN, since nothing may rely on fresh memory."""

    def __init__(self, n_bytes: int, device: HostDevice) -> None:
        self.array = np.full(n_bytes, 0xFF, dtype=np.uint8)
        self.address = int(self.array.ctypes.data)
        self.n_bytes = n_bytes
        self._device = device
        device.held += n_bytes
        device.most_held = max(device.most_held, device.held)

    def __del__(self) -> None:
        # As on a GPU: memory is given back when all work is done.
        self._device.finish_all()
        self._device.held -= self.n_bytes


class HostStream:
    """A queue of work that is done when someone waits for it."""

    def __init__(self) -> None:
        self.work: deque[Callable[[], None]] = deque()
        self.done = 0

    def add(self, work: Callable[[], None]) -> None:
        """Put work at the end."""
        self.work.append(work)

    def run(self, count: int | None = None) -> None:
        """Do the work up to a number, counted from the stream's beginning; all of it by default."""
        while self.work and (count is None or self.done < count):
            self.done += 1
            self.work.popleft()()


@dataclass
class HostEvent:
    """A point in a stream, and when it was reached."""

    stream: HostStream
    count: int
    reached_ms: float = 0.0


class _Transforms:
    def __init__(self, n: int, n_rows: int) -> None:
        self.n, self.n_rows = n, n_rows

    def forward(self, rows: HostBuffer, spectra: HostBuffer, stream: HostStream) -> None:
        """SciPy's real FFT."""

        def work() -> None:
            found = scipy.fft.rfft(rows.array.view(np.float32).reshape(self.n_rows, self.n), axis=1)
            spectra.array.view(np.complex64)[: found.size] = found.ravel()

        stream.add(work)

    def backward(self, spectra: HostBuffer, rows: HostBuffer, stream: HostStream) -> None:
        """The inverse, not divided by the length; it spoils the spectra, as cuFFT may."""

        def work() -> None:
            values = spectra.array.view(np.complex64).reshape(self.n_rows, self.n // 2 + 1)
            found = scipy.fft.irfft(values, self.n, axis=1, norm="forward")
            rows.array.view(np.float32)[: found.size] = found.ravel()
            spectra.array[:] = 0xFF

        stream.add(work)


class _TextureStruct(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p), ("width", ctypes.c_int), ("height", ctypes.c_int), ("layers", ctypes.c_int),
        ("half", ctypes.c_int),
    )  # fmt: skip


class HostTexture:
    """What ``tex2DLayered`` of cuda_host.h reads."""

    def __init__(self, device: HostDevice, n_layers: int, height: int, width: int, item_bytes: int) -> None:
        self.pixels = HostBuffer(n_layers * height * width * item_bytes, device)
        self.layer_bytes = height * width * item_bytes
        self._struct = _TextureStruct(self.pixels.address, width, height, n_layers, int(item_bytes == 2))
        self.handle = ctypes.addressof(self._struct)

    def fill(self, source: HostBuffer, n_layers: int, stream: HostStream) -> None:
        """Copy the first layers."""
        size = n_layers * self.layer_bytes

        def work() -> None:
            self.pixels.array[:size] = source.array[:size]

        stream.add(work)


class HostDevice:
    """The host as a device.

    Parameters
    ----------
    free_bytes : int
        What it says is free before anything is allocated.
    times : {kernel: milliseconds}, optional
        What its clock says kernels take; given, the device measures.
    """

    name = "the host"

    def __init__(
        self, library: ctypes.CDLL, *, free_bytes: int = 1 << 33, times: dict[str, float] | None = None
    ) -> None:
        self.library, self.measures = library, times is not None
        self.launched: list[Launch] = []
        self.allocated = self.held = self.most_held = 0
        self._free_bytes, self._times, self._clock_ms = free_bytes, times or {}, 0.0
        self._streams: list[HostStream] = []

    def free_bytes(self) -> int:
        """A stated number, less what is held."""
        return self._free_bytes - self.held

    def allocate(self, n_bytes: int) -> HostBuffer:
        """Memory full of NaN."""
        self.allocated += n_bytes
        return HostBuffer(n_bytes, self)

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Plain memory."""
        return np.full(n_bytes, 0xFF, dtype=np.uint8)

    def new_stream(self) -> HostStream:
        """A queue."""
        self._streams.append(HostStream())
        return self._streams[-1]

    def record(self, stream: HostStream) -> HostEvent:
        """The stream's end so far."""
        event = HostEvent(stream, stream.done + len(stream.work) + 1)

        def work() -> None:
            event.reached_ms = self._clock_ms

        stream.add(work)
        return event

    def wait(self, stream: HostStream, event: HostEvent) -> None:
        """Let the stream come after an event."""
        stream.add(lambda: event.stream.run(event.count))

    def finish(self, event: HostEvent) -> None:
        """Do what an event comes after, and nothing more."""
        event.stream.run(event.count)

    def finish_all(self) -> None:
        """Do all work of all streams."""
        for stream in self._streams:
            stream.run()

    def elapsed_ms(self, start: HostEvent, end: HostEvent) -> float:
        """Time that the stated times of the kernels add up to."""
        return end.reached_ms - start.reached_ms

    def upload(self, target: HostBuffer, source: NDArray[Any], stream: HostStream) -> None:
        """Copy in, when the stream comes to it."""
        assert source.flags.c_contiguous
        assert source.nbytes <= target.n_bytes

        def work() -> None:
            target.array[: source.nbytes] = np.atleast_1d(source).view(np.uint8).ravel()

        stream.add(work)

    def download(self, target: NDArray[Any], source: HostBuffer, stream: HostStream) -> None:
        """Copy out, when the stream comes to it."""
        assert target.flags.c_contiguous

        def work() -> None:
            target.reshape(-1).view(np.uint8)[:] = source.array[: target.nbytes]

        stream.add(work)

    def clear(self, buffer: HostBuffer, n_bytes: int, stream: HostStream) -> None:
        """Zeros."""
        assert n_bytes <= buffer.n_bytes

        def work() -> None:
            buffer.array[:n_bytes] = 0

        stream.add(work)

    def launch(self, launch: Launch, stream: HostStream) -> None:
        """Run a kernel by its compiled function, within a GPU's limits."""
        assert launch.block[0] * launch.block[1] * launch.block[2] <= 1024
        assert max(launch.grid[1:]) <= 65535
        assert min(launch.grid + launch.block) >= 1
        self.launched.append(launch)

        def work() -> None:
            shape = (ctypes.c_uint * 6)(*launch.grid, *launch.block)
            size = launch.arguments.nbytes
            assert getattr(self.library, launch.kernel)(shape, launch.arguments.ctypes.data, size) == 0, launch.kernel
            self._clock_ms += self._times.get(launch.kernel, 0.0)

        stream.add(work)

    def row_transforms(self, n: int, n_rows: int) -> _Transforms:
        """SciPy's."""
        return _Transforms(n, n_rows)

    def row_transform_bytes(self, n: int, n_rows: int) -> int:
        """None to speak of."""
        del n, n_rows
        return 0

    def layered_texture(self, n_layers: int, height: int, width: int, item_bytes: int) -> HostTexture:
        """An emulated one."""
        return HostTexture(self, n_layers, height, width, item_bytes)


@functools.cache
def shared_library() -> ctypes.CDLL:
    """The library of this test session; its folder may go once it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder))


def host_backend(*, half: bool = False, variant: str | None = "linear", **options: Any) -> DeviceFdk:
    """The back end that a GPU runs, on the host; chunks are small, since the host's are."""
    device = HostDevice(shared_library(), **options)
    return DeviceFdk("cuda-host", lambda: device, half=half, variant=variant, chunk_values=1 << 13)


# A back-end module as `reconstruction.backends` wants it: the contract suite enters it under the name ``cuda-host``.


def missing(name: str) -> str:
    """A compiler."""
    del name
    return "" if compiler() else "there is no C++ compiler (g++, c++ or clang++)"


def open_backend(name: str) -> DeviceFdk:
    """The host's back end."""
    del name
    return host_backend()
