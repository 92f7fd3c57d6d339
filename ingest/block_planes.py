# SPDX-License-Identifier: Apache-2.0
"""The pixels of a view block on their way into a chunk file: turned to rows and split into planes, as pages hold them.

Views come one after the other, and each is touched once, while it lies in a core's cache; row groups are then slices of
what is here, and are not copied again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.parquet_pages import LENGTH_BYTES
from ingest.pixel_digests import little_endian

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout

#: Pixels are split in pieces that stay in a core's cache [B]; many small ones make threads wait for the interpreter.
_TILE_BYTES = 1 << 19


class BlockPlanes:
    """One view block of one energy bin, used for block after block.

    Parameters
    ----------
    layout : of the chunk files.
    n_planes : columns of pixels: one for each byte of a pixel, the lowest first, or one for all.

    Attributes
    ----------
    pages : for each column (row, byte) uint8: of every detector row its cell's length, little-endian, and its cell.
    """

    pages: list[NDArray[np.uint8]]

    def __init__(self, layout: ChunkLayout, n_planes: int) -> None:
        self._n_rows, self._n_cols, self._dtype = layout.n_rows, layout.n_cols, layout.dtype
        row_bytes = layout.view_block * layout.n_cols * layout.dtype.itemsize // n_planes
        self._memory = [np.empty(layout.n_rows * (LENGTH_BYTES + row_bytes), dtype=np.uint8) for _ in range(n_planes)]

    def begin(self, n_views: int) -> None:
        """Forget the former block; so many views of the next come, in any order."""
        row_bytes = n_views * self._n_cols * self._dtype.itemsize // len(self._memory)
        pages = (memory[: self._n_rows * (LENGTH_BYTES + row_bytes)] for memory in self._memory)
        self.pages = [page.reshape(self._n_rows, -1) for page in pages]

    def put_view(self, view: int, frame: NDArray[Any]) -> None:
        """Take a view of the block, frame (row, col); several threads may do so for different views."""
        if view == 0:  # the first touch of fresh memory takes time: that of those who take views
            length = np.array([self.pages[0].shape[1] - LENGTH_BYTES], dtype="<u4").view(np.uint8)
            for page in self.pages:
                page[:, :LENGTH_BYTES] = length
        width = self._n_cols * self._dtype.itemsize // len(self.pages)
        columns = slice(LENGTH_BYTES + view * width, LENGTH_BYTES + (view + 1) * width)
        cells = [page[:, columns] for page in self.pages]
        step = max(1, _TILE_BYTES // (self._n_cols * self._dtype.itemsize))
        for start in range(0, self._n_rows, step):
            rows = slice(start, start + step)
            pixels = little_endian(frame[rows])
            if len(cells) == 1:
                cells[0][rows] = pixels.view(np.uint8).reshape(len(pixels), width)
                continue
            words = pixels.view(f"<u{self._dtype.itemsize}")
            np.copyto(cells[0][rows], words, casting="unsafe")
            for index, cell in enumerate(cells[1:], start=1):
                np.copyto(cell[rows], words >> words.dtype.type(8 * index), casting="unsafe")

    def put_views(self, frames: NDArray[Any]) -> None:
        """Take all views of a block, frames (view, row, col)."""
        self.begin(len(frames))
        for view, frame in enumerate(frames):
            self.put_view(view, frame)
