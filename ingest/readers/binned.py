# SPDX-License-Identifier: Apache-2.0
"""Any reader with its detector pixels binned k x k (``bin_pixels``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.frames import common_pixel_type
from reconstruction.binning import binned_geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.readers import ScanReader
    from ingest.scan import PixelType, Scan
    from reconstruction.geometry import ConeBeamGeometry


def bin_geometry(geometry: ConeBeamGeometry, bin_pixels: int) -> ConeBeamGeometry:
    """Return the geometry of a panel whose pixels are binned k x k from row 0 and column 0 on.

    Steps grow k times; the middle of the panel moves by half of the pixels that a last, incomplete block loses.  A
    block with a column that measures nothing is a gap.
    """
    return binned_geometry(geometry, bin_pixels)


def bin_scan(scan: Scan, bin_pixels: int) -> Scan:
    """Return the manifest of a scan whose pixels are binned k x k.

    Raises
    ------
    ScanDescriptionError
        If the panel is smaller than one block.
    """
    n_rows, n_cols = scan.n_rows // bin_pixels, scan.n_cols // bin_pixels
    if min(n_rows, n_cols) < 1:
        raise ScanDescriptionError(
            f"scan {scan.scan_id}: bin_pixels {bin_pixels} is more than "
            f"the panel of {scan.n_rows} rows x {scan.n_cols} columns holds: "
            f"take {min(scan.n_rows, scan.n_cols)} at most"
        )
    how = "sum" if scan.content == "counts" else "mean"
    note = f"Pixels are binned {bin_pixels} x {bin_pixels} ({how}) from {scan.n_rows} rows x {scan.n_cols} columns."
    lost = scan.n_rows % bin_pixels, scan.n_cols % bin_pixels
    if any(lost):
        note += f" The last {lost[0]} rows and {lost[1]} columns do not fill a block and are left out."
    parallel = scan.parallel
    if parallel is not None:
        pitch_u, pitch_v = (None if p is None else p * bin_pixels for p in (parallel.pitch_u_mm, parallel.pitch_v_mm))
        parallel = replace(parallel, pitch_u_mm=pitch_u, pitch_v_mm=pitch_v)
    return replace(
        scan,
        n_rows=n_rows,
        n_cols=n_cols,
        pixel_type=_binned_type(scan, bin_pixels),
        geometry=None if scan.geometry is None else bin_geometry(scan.geometry, bin_pixels),
        parallel=parallel,
        notes=(*scan.notes, note),
    )


def _binned_type(scan: Scan, bin_pixels: int) -> PixelType:
    """Sums of counts stay whole numbers; means do not."""
    if scan.content != "counts" or scan.pixel_type == "float32":
        return "float32"
    highest = int(np.iinfo(scan.pixel_type).max) * bin_pixels**2
    fitting: PixelType = "uint16" if highest <= np.iinfo(np.uint16).max else "uint32"
    return common_pixel_type((scan.pixel_type, fitting))


@dataclass(slots=True)
class BinnedReader:
    """A reader with its pixels binned: counts are summed, normalized frames and line integrals averaged.

    A binned pixel is bad if one of its pixels is bad.  Line integrals are averaged as they are: do so only
    where they vary little within a block.
    """

    reader: ScanReader
    bin_pixels: int
    scan: Scan
    repeated: bool = False

    @classmethod
    def wrap(cls, reader: ScanReader, bin_pixels: int, *, repeated: bool = False) -> BinnedReader:
        """Bin the pixels of an opened reader; `repeated` says that all its views are the same one."""
        return cls(reader, bin_pixels, bin_scan(reader.scan, bin_pixels), repeated)

    def available_views(self) -> int:
        """How many leading views can be read now."""
        return self.reader.available_views()

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views ``start <= view < stop`` as (bin, view, row, col), one view at a time in the wider type."""
        scan = self.scan
        binned = np.empty((scan.n_bins, stop - start, scan.n_rows, scan.n_cols), dtype=scan.pixel_type)
        last = min(start + 1, stop) if self.repeated else stop
        for view in range(start, last):
            binned[:, view - start] = self._bin(self.reader.read_views(view, view + 1), f"view {view}")[:, 0]
        if self.repeated:
            binned[:, 1:] = binned[:, :1]
        return binned

    def read_flats(self, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (bin, frame, row, col), all or those of one camera position, or None."""
        frames = self.reader.read_flats(position)
        return None if frames is None else self._bin(frames, "flat frames")

    def read_darks(self, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (bin, frame, row, col), all or those of one camera position, or None."""
        frames = self.reader.read_darks(position)
        return None if frames is None else self._bin(frames, "dark frames")

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Binned pixels with a bad one among theirs (row, col) bool, or None."""
        bad = self.reader.read_bad_pixels()
        return None if bad is None else np.asarray(self._blocks(bad).any(axis=(-3, -1)))

    def close(self) -> None:
        """Close the files."""
        self.reader.close()

    def _blocks(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Frames (..., row, col) as (..., row, k, col, k), without the last incomplete blocks."""
        k, n_rows, n_cols = self.bin_pixels, self.scan.n_rows, self.scan.n_cols
        cut = frames[..., : n_rows * k, : n_cols * k]
        return cut.reshape(*frames.shape[:-2], n_rows, k, n_cols, k)

    def _bin(self, frames: NDArray[Any], what: str) -> NDArray[Any]:
        """Sum or mean of the blocks in the type of the binned scan."""
        wide = np.float64 if frames.dtype.kind == "f" else np.uint64
        sums = self._blocks(frames).sum(axis=(-3, -1), dtype=wide)
        if self.scan.content != "counts":
            return np.asarray(sums / self.bin_pixels**2, dtype=np.float32)
        target = np.dtype(self.scan.pixel_type)
        if target.kind == "u" and sums.size and int(sums.max()) > np.iinfo(target).max:
            raise FrameFormatError(
                f"scan {self.scan.scan_id}: binned {what} reach {int(sums.max())} counts, "
                f"above {np.iinfo(target).max}, the largest that {target} holds: take smaller bin_pixels"
            )
        return np.asarray(sums, dtype=target)
