# SPDX-License-Identifier: Apache-2.0
"""Data Exchange (DXchange) HDF5 files: synchrotron scans, parallel beam unless scan.toml gives a cone.

``/exchange/data`` holds the views (theta, y, x), ``data_white`` and ``data_dark`` the flat and dark frames,
``theta`` the angles of the table.  Rows are stored top-down unless ``[geometry] rows`` says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError
from ingest.readers.hdf5_frames import (
    FrameSet,
    Hdf5Reader,
    angles_rad,
    choose_pixel_type,
    describe_fields,
    frame_dataset,
    is_hdf5,
    iso_time,
    length_mm,
    member,
    open_hdf5,
    read_text,
    require_announced_views,
    time_ms,
    turns_clockwise,
)
from ingest.scan import Exposure, ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "dataexchange"
VIEW_AXES = "theta:y:x"


def looks_like(source: Path) -> bool:
    """Whether a file is HDF5 with ``/exchange/data``; damaged HDF5 too, so that opening it says what is wrong."""
    if not source.is_file() or not is_hdf5(source):
        return False
    try:
        file = open_hdf5(source)
    except FrameFormatError:
        return True
    with file:
        return member(file, "exchange/data") is not None


def open_source(source: Path, options: SourceOptions) -> Hdf5Reader:
    """Open a Data Exchange file; frames are read when asked for.

    Raises
    ------
    FrameFormatError
        If the file is cut short, is none of that kind, or its angles, flat or dark frames do not fit the views.
    ScanDescriptionError
        If the description contradicts the file.
    """
    description = load_description(source, options, rows="top-down")
    file = open_hdf5(source)
    try:
        return _open(source, file, description)
    except BaseException:
        file.close()
        raise


def _open(source: Path, file: Any, description: ScanDescription) -> Hdf5Reader:
    """See `open_source`."""
    views = FrameSet.whole(frame_dataset(member(file, "exchange/data"), source, "/exchange/data"))
    axes = views.dataset.attrs.get("axes", VIEW_AXES)
    axes = axes.decode() if isinstance(axes, bytes) else str(axes)
    if axes.replace(" ", "") != VIEW_AXES:
        raise FrameFormatError(f"{source}: /exchange/data has the axes '{axes}', expected '{VIEW_AXES}'")
    require_announced_views(views.count, description, source)
    white, dark = (_field(source, file, f"exchange/{name}", views) for name in ("data_white", "data_dark"))
    flats, said_flats = describe_fields("flats", white, description, source)
    darks, said_darks = describe_fields("darks", dark, description, source)
    n_views, n_rows, n_cols = views.dataset.shape
    parallel, notes = _parallel_beam(source, file, n_views, description)
    detector = member(file, "measurement/instrument/detector")
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=choose_pixel_type((views, flats, darks), source),
        n_views=n_views,
        n_rows=n_rows,
        n_cols=n_cols,
        geometry=parallel,
        flats=said_flats,
        darks=said_darks,
        acquired=_acquired(file),
        manufacturer=_detector_text(detector, "manufacturer"),
        model=_detector_text(detector, "model"),
        exposure=_exposure(source, detector),
        notes=notes,
        honoured=("sense", "table_turns"),
    )
    return Hdf5Reader(scan, source, file, description, views, flats, darks)


def _field(source: Path, file: Any, name: str, views: FrameSet) -> FrameSet | None:
    """Flat or dark frames of the views' size, or None if there are none."""
    node = member(file, name)
    if node is None:
        return None
    dataset = frame_dataset(node, source, f"/{name}")
    if dataset.shape[1:] != views.dataset.shape[1:]:
        raise FrameFormatError(
            f"{source}: /{name} has frames of {dataset.shape[1]} rows x {dataset.shape[2]} columns, "
            f"expected {views.dataset.shape[1]} x {views.dataset.shape[2]} as /exchange/data"
        )
    return FrameSet.whole(dataset)


def _parallel_beam(
    source: Path, file: Any, n_views: int, description: ScanDescription
) -> tuple[ParallelBeam | None, tuple[str, ...]]:
    """The angles, and what was assumed; a table that turns by +t is a view angle of -t."""
    theta = member(file, "exchange/theta")
    if theta is None:
        return None, ("The file gives no angles (exchange/theta).",)
    angles = angles_rad(theta, source)
    if angles.size != n_views:
        raise FrameFormatError(f"{source}: /exchange/theta holds {angles.size} angles for {n_views} views")
    beta = angles if turns_clockwise(description) else 0.0 - angles
    pitch_u = _pitch_mm(source, file, "x")
    pitch_v = _pitch_mm(source, file, "y")
    note = "Parallel beam: Data Exchange gives no source distance."
    return ParallelBeam(tuple(beta.tolist()), pitch_u, pitch_v if pitch_v is not None else pitch_u), (note,)


def _pitch_mm(source: Path, file: Any, axis: str) -> float | None:
    """Pixel pitch in the sample, or of the detector; None if the file does not say."""
    for name in (f"actual_pixel_size_{axis}", f"pixel_size_{axis}"):
        dataset = member(file, f"measurement/instrument/detector/{name}")
        if dataset is not None:
            pitch = length_mm(dataset, source, default_unit="m")
            return pitch if pitch > 0 else None
    return None


def _exposure(source: Path, detector: Any) -> Exposure:
    """Exposure time of a view, if the file says."""
    dataset = None if detector is None else member(detector, "exposure_time")
    return Exposure(exposure_time_ms=None if dataset is None else time_ms(dataset, source))


def _detector_text(detector: Any, name: str) -> str:
    """A text about the detector."""
    return "" if detector is None else read_text(member(detector, name))


def _acquired(file: Any) -> str:
    """When the scan began, if the file says so in ISO 8601."""
    return iso_time(read_text(member(file, "process/acquisition/start_date")))
