# SPDX-License-Identifier: Apache-2.0
"""Write a scan as another program's users keep theirs: projections in its layout, beside a geometry file of its own.

A folder that is written also gets a ``scan.toml``, so that it can be uploaded again; patient and order stay out of it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ingest.errors import ScanDescriptionError
from ingest.readers.image_stacks import meta_header
from ingest.readers.toolkit_files import write_cil_nexus
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.correction import correction_of_white, prepare_fields, prepare_without_fields, to_line_integrals
from reconstruction.exchange import cil, rtk, tigre
from reconstruction.exchange.files import geometry_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.chunk_reader import StoredScan
    from ingest.readers import ScanReader
    from ingest.scan import FieldFrames, Scan
    from reconstruction.correction import FieldCorrection
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

    #: Takes a block of views (view, row, col) of one bin at a first view.
    Sink = Callable[[int, int, NDArray[Any]], None]

#: Name -> what comes into the folder.
TARGETS: Final = {
    "rtk": "projections.mha, geometry.xml",
    "astra": "projections.npy (row, view, col), vectors.npy, geometry.json",
    "tigre": "projections.npy (view, row, col), geometry.json",
    "tigre-matlab": "projections.mat with proj, geo and angles",
    "leap": "projections.npy (view, row, col), geometry.cfg",
    "cil": "projections.nxs; projections.npy and geometry.json where the views are not one system that turns",
}
#: Views that are held at once, as a share of memory.
_BLOCK_BYTES: Final = 256 * 1024 * 1024
#: A MATLAB file of version 5 holds no larger array.
_MAX_MAT_BYTES: Final = 2**31 - 1


class ViewSource(Protocol):
    """Where views come from: an opened source, or a scan in the store."""

    @property
    def scan(self) -> Scan:
        """The manifest."""

    def blocks(self) -> tuple[tuple[int, int], ...]:
        """First and end view of each block that is read at once."""

    def read(self, bin_index: int, block: int) -> NDArray[Any]:
        """Views of a block (view, row, col), as stored."""

    def flats(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (frame, row, col) that serve a camera position's views, or None."""

    def darks(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (frame, row, col) that serve a camera position's views, or None."""

    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """Pixels known to be bad (row, col), or None."""


class OpenedSource:
    """Views of a source that a reader has opened; a block is read once for all energy bins."""

    def __init__(self, reader: ScanReader) -> None:
        self._reader = reader
        self._held: tuple[int, NDArray[Any]] | None = None
        self._fields: dict[tuple[str, int | None], NDArray[Any] | None] = {}

    @property
    def scan(self) -> Scan:
        """The manifest."""
        return self._reader.scan

    def blocks(self) -> tuple[tuple[int, int], ...]:
        """As many views as `_BLOCK_BYTES` hold."""
        scan = self.scan
        frame_bytes = scan.n_bins * scan.n_rows * scan.n_cols * np.dtype(scan.pixel_type).itemsize
        step = max(1, _BLOCK_BYTES // frame_bytes)
        return tuple((start, min(start + step, scan.n_views)) for start in range(0, scan.n_views, step))

    def read(self, bin_index: int, block: int) -> NDArray[Any]:
        """Views of a block (view, row, col), as stored."""
        if self._held is None or self._held[0] != block:
            self._held = (block, self._reader.read_views(*self.blocks()[block]))
        return np.asarray(self._held[1][bin_index])

    def flats(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (frame, row, col) that serve a camera position's views, or None."""
        return self._field("flats", self._reader.read_flats, bin_index, position)

    def darks(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (frame, row, col) that serve a camera position's views, or None."""
        return self._field("darks", self._reader.read_darks, bin_index, position)

    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """Pixels known to be bad (row, col), or None."""
        return self._reader.read_bad_pixels()

    def _field(
        self, name: str, read: Callable[[int | None], NDArray[Any] | None], bin_index: int, position: int | None
    ) -> NDArray[Any] | None:
        described = self.scan.flats if name == "flats" else self.scan.darks
        at = position if described is not None and described.by_position else None
        if (name, at) not in self._fields:
            self._fields[name, at] = read(at)
        frames = self._fields[name, at]
        return None if frames is None else np.asarray(frames[bin_index])


class StoredSource:
    """Views of a scan in the store, a view block at once."""

    def __init__(self, stored: StoredScan) -> None:
        self._stored = stored

    @property
    def scan(self) -> Scan:
        """The manifest."""
        return self._stored.scan

    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The view blocks in which the scan is stored."""
        return self._stored.view_blocks

    def read(self, bin_index: int, block: int) -> NDArray[Any]:
        """Views of a block (view, row, col), as stored."""
        return self._stored.read_rows(bin_index, block, 0, self.scan.n_rows)

    def flats(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (frame, row, col) that serve a camera position's views, or None."""
        return self._stored.read_flats(bin_index, position=position)

    def darks(self, bin_index: int, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (frame, row, col) that serve a camera position's views, or None."""
        return self._stored.read_darks(bin_index, position=position)

    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """Pixels known to be bad (row, col), or None."""
        return self._stored.read_bad_pixels()


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: names in the folder, and plain sentences."""

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export_scan(
    source: ViewSource,
    target: str,
    folder: Path,
    *,
    as_stored: bool = False,
    grid: VolumeGrid | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write projections and geometry into a new or empty folder.

    Parameters
    ----------
    source : an `OpenedSource` or a `StoredSource`.
    target : a name of `TARGETS`.
    folder : made if it is not there.
    as_stored : write the frames as they are, flat and dark frames beside them, in place of line integrals.
    grid : the volume that TIGRE's and LEAP's files name; left out, one made from the panel.
    progress : called with the views done and their number.

    Raises
    ------
    ScanDescriptionError
        If the scan has no cone-beam geometry, the target does not exist, the folder is not empty, or a file cannot
        hold so much.
    GeometryError
        If the target cannot hold the geometry.
    CalibrationError
        If the scan has raw counts, and no flat frames to make line integrals with.
    """
    scan = source.scan
    if target not in TARGETS:
        raise ScanDescriptionError(f"a scan is exported to one of {', '.join(TARGETS)}, got '{target}'")
    if scan.geometry is None:
        raise ScanDescriptionError(f"scan {scan.scan_id} has no cone-beam geometry, which {target} needs")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScanDescriptionError(f"{folder} exists and is not an empty folder: name another one to export to")
    writer = _Writer(scan, scan.geometry, target, folder, as_stored=as_stored, grid=grid)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        sinks = writer.open(stack)
        _send(source, sinks, as_stored=as_stored, progress=progress)
    writer.write_geometry()
    if as_stored:
        writer.write_fields(source)
    writer.write_description()
    return ExportReport(tuple(sorted(path.name for path in folder.iterdir())), writer.notes)


def _send(
    source: ViewSource, sink: Sink, *, as_stored: bool, progress: Callable[[int, int], None] | None
) -> None:  # fmt: skip
    """Read, correct and hand on every block of every bin."""
    scan = source.scan
    corrections = [() if as_stored else _corrections(source, index) for index in range(scan.n_bins)]
    positions = np.array(scan.camera_positions or (0,) * scan.n_views)
    for block, (start, stop) in enumerate(source.blocks()):
        for bin_index, by_position in enumerate(corrections):
            frames = source.read(bin_index, block)
            sink(
                bin_index, start, _line_integrals(frames, by_position, positions[start:stop]) if by_position else frames
            )
        if progress is not None:
            progress(stop, scan.n_views)


def _corrections(source: ViewSource, bin_index: int) -> tuple[FieldCorrection, ...]:
    """How the frames of a bin become line integrals: all alike, or those of each camera position."""
    scan, bad = source.scan, source.bad_pixels()
    if scan.content != "counts":
        level = scan.white_level or 1.0
        return (prepare_without_fields(scan.content, scan.n_rows, scan.n_cols, white_level=level, bad_pixels=bad),)
    if scan.field_positions == (None,):
        return (prepare_fields(source.flats(bin_index), source.darks(bin_index), bad),)
    found = [
        prepare_fields(source.flats(bin_index, at), source.darks(bin_index, at), bad) for at in scan.field_positions
    ]
    # A pixel that is bad at one position is bad at all.
    union = np.logical_or.reduce([each.bad for each in found])
    whites = [np.where(union, np.float32(1), each.white) for each in found]
    return tuple(
        correction_of_white(white, each.dark, union, CorrectionParameters(), row_start=0)
        for white, each in zip(whites, found, strict=True)
    )


def _line_integrals(
    frames: NDArray[Any], corrections: tuple[FieldCorrection, ...], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Correct views (view, row, col), each by the fields of its camera position."""
    if len(corrections) == 1:
        return to_line_integrals(frames, corrections[0])[0]
    lines = np.empty(frames.shape, dtype=np.float32)
    for position, correction in enumerate(corrections):
        views = np.flatnonzero(positions == position)
        lines[views] = to_line_integrals(frames[views], correction)[0]
    return lines


class _Writer:
    """Writes the files of one target."""

    def __init__(
        self, scan: Scan, geometry: ConeBeamGeometry, target: str, folder: Path, *, as_stored: bool,
        grid: VolumeGrid | None,
    ) -> None:  # fmt: skip
        self.scan, self.geometry, self.target, self.folder = scan, geometry, target, folder
        self.as_stored, self.grid = as_stored, grid
        self.notes: tuple[str, ...] = ()
        self.dtype = np.dtype(scan.pixel_type if as_stored else np.float32).newbyteorder("<")
        self._cone = cil.to_cil(geometry) if target == "cil" else None
        if isinstance(self._cone, cil.CilFlex):
            self.notes = (
                "CIL's NeXus files hold no Cone3D_Flex: projections.npy and geometry.json are written instead.",
            )
        self._prepared = self._geometry_files()
        size = geometry.n_views * geometry.n_rows * geometry.n_cols * self.dtype.itemsize
        if target == "tigre-matlab" and size > _MAX_MAT_BYTES:
            raise ScanDescriptionError(
                f"scan {scan.scan_id} has {size} bytes of projections a bin, a .mat file of version 5 holds "
                f"{_MAX_MAT_BYTES}: export to tigre"
            )

    @property
    def suffix(self) -> str:
        """Of the projections."""
        nexus = ".nxs" if isinstance(self._cone, cil.CilCone3D) else ".npy"
        return {"rtk": ".mha", "tigre-matlab": ".mat", "cil": nexus}.get(self.target, ".npy")

    def name(self, stem: str, bin_index: int | str, suffix: str) -> str:
        """Name of a file of one energy bin."""
        one = self.scan.n_bins == 1 or (suffix == ".nxs")
        return f"{stem}{suffix}" if one else f"{stem}-{bin_index}{suffix}"

    def open(self, stack: ExitStack) -> Sink:
        """Make the files of projections and return what takes views."""
        if self.suffix == ".nxs":
            return self._open_nexus(stack)
        if self.suffix == ".mat":
            return self._open_mat(stack)
        arrays = [self._open_array(index) for index in range(self.scan.n_bins)]
        by_row = self.target == "astra"

        def take(bin_index: int, start: int, frames: NDArray[Any]) -> None:
            views = slice(start, start + len(frames))
            if by_row:
                arrays[bin_index][:, views] = frames.transpose(1, 0, 2)
            else:
                arrays[bin_index][views] = frames

        for array in arrays:
            stack.callback(array.flush)
        return take

    def write_geometry(self) -> None:
        """Write the geometry files."""
        for name, content in self._prepared.items():
            (self.folder / name).write_bytes(content)

    def write_fields(self, source: ViewSource) -> None:
        """Write flat and dark frames and the mask of bad pixels."""
        for stem, described, read in self._fields(source):
            for position in () if described is None else described.positions:
                for index in range(self.scan.n_bins):
                    frames = read(index, position)
                    if frames is not None:
                        np.save(self.folder / self.name(_of_position(stem, position), index, ".npy"), frames)
        bad = source.bad_pixels()
        if bad is not None:
            np.save(self.folder / "bad_pixels.npy", bad)

    def _fields(
        self, source: ViewSource
    ) -> tuple[tuple[str, FieldFrames | None, Callable[[int, int | None], NDArray[Any] | None]], ...]:
        """Name, description and reading of flat and dark frames."""
        return ("flats", self.scan.flats, source.flats), ("darks", self.scan.darks, source.darks)

    def _position_lines(self) -> list[str]:
        """``[[camera_positions]]`` with the field frames of each, where frames are written as they are stored."""
        scan, lines = self.scan, list[str]()
        if not self.as_stored or scan.field_positions == (None,):
            return lines
        for position in range(scan.n_positions):
            views = [view for view, at in enumerate(scan.camera_positions) if at == position]
            lines += ["", "[[camera_positions]]", f"views = {views}"]
            for stem, frames in (("flats", scan.flats), ("darks", scan.darks)):
                if frames is not None and frames.by_position:
                    lines.append(f"{stem} = {_quoted(self.name(_of_position(stem, position), '{bin}', '.npy'))}")
        return lines

    def write_description(self) -> None:
        """Write a scan.toml with which the folder can be uploaded again."""
        scan = self.scan
        content = scan.content if self.as_stored else "line_integrals"
        lines = ["[scan]", f"id = {_quoted(scan.scan_id)}", 'format = "exchange"', f"content = {_quoted(content)}"]
        if self.as_stored and scan.white_level is not None:
            lines.append(f"white_level = {scan.white_level!r}")
        lines += ["", "[files]", f"projections = {_quoted(self.name('projections', '{bin}', self.suffix))}"]
        for stem in ("flats", "darks"):
            if (self.folder / self.name(stem, 0, ".npy")).is_file():
                lines.append(f"{stem} = {_quoted(self.name(stem, '{bin}', '.npy'))}")
        if (self.folder / "bad_pixels.npy").is_file():
            lines.append('bad_pixels = "bad_pixels.npy"')
        container = self.suffix in (".mat", ".nxs")
        named = self.name("projections", 0, self.suffix) if container else next(iter(self._prepared))
        lines += ["", "[settings]", f"geometry = {_quoted(named)}"]
        lines += self._position_lines()
        for energy_bin in scan.bins:
            limits = {"low_kev": energy_bin.low_kev, "high_kev": energy_bin.high_kev}
            lines += ["", "[[bins]]", f"kind = {_quoted(energy_bin.kind)}"]
            lines += [f"{key} = {float(value)!r}" for key, value in limits.items() if value is not None]
        (self.folder / "scan.toml").write_text("\n".join([*lines, ""]), encoding="utf-8")

    def _geometry_files(self) -> dict[str, bytes]:
        """Names and contents; the first is the one that is read again."""
        if self.target == "astra":
            return {
                "geometry.json": geometry_bytes(self.geometry, "astra", ".json"),
                "vectors.npy": geometry_bytes(self.geometry, "astra", ".npy"),
            }
        if self.target == "tigre-matlab" or isinstance(self._cone, cil.CilCone3D):
            tigre_needs = self.target == "tigre-matlab"
            if tigre_needs:
                tigre.to_tigre(self.geometry, self.grid)  # refuses before anything is written
            return {}
        suffix = {"rtk": ".xml", "leap": ".cfg"}.get(self.target, ".json")
        return {f"geometry{suffix}": geometry_bytes(self.geometry, self.target, suffix, self.grid)}

    def _open_array(self, bin_index: int) -> np.memmap[Any, Any]:
        """A memory-mapped .npy or .mha."""
        scan = self.scan
        path = self.folder / self.name("projections", bin_index, self.suffix)
        shape = (scan.n_views, scan.n_rows, scan.n_cols)
        if self.suffix == ".npy":
            by_row = (scan.n_rows, scan.n_views, scan.n_cols)
            return np.lib.format.open_memmap(path, "w+", self.dtype, by_row if self.target == "astra" else shape)
        pitch_v, pitch_u = self.geometry.pitch_mm
        u, v = rtk.centered_origin(self.geometry)
        header = meta_header(shape[::-1], self.dtype, (pitch_u, pitch_v, 1.0), (u, v, 0.0))
        path.write_bytes(header)
        return np.memmap(path, self.dtype, "r+", len(header), shape)

    def _open_nexus(self, stack: ExitStack) -> Sink:
        """CIL's file, all energy bins as channels."""
        assert isinstance(self._cone, cil.CilCone3D)
        n_bins = self.scan.n_bins
        file = write_cil_nexus(self.folder / "projections.nxs", self._cone, n_bins, self.dtype)
        stack.callback(file.close)
        data = file["entry1/tomo_entry/data/data"]

        def take(bin_index: int, start: int, frames: NDArray[Any]) -> None:
            if n_bins > 1:
                data[bin_index, start : start + len(frames)] = frames
            else:
                data[start : start + len(frames)] = frames

        return take

    def _open_mat(self, stack: ExitStack) -> Sink:
        """MATLAB's file, which is written at once: a bin's projections are held in memory."""
        from scipy.io import savemat

        scan = self.scan
        held = [np.empty((scan.n_rows, scan.n_cols, scan.n_views), self.dtype, "F") for _ in range(scan.n_bins)]
        fields = tigre.to_dict(tigre.to_tigre(self.geometry, self.grid), "matlab")
        angles = np.atleast_2d(np.asarray(fields.pop("angles")))
        geo: dict[str, Any] = {}
        for key, value in fields.items():
            array = np.asarray(value, dtype=np.float64) if not isinstance(value, str) else None
            geo[key] = value if array is None else array[:, None] if array.ndim == 1 and array.size <= 3 else array

        def take(bin_index: int, start: int, frames: NDArray[Any]) -> None:
            held[bin_index][:, :, start : start + len(frames)] = frames.transpose(1, 2, 0)

        def write() -> None:
            for index, proj in enumerate(held):
                path = self.folder / self.name("projections", index, ".mat")
                savemat(path, {"geo": geo, "angles": angles, "proj": proj})

        stack.callback(write)
        return take


def _of_position(stem: str, position: int | None) -> str:
    """How the name of field frames of a camera position begins."""
    return stem if position is None else f"{stem}-pos{position}"


def _quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False)
