# SPDX-License-Identifier: Apache-2.0
"""From stored counts to line integrals, a band of detector rows at a time."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.bad_pixels import BadPixelCounts, find_bad_pixels_by_rows, rows_with_good_pixels
from reconstruction.binning import bin_pixels
from reconstruction.correction import (
    FieldCorrection,
    FloorReport,
    correction_of_white,
    join_bands,
    prepare_band,
    prepare_without_fields,
    to_line_integrals,
)
from reconstruction.errors import CalibrationError
from spark_jobs.errors import PlanError
from spark_jobs.planning.task_memory import field_band_rows
from spark_jobs.run_files.white_file import WhiteFile, read_white, white_path, write_white
from storage.errors import MissingFileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.bad_pixels import CorrectionParameters
    from storage.filesystem import Store


def find_mask(stored: StoredScan, bin_index: int, parameters: CorrectionParameters) -> tuple[NDArray[np.bool_], str]:
    """Find the bad pixels of one bin over the whole panel: (row, col) bool, and what was found in words.

    Flat and dark frames are read some rows at a time, so that the memory does not follow from how many there are.
    """
    scan = stored.scan
    shape = (scan.n_rows, scan.n_cols)
    known = stored.read_bad_pixels()
    if parameters.bad_pixels == "keep":
        bad, found = np.zeros(shape, dtype=np.bool_), BadPixelCounts()
    elif scan.content == "counts":
        bad, found = find_bad_pixels_by_rows(
            functools.partial(_field_rows, stored, bin_index), shape, known, parameters,
            band_rows=field_band_rows(stored),
        )  # fmt: skip
        rows_with_good_pixels(bad)  # refuses a panel without any
    else:
        correction = prepare_without_fields(
            scan.content, scan.n_rows, scan.n_cols, white_level=scan.white_level or 1.0, bad_pixels=known,
            parameters=parameters,
        )  # fmt: skip
        bad, found = correction.bad, correction.found
    words = (
        f"{int(bad.sum())} bad pixels of {bad.size} ({found.known} known, {found.dead} dead, "
        f"{found.hot} hot, {found.bright} bright, {found.unstable} unstable)"
    )
    return bad, words


def _field_rows(
    stored: StoredScan, bin_index: int, row_start: int, row_stop: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Flat and dark frames of some rows."""
    flats = stored.read_flats(bin_index, row_start, row_stop)
    if flats is None:
        raise CalibrationError("the frames are raw counts and need flat fields, but the scan has none")
    return flats, stored.read_darks(bin_index, row_start, row_stop)


def white_file(stored: StoredScan, folder: str, bin_index: int) -> WhiteFile:
    """Return where white and dark of a bin lie."""
    scan = stored.scan
    return WhiteFile(white_path(folder, bin_index), scan.n_rows, scan.n_cols, scan.darks is not None)


def has_white(stored: StoredScan, folder: str, bin_index: int) -> bool:
    """Whether white and dark of a bin are there with their size, or not needed."""
    if stored.scan.content != "counts":
        return True
    file = white_file(stored, folder, bin_index)
    try:
        return stored.store.info(file.path).size == file.n_rows * file.row_bytes
    except MissingFileError:
        return False


def publish_white(
    stored: StoredScan, folder: str, bin_index: int, mask: NDArray[np.bool_], parameters: CorrectionParameters
) -> None:
    """Average flat and dark frames of a bin once, for all later tasks; nothing for frames that need no fields."""
    if stored.scan.content == "counts":
        write_white(
            stored.store, white_file(stored, folder, bin_index),
            functools.partial(_band_from_frames, stored, bin_index, mask, parameters),
            band_rows=field_band_rows(stored),
        )  # fmt: skip


def _band_from_frames(
    stored: StoredScan,
    bin_index: int,
    mask: NDArray[np.bool_],
    parameters: CorrectionParameters,
    row_start: int,
    row_stop: int,
) -> FieldCorrection:
    """The correction of some rows from all frames."""
    flats, darks = _field_rows(stored, bin_index, row_start, row_stop)
    return prepare_band(flats, darks, mask, parameters, row_start=row_start)


def mask_bytes(mask: NDArray[np.bool_]) -> bytes:
    """Pack a mask (row, col) into a small file."""
    handle = io.BytesIO()
    np.savez_compressed(handle, shape=np.array(mask.shape), bits=np.packbits(mask))
    return handle.getvalue()


def read_mask(store: Store, path: str) -> NDArray[np.bool_]:
    """Read a mask (row, col) that `mask_bytes` packed."""
    with np.load(io.BytesIO(store.read_bytes(path)), allow_pickle=False) as packed:
        shape = tuple(int(n) for n in packed["shape"])
        return np.unpackbits(packed["bits"], count=shape[0] * shape[1]).reshape(shape).astype(np.bool_)


@dataclass(frozen=True, slots=True)
class RawBlock:
    """The counts of some rows of one view block: its first frame, (frame, row, col), and the rows asked for."""

    view_start: int
    counts: NDArray[Any]
    rows: tuple[int, int]


class RowCorrector:
    """Reads and corrects rows of one bin, within ``row_start <= row < row_stop``, of whatever frames are asked for.

    With `binning` the rows count blocks of as many detector rows, and line integrals are averaged over these blocks.
    White and dark come from `folder`, where the first stage left them, or without one from all frames.
    """

    def __init__(
        self,
        stored: StoredScan,
        bin_index: int,
        mask: NDArray[np.bool_],
        parameters: CorrectionParameters,
        row_start: int,
        row_stop: int,
        *,
        binning: int = 1,
        folder: str | None = None,
    ) -> None:
        scan = stored.scan
        self.binning = binning
        self.rows = row_start, row_stop
        self.stored, self.bin_index = stored, bin_index
        self._whole = prepare_without_fields(
            "normalized" if scan.content == "counts" else scan.content, scan.n_rows, scan.n_cols,
            white_level=scan.white_level or 1.0, bad_pixels=mask, parameters=parameters,
        )  # fmt: skip
        self.read_start, self.read_stop = self._rows_to_read(self.rows)
        self.correction = self._correction(self._whole, mask, parameters, folder)
        self._last: tuple[tuple[int, int], FieldCorrection] = (self.rows, self.correction)
        self.floored = FloorReport()
        self.read_bytes = 0

    def _rows_to_read(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Detector rows to read: a row without a good pixel is filled from another one."""
        return self._whole.rows_to_read(rows[0] * self.binning, rows[1] * self.binning)

    def _correction(
        self, whole: FieldCorrection, mask: NDArray[np.bool_], parameters: CorrectionParameters, folder: str | None
    ) -> FieldCorrection:
        """The correction of exactly the rows that are read."""
        if self.stored.scan.content != "counts":
            return whole.band(self.read_start, self.read_stop)
        if self.stored.scan.flats is None:
            raise PlanError(f"scan {self.stored.scan.scan_id} holds raw counts and needs flat fields, but has none")
        if folder is not None:
            file = white_file(self.stored, folder, self.bin_index)
            white, dark = read_white(self.stored.store, file, self.read_start, self.read_stop)
            return correction_of_white(white, dark, mask, parameters, row_start=self.read_start)
        step = field_band_rows(self.stored)
        starts = range(self.read_start, self.read_stop, step)
        return join_bands(
            [
                _band_from_frames(
                    self.stored, self.bin_index, mask, parameters, start, min(start + step, self.read_stop)
                )
                for start in starts
            ]
        )

    def _correction_of(self, rows: tuple[int, int]) -> FieldCorrection:
        """The correction of what is read for some rows; that of the last ones is kept."""
        if self._last[0] != rows:
            self._last = rows, self.correction.band(*self._rows_to_read(rows))
        return self._last[1]

    def read_block(self, block_index: int, rows: tuple[int, int] | None = None) -> RawBlock:
        """Read one view block's counts of some rows (all by default)."""
        asked = rows or self.rows
        counts = self.stored.read_rows(self.bin_index, block_index, *self._rows_to_read(asked))
        self.read_bytes += counts.nbytes
        return RawBlock(self.stored.view_blocks[block_index][0], counts, asked)

    def line_integrals(
        self, blocks: list[RawBlock], first: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Correct the frames ``first <= frame < stop`` of each block, one block behind the other.

        Returns
        -------
        (frame, row, col) float32, and (frame,) int64: the frames' indices in the scan
        """
        frames = np.concatenate([block.view_start + np.arange(first, min(stop, len(block.counts))) for block in blocks])
        return self.lines_of_frames(blocks, frames), frames

    def lines_of_frames(self, blocks: Iterable[RawBlock], frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """Correct some frames, which lie in these blocks: (frame, row, col) float32, of the rows that were read."""
        held = sorted(blocks, key=lambda block: block.view_start)
        rows = held[0].rows
        correction, (read_start, _) = self._correction_of(rows), self._rows_to_read(rows)
        corrected = np.empty((len(frames), *held[0].counts.shape[1:]), dtype=np.float32)
        places = np.searchsorted([block.view_start for block in held], frames, side="right") - 1
        # Runs of frames that follow one another in a block.
        borders = np.flatnonzero((np.diff(frames) != 1) | (np.diff(places) != 0)) + 1
        for run in np.split(np.arange(len(frames)), borders):
            block = held[places[run[0]]]
            start = int(frames[run[0]]) - block.view_start
            part = block.counts[start : start + len(run)]
            _, report = to_line_integrals(part, correction, out=corrected[run[0] : run[-1] + 1])
            self.floored += report
        keep = slice(rows[0] * self.binning - read_start, rows[1] * self.binning - read_start)
        return bin_pixels(corrected[:, keep], self.binning)
