# SPDX-License-Identifier: Apache-2.0
"""Join what the files of a scan say with its companion description into one `Scan`."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ingest.camera_positions import view_positions
from ingest.described_geometry import build_geometry, override_geometry
from ingest.errors import ScanDescriptionError
from ingest.scan import Content, EnergyBin, Exposure, FieldFrames, ParallelBeam, PixelType, Scan
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.config import FieldKind, ScanDescription


def describe_scan(
    description: ScanDescription,
    source: Path,
    *,
    source_format: str,
    pixel_type: PixelType,
    n_views: int,
    n_rows: int,
    n_cols: int,
    n_bins: int = 1,
    bins: tuple[EnergyBin, ...] = (),
    left_out: tuple[int, ...] = (),
    content: Content = "counts",
    white_level: float | None = None,
    geometry: ConeBeamGeometry | ParallelBeam | None = None,
    flats: FieldFrames | None = None,
    darks: FieldFrames | None = None,
    name: str = "",
    acquired: str = "",
    manufacturer: str = "",
    model: str = "",
    station: str = "",
    exposure: Exposure | None = None,
    notes: tuple[str, ...] = (),
    honoured: tuple[str, ...] = (),
) -> Scan:
    """Join what the files say (the arguments) with the description, which wins wherever it says something.

    Parameters
    ----------
    n_bins : energy bins in the frames; `bins` names them if the files do.
    name : what the files call the scan; the source's own name if they do not.
    left_out : positions of views that do not exist in the series that the description's angles are for.
    geometry : what the files say; a ``[geometry]`` with a kind replaces it, one without a kind places its panel
        otherwise, and a note says so.
    honoured : keys of a ``[geometry]`` without a kind that the reader has taken into account in `geometry`.

    Raises
    ------
    ScanDescriptionError
        If the description contradicts the frames, or the scan is not valid.
    """
    said = description.scan
    if description.gives_geometry:
        if geometry is not None:
            # The file's name only: notes are part of the scan's identity, which must not hang on where it lies.
            named = description.path.name if description.path is not None else "the description"
            notes = (*notes, f"The geometry is that of {named}, not of the {source_format} files.")
        geometry = _leave_out(build_geometry(description, n_views + len(left_out), n_rows, n_cols), left_out)
    else:
        geometry, overridden = override_geometry(description, geometry, source_format, honoured)
        notes = (*notes, *overridden)
    _require_fields(description, source_format, flats, darks)
    content = said.content or content
    level = said.white_level if said.white_level is not None else white_level
    return Scan(
        scan_id=said.id or clean_scan_id(name) or default_scan_id(source),
        source_format=source_format,
        content=content,
        bins=_choose_bins(description, bins, n_bins),
        pixel_type=pixel_type,
        n_views=n_views,
        n_rows=n_rows,
        n_cols=n_cols,
        geometry=geometry if isinstance(geometry, ConeBeamGeometry) else None,
        parallel=geometry if isinstance(geometry, ParallelBeam) else None,
        white_level=level if content == "normalized" or said.white_level is not None else None,
        flats=flats,
        darks=darks,
        camera_positions=view_positions(description, n_views, left_out, geometry),
        acquired=said.acquired or acquired,
        manufacturer=said.manufacturer or manufacturer,
        model=said.model or model,
        station=said.station or station,
        exposure=_join_exposure(description.exposure, exposure or Exposure()),
        subject=description.subject,
        order=description.order,
        notes=notes,
    )


def default_scan_id(source: Path) -> str:
    """Return a scan id made of the source's name: what an id cannot hold becomes ``-``."""
    path = source.absolute()
    return clean_scan_id(path.name if path.is_dir() else path.stem) or "scan"


def clean_scan_id(name: str) -> str:
    """Return a name as a scan id: what an id cannot hold becomes ``-``; "" if nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:64]


def _require_fields(
    description: ScanDescription, source_format: str, flats: FieldFrames | None, darks: FieldFrames | None
) -> None:
    """Refuse field frames of camera positions that the reader has not taken."""
    kinds: tuple[tuple[FieldKind, FieldFrames | None], ...] = (("flats", flats), ("darks", darks))
    for kind, frames in kinds:
        if description.by_position(kind) and not (frames is not None and frames.by_position):
            raise ScanDescriptionError(
                f"{description.name}: [[camera_positions]] name {kind}, which the {source_format} reader does not take "
                "for this scan: leave them out, or convert the scan to TIFF or NumPy files"
            )


def _leave_out(
    geometry: ConeBeamGeometry | ParallelBeam | None, left_out: tuple[int, ...]
) -> ConeBeamGeometry | ParallelBeam | None:
    """The geometry of the views that exist."""
    if isinstance(geometry, ConeBeamGeometry):
        return geometry.select([i for i in range(geometry.n_views) if i not in left_out]) if left_out else geometry
    if geometry is not None:
        kept = tuple(angle for i, angle in enumerate(geometry.angles_rad) if i not in left_out)
        return replace(geometry, angles_rad=kept)
    return None


def _choose_bins(description: ScanDescription, bins: tuple[EnergyBin, ...], n_bins: int) -> tuple[EnergyBin, ...]:
    """The energy bins, which must be as many as the frames have."""
    chosen = description.bins or bins or tuple(EnergyBin(index) for index in range(n_bins))
    if len(chosen) != n_bins:
        raise ScanDescriptionError(
            f"{description.name}: got {len(chosen)} energy bins for frames with {n_bins}: give one [[bins]] for each"
        )
    return chosen


def _join_exposure(said: Exposure, found: Exposure) -> Exposure:
    """The description's exposure, filled up with what the files say."""
    return Exposure(**(asdict(found) | {key: value for key, value in asdict(said).items() if value is not None}))
