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

    A pixel belongs to the camera: what is bad by the field frames of one camera position is bad at all of them.
    Flat and dark frames are read some rows at a time, so that the memory does not follow from how many there are.
    """
    scan = stored.scan
    shape = (scan.n_rows, scan.n_cols)
    known = stored.read_bad_pixels()
    if parameters.bad_pixels == "keep":
        bad, found = np.zeros(shape, dtype=np.bool_), BadPixelCounts()
    elif scan.content == "counts":
        bad, found = _search_fields(stored, bin_index, known, parameters)
    else:
        correction = prepare_without_fields(
            scan.content, scan.n_rows, scan.n_cols, white_level=scan.white_level or 1.0, bad_pixels=known,
            parameters=parameters,
        )  # fmt: skip
        bad, found = correction.bad, correction.found
    n_sets = len(scan.field_positions) if scan.content == "counts" else 1
    where = "" if n_sets == 1 else f", at {n_sets} camera positions together"
    words = (
        f"{int(bad.sum())} bad pixels of {bad.size} ({found.known} known, {found.dead} dead, "
        f"{found.hot} hot, {found.bright} bright, {found.unstable} unstable{where})"
    )
    return bad, words


def _search_fields(
    stored: StoredScan, bin_index: int, known: NDArray[np.bool_] | None, parameters: CorrectionParameters
) -> tuple[NDArray[np.bool_], BadPixelCounts]:
    """Pixels that are bad by the field frames of any camera position; counted as often as they are found."""
    scan = stored.scan
    bad = np.zeros((scan.n_rows, scan.n_cols), dtype=np.bool_)
    counts: list[BadPixelCounts] = []
    for position in scan.field_positions:
        try:
            of_position, found = find_bad_pixels_by_rows(
                functools.partial(_field_rows, stored, bin_index, position), bad.shape, known, parameters,
                band_rows=field_band_rows(stored),
            )  # fmt: skip
        except CalibrationError as error:
            if position is None:
                raise
            raise CalibrationError(f"scan {scan.scan_id}, camera position {position}: {error}") from error
        bad |= of_position
        counts.append(found)
    rows_with_good_pixels(bad)  # refuses a panel without any
    if float(bad.mean()) > parameters.max_bad_share:
        raise CalibrationError(
            f"scan {scan.scan_id}: {bad.mean():.1%} of the panel's pixels are bad at one of {len(counts)} camera "
            f"positions or another, at most {parameters.max_bad_share:.0%} are accepted: see to the flat frames, or "
            "leave positions out"
        )
    return bad, BadPixelCounts(
        counts[0].known, sum(c.dead for c in counts), sum(c.hot for c in counts), sum(c.bright for c in counts),
        sum(c.unstable for c in counts),
    )  # fmt: skip


def _field_rows(
    stored: StoredScan, bin_index: int, position: int | None, row_start: int, row_stop: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Flat and dark frames of some rows that serve a camera position's views."""
    flats = stored.read_flats(bin_index, row_start, row_stop, position=position)
    if flats is None:
        raise CalibrationError(
            f"scan {stored.scan.scan_id} holds raw counts and needs flat fields, but has none: name them as [files] "
            "flats of its scan.toml and upload it again"
        )
    return flats, stored.read_darks(bin_index, row_start, row_stop, position=position)


def white_files(stored: StoredScan, folder: str, bin_index: int) -> tuple[WhiteFile, ...]:
    """Return where white and dark of a bin lie, for each of the scan's `field_positions`; () if none are needed."""
    scan = stored.scan
    if scan.content != "counts":
        return ()
    return tuple(
        WhiteFile(white_path(folder, bin_index, at), scan.n_rows, scan.n_cols, scan.darks is not None, at)
        for at in scan.field_positions
    )


def has_white(stored: StoredScan, folder: str, bin_index: int) -> bool:
    """Whether white and dark of a bin are there with their size, or not needed."""
    try:
        return all(
            stored.store.info(file.path).size == file.n_rows * file.row_bytes
            for file in white_files(stored, folder, bin_index)
        )
    except MissingFileError:
        return False


def publish_white(
    stored: StoredScan, folder: str, bin_index: int, mask: NDArray[np.bool_], parameters: CorrectionParameters
) -> None:
    """Average flat and dark frames of a bin once, for all later tasks; nothing for frames that need no fields."""
    for file in white_files(stored, folder, bin_index):
        write_white(
            stored.store, file,
            functools.partial(_band_from_frames, stored, bin_index, file.position, mask, parameters),
            band_rows=field_band_rows(stored),
        )  # fmt: skip


def _band_from_frames(
    stored: StoredScan,
    bin_index: int,
    position: int | None,
    mask: NDArray[np.bool_],
    parameters: CorrectionParameters,
    row_start: int,
    row_stop: int,
) -> FieldCorrection:
    """The correction of some rows from all frames."""
    flats, darks = _field_rows(stored, bin_index, position, row_start, row_stop)
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
    White and dark come from `folder`, where the first stage left them, or without one from all frames; those of a
    camera position are read when its first frame is corrected.
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
        self._mask, self._parameters, self._folder = mask, parameters, folder
        sets = scan.field_positions if scan.content == "counts" else (None,)
        self._position_of = None if sets == (None,) else np.array(scan.camera_positions)
        self._corrections: dict[int, FieldCorrection] = {}
        self._last: tuple[tuple[int, int], dict[int, FieldCorrection]] = (self.rows, self._corrections)
        if self._position_of is None:
            self._corrections[0] = self._correction(None)
        self.floored = FloorReport()
        self.read_bytes = 0

    def _rows_to_read(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Detector rows to read: a row without a good pixel is filled from another one."""
        return self._whole.rows_to_read(rows[0] * self.binning, rows[1] * self.binning)

    def _correction(self, position: int | None) -> FieldCorrection:
        """The correction of a camera position's frames, of exactly the rows that are read."""
        stored, mask, parameters = self.stored, self._mask, self._parameters
        if stored.scan.content != "counts":
            return self._whole.band(self.read_start, self.read_stop)
        if self._folder is not None:
            file = white_files(stored, self._folder, self.bin_index)[position or 0]
            white, dark = read_white(stored.store, file, self.read_start, self.read_stop)
            return correction_of_white(white, dark, mask, parameters, row_start=self.read_start)
        step = field_band_rows(stored)
        starts = range(self.read_start, self.read_stop, step)
        return join_bands(
            [
                _band_from_frames(
                    stored, self.bin_index, position, mask, parameters, start, min(start + step, self.read_stop)
                )
                for start in starts
            ]
        )

    def _correction_of(self, rows: tuple[int, int], position: int) -> FieldCorrection:
        """The correction of what is read for some rows, at a camera position; those of the last rows are kept."""
        if position not in self._corrections:
            self._corrections[position] = self._correction(position)
        if self._last[0] != rows:
            self._last = rows, {}
        held = self._last[1]
        if position not in held:
            held[position] = self._corrections[position].band(*self._rows_to_read(rows))
        return held[position]

    def _positions_of(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the field set (frame,) that each frame is corrected by."""
        return np.zeros(len(frames), dtype=np.int64) if self._position_of is None else self._position_of[frames]

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
        """Correct some frames, which lie in these blocks: (frame, row, col) float32, of the rows that were read.

        Each by the field frames of the camera position that it was taken at.
        """
        held = sorted(blocks, key=lambda block: block.view_start)
        rows = held[0].rows
        read_start, _ = self._rows_to_read(rows)
        corrected = np.empty((len(frames), *held[0].counts.shape[1:]), dtype=np.float32)
        places = np.searchsorted([block.view_start for block in held], frames, side="right") - 1
        positions = self._positions_of(frames)
        # Runs of frames that follow one another in a block, at one camera position.
        borders = np.flatnonzero((np.diff(frames) != 1) | (np.diff(places) != 0) | (np.diff(positions) != 0)) + 1
        for run in np.split(np.arange(len(frames)), borders):
            block = held[places[run[0]]]
            start = int(frames[run[0]]) - block.view_start
            part = block.counts[start : start + len(run)]
            correction = self._correction_of(rows, int(positions[run[0]]))
            _, report = to_line_integrals(part, correction, out=corrected[run[0] : run[-1] + 1])
            self.floored += report
        keep = slice(rows[0] * self.binning - read_start, rows[1] * self.binning - read_start)
        return bin_pixels(corrected[:, keep], self.binning)
