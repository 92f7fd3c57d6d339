# SPDX-License-Identifier: Apache-2.0
"""How the kernels of ``fdk.cu`` are called: the bytes of their arguments, and the shapes of their grids.

Nothing here knows CUDA: a `Device` runs a `Launch`, be it a GPU (`cupy_fdk`) or, in the tests, the same source
compiled for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Shape3 = tuple[int, int, int]

# As in fdk.cu.
LANES = 32
TILE = (4, 2, 128)
_TRANSPOSE, _TRANSPOSE_ROWS, _REDUCE = 32, 8, 256
_ROW_THREADS = 256
#: Most rows that one launch may have: the limit of a grid's second axis.
MAX_GRID_ROWS = 65535

#: Kernel -> its struct of arguments.  Pointers and handles are 64-bit numbers.
ARGUMENTS: Mapping[str, np.dtype[Any]] = {
    "resample_views": np.dtype(
        [
            ("frames", "u8"), ("homographies", "u8"), ("used", "u8"), ("views", "u8"), ("feather", "f8"),
            ("least_blend", "f8"), ("n_slots", "i4"), ("frame_rows", "i4"), ("frame_cols", "i4"),
            ("first_frame_row", "i4"), ("n_frame_rows", "i4"), ("first_row", "i4"), ("n_rows", "i4"), ("n_cols", "i4"),
        ]
    ),
    "weigh_rows": np.dtype(
        [
            ("lines", "u8"), ("weights", "u8"), ("poses", "u8"), ("view_indices", "u8"), ("column_weights", "u8"),
            ("taper", "u8"), ("padded", "u8"), ("middle_col", "f8"), ("middle_row", "f8"), ("first_row", "i4"),
            ("n_chunk_rows", "i4"), ("n_rows", "i4"), ("n_cols", "i4"), ("n_fft", "i4"), ("weight_rows", "i4"),
            ("n_taper", "i4"), ("unused", "i4"),
        ]
    ),
    "multiply_spectra": np.dtype([("spectra", "u8"), ("response", "u8"), ("n_bins", "i4"), ("n_rows", "i4")]),
    "keep_columns": np.dtype(
        [("rows", "u8"), ("kept", "u8"), ("period", "i4"), ("col_start", "i4"), ("n_out", "i4"), ("n_rows", "i4")]
    ),
    "scale_views": np.dtype(
        [("values", "u8"), ("scales", "u8"), ("n_values", "u8"), ("gain", "f4"), ("unused", "i4")]
    ),
    "transpose_rows": np.dtype(
        [
            ("rows", "u8"), ("views", "u8"), ("scales", "u8"), ("first_row", "i4"), ("n_chunk_rows", "i4"),
            ("n_rows", "i4"), ("period", "i4"), ("col_start", "i4"), ("n_cols", "i4"), ("half", "i4"),
            ("unused", "i4"),
        ]
    ),
    "back_project": np.dtype(
        [
            ("views", "u8"), ("texture", "u8"), ("matrices", "u8"), ("view_scales", "u8"), ("view_indices", "u8"),
            ("storage_scales", "u8"), ("slice_weights", "u8"), ("volume", "u8"), ("origin", "f8", 3),
            ("pitch", "f8", 3), ("radius2", "f8"), ("start", "i4", 3), ("shape", "i4", 3), ("n_views", "i4"),
            ("n_cols", "i4"), ("n_rows", "i4"), ("col_offset", "i4"), ("row_offset", "i4"), ("unused", "i4"),
        ]
    ),
    "take_slices": np.dtype(
        [
            ("volume", "u8"), ("slices", "u8"), ("origin", "f8", 2), ("pitch", "f8", 2), ("radius2", "f8"),
            ("outside", "f4"), ("start", "i4", 2), ("z_start", "i4"), ("n_slices", "i4"), ("ny", "i4"), ("nx", "i4"),
            ("nz", "i4"),
        ]
    ),
}  # fmt: skip
#: The variants of the back-projection: (shape of the views, how they are read, how they are stored).
BACK_PROJECTIONS: tuple[str, ...] = (
    "any_pose_linear_float32", "any_pose_linear_float16", "any_pose_layered",
    "upright_linear_float32", "upright_linear_float16", "upright_layered",
)  # fmt: skip
KERNELS: tuple[str, ...] = (*(name for name in ARGUMENTS if name != "back_project"), *BACK_PROJECTIONS)


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of a kernel: its name, the shapes of grid and block (x, y, z), and its struct of arguments."""

    kernel: str
    grid: Shape3
    block: Shape3
    arguments: NDArray[Any]


class Buffer(Protocol):
    """Memory of a device; given back when the object goes."""

    address: int
    n_bytes: int


class RowTransforms(Protocol):
    """Real FFTs of a fixed number of rows of one length; the backward one is not divided by the length."""

    def forward(self, rows: Buffer, spectra: Buffer, stream: Any) -> None:
        """Transform (row, n) float32 to (row, n // 2 + 1) complex64."""

    def backward(self, spectra: Buffer, rows: Buffer, stream: Any) -> None:
        """Transform back; the spectra may be overwritten."""


class LayeredTexture(Protocol):
    """A stack of images (layer, height, width) for point sampling."""

    handle: int

    def fill(self, source: Buffer, n_layers: int, stream: Any) -> None:
        """Copy the first layers from a buffer."""


class Device(Protocol):
    """What runs launches, moves bytes and keeps order: a GPU, or the host in the tests.

    Work on one stream runs in order; work on two may overlap, and events order it.
    """

    name: str
    measures: bool

    def free_bytes(self) -> int:
        """Memory that can still be allocated."""

    def allocate(self, n_bytes: int) -> Buffer:
        """Memory of the device, not cleared."""

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Memory of the host that copies can overlap with."""

    def new_stream(self) -> Any:
        """A queue of work."""

    def record(self, stream: Any) -> Any:
        """An event that has happened once all work given to the stream so far is done."""

    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of the stream wait for an event."""

    def finish(self, event: Any) -> None:
        """Wait here for an event."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two events that have happened."""

    def upload(self, target: Buffer, source: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous array to the start of a buffer."""

    def download(self, target: NDArray[Any], source: Buffer, stream: Any) -> None:
        """Copy the start of a buffer into a contiguous array."""

    def clear(self, buffer: Buffer, n_bytes: int, stream: Any) -> None:
        """Fill the start of a buffer with zeros."""

    def launch(self, launch: Launch, stream: Any) -> None:
        """Run a kernel."""

    def row_transforms(self, n: int, n_rows: int) -> RowTransforms:
        """Plans that are made once and used again."""

    def row_transform_bytes(self, n: int, n_rows: int) -> int:
        """Working memory that `row_transforms` takes beside rows and spectra, at most."""

    def layered_texture(self, n_layers: int, height: int, width: int, item_bytes: int) -> LayeredTexture:
        """A stack of float32 or float16 images."""


def _pack(kernel: str, values: Mapping[str, Any]) -> NDArray[Any]:
    """The struct of a kernel; every member must be named, but for the padding."""
    dtype = ARGUMENTS[kernel]
    packed = np.zeros(1, dtype=dtype)
    assert dtype.names is not None
    if set(values) != set(dtype.names) - {"unused"}:
        raise TypeError(f"{kernel} takes {', '.join(dtype.names)}; got {', '.join(values)}")
    for name, value in values.items():
        packed[name] = value
    return packed


def _blocks(size: int, width: int) -> int:
    return -(-size // width)


def resample_views(*, n_views: int, **arguments: Any) -> Launch:
    """Resample rows of virtual views from their frames."""
    packed = _pack("resample_views", arguments)
    grid = (_blocks(int(arguments["n_cols"]), _ROW_THREADS), int(arguments["n_rows"]), n_views)
    return Launch("resample_views", grid, (_ROW_THREADS, 1, 1), packed)


def weigh_rows(*, n_padded_rows: int, **arguments: Any) -> Launch:
    """Weight rows into a chunk of `n_padded_rows` rows of the FFT."""
    packed = _pack("weigh_rows", arguments)
    grid = (_blocks(int(arguments["n_fft"]), _ROW_THREADS), n_padded_rows, 1)
    return Launch("weigh_rows", grid, (_ROW_THREADS, 1, 1), packed)


def multiply_spectra(**arguments: Any) -> Launch:
    """Multiply spectra by the filter's response."""
    packed = _pack("multiply_spectra", arguments)
    grid = (_blocks(int(arguments["n_bins"]), _ROW_THREADS), int(arguments["n_rows"]), 1)
    return Launch("multiply_spectra", grid, (_ROW_THREADS, 1, 1), packed)


def keep_columns(**arguments: Any) -> Launch:
    """Cut columns out of periodic rows."""
    packed = _pack("keep_columns", arguments)
    grid = (_blocks(int(arguments["n_out"]), _ROW_THREADS), int(arguments["n_rows"]), 1)
    return Launch("keep_columns", grid, (_ROW_THREADS, 1, 1), packed)


def scale_views(*, n_views: int, **arguments: Any) -> Launch:
    """Find for each view the power of two that brings it into float16."""
    return Launch("scale_views", (n_views, 1, 1), (_REDUCE, 1, 1), _pack("scale_views", arguments))


def transpose_rows(**arguments: Any) -> Launch:
    """Turn filtered rows into columns."""
    packed = _pack("transpose_rows", arguments)
    grid = (_blocks(int(arguments["n_cols"]), _TRANSPOSE), _blocks(int(arguments["n_chunk_rows"]), _TRANSPOSE), 1)
    return Launch("transpose_rows", grid, (_TRANSPOSE, _TRANSPOSE_ROWS, 1), packed)


def back_project(kernel: str, **arguments: Any) -> Launch:
    """Back-project views; tiles lie on multiples of their size in the whole volume."""
    if kernel not in BACK_PROJECTIONS:
        raise TypeError(f"unknown back-projection '{kernel}': expected one of {', '.join(BACK_PROJECTIONS)}")
    starts, shape = arguments["start"], arguments["shape"]
    n_x, n_y, n_z = (
        _blocks(start + size, tile) - start // tile for start, size, tile in zip(starts, shape, TILE, strict=True)
    )
    return Launch(kernel, (n_z, n_x, n_y), (LANES, TILE[0], TILE[1]), _pack("back_project", arguments))


def take_slices(**arguments: Any) -> Launch:
    """Take slices out of a volume."""
    columns = int(arguments["ny"]) * int(arguments["nx"])
    grid = (_blocks(columns, _TRANSPOSE), _blocks(int(arguments["n_slices"]), _TRANSPOSE), 1)
    return Launch("take_slices", grid, (_TRANSPOSE, _TRANSPOSE_ROWS, 1), _pack("take_slices", arguments))
