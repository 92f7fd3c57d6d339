# SPDX-License-Identifier: Apache-2.0
"""NXtomo (NeXus) HDF5 files.

``instrument/detector/data`` holds all frames, ``image_key`` says what each is (0 view, 1 flat, 2 dark, 3 invalid,
-1 alignment; ``image_key_control`` wins where it says alignment), ``sample/rotation_angle`` where the table stood.

Cone beam if ``instrument/source/distance`` is given and the source is not a synchrotron: its absolute value is
source to rotation axis, ``instrument/detector/distance`` the axis to the detector, ``x_pixel_size`` and
``y_pixel_size`` the detector's pitch, ``x_rotation_axis_pixel_position`` the axis, in pixels from the middle of
the panel.  Parallel beam otherwise.  The table's angle rises counter-clockwise seen from +z and rows are stored
top-down, unless ``[geometry]`` says otherwise (``table_turns``, ``rows``, ``cols``).

Setting: ``entry``, the entry to read where a file holds several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.fields import convert
from ingest.frames import stored_pixel_type
from ingest.readers.hdf5_frames import (
    FrameSet,
    Hdf5Reader,
    angles_rad,
    describe_fields,
    frame_dataset,
    is_hdf5,
    iso_time,
    length_mm,
    member,
    open_hdf5,
    read_text,
    read_values,
    require_announced_views,
    time_ms,
    turns_clockwise,
)
from ingest.scan import Exposure, ParallelBeam
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "nxtomo"
DATA = "instrument/detector/data"
IMAGE_KEY = "instrument/detector/image_key"
VIEW, FLAT, DARK, INVALID, ALIGNMENT = 0, 1, 2, 3, -1


def looks_like(source: Path) -> bool:
    """Whether a file is HDF5 with an entry that has frames and an image key; a damaged .nx or .nxs file too."""
    if not source.is_file() or not is_hdf5(source):
        return False
    try:
        file = open_hdf5(source)
    except FrameFormatError:
        return source.suffix.lower() in (".nx", ".nxs", ".nexus")
    with file:
        return bool(_entries(file))


def open_source(source: Path, options: SourceOptions) -> Hdf5Reader:
    """Open an NXtomo file; frames are read when asked for.

    Raises
    ------
    FrameFormatError
        If the file is cut short, is none of that kind, or image keys or angles are not one for each frame.
    ScanDescriptionError
        If the description or a setting contradicts the file.
    """
    description = load_description(source, options, rows="top-down", known_settings=("entry",))
    file = open_hdf5(source)
    try:
        return _open(source, file, description)
    except BaseException:
        file.close()
        raise


def _open(source: Path, file: Any, description: ScanDescription) -> Hdf5Reader:
    """See `open_source`."""
    entry = _choose_entry(source, file, description)
    data = frame_dataset(member(entry, DATA), source, f"{entry.name}/{DATA}")
    n_frames, n_rows, n_cols = data.shape
    keys = _image_keys(source, entry, n_frames)
    views, all_flats, all_darks = (FrameSet(data, np.flatnonzero(keys == key)) for key in (VIEW, FLAT, DARK))
    if views.count == 0:
        raise FrameFormatError(f"{source}: none of the {n_frames} frames is a projection (image_key 0)")
    require_announced_views(views.count, description, source)
    flats, said_flats = describe_fields("flats", all_flats, description, source)
    darks, said_darks = describe_fields("darks", all_darks, description, source)
    notes = []
    left = int(np.isin(keys, (INVALID, ALIGNMENT)).sum())
    if left:
        notes.append(f"{left} alignment or invalid frames are left out.")
    beta = _view_angles(source, entry, n_frames, views, description)
    geometry = None
    if beta is None:
        notes.append("The file gives no angles (sample/rotation_angle).")
    else:
        geometry, note = _geometry(source, entry, beta, (n_rows, n_cols), description)
        notes.append(note)
    detector = entry["instrument/detector"]
    count_time = member(detector, "count_time")
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=stored_pixel_type(data.dtype, source),
        n_views=views.count,
        n_rows=n_rows,
        n_cols=n_cols,
        geometry=geometry,
        flats=said_flats,
        darks=said_darks,
        acquired=iso_time(read_text(member(entry, "start_time"))),
        model=read_text(member(detector, "model")),
        station=read_text(member(entry, "instrument/name")),
        exposure=Exposure(exposure_time_ms=None if count_time is None else time_ms(count_time, source)),
        notes=tuple(notes),
        honoured=("sense", "table_turns"),
    )
    return Hdf5Reader(
        scan,
        source,
        file,
        description,
        views,
        flats,
        darks,
        _pixel_mask(source, detector, (n_rows, n_cols)),
    )


def _entries(file: Any) -> list[str]:
    """Names of the entries that hold frames and image keys."""
    return [
        name
        for name in file
        if hasattr(member(file, name), "keys")
        and member(file[name], DATA) is not None
        and member(file[name], IMAGE_KEY) is not None
    ]


def _choose_entry(source: Path, file: Any, description: ScanDescription) -> Any:
    """The entry to read: the only one, or the one that the setting names."""
    names = _entries(file)
    wanted = description.settings.get("entry")
    if wanted is not None:
        wanted = convert(wanted, str, f"{description.name}: setting entry")
        if wanted not in names:
            raise ScanDescriptionError(f"{source}: no entry '{wanted}', expected one of {', '.join(names) or 'none'}")
        return file[wanted]
    if not names:
        raise FrameFormatError(f"{source}: no NXtomo entry with {DATA} and {IMAGE_KEY}")
    if len(names) > 1:
        raise FrameFormatError(
            f"{source} holds the entries {', '.join(names)}: choose one by the setting 'entry' (--set entry={names[0]})"
        )
    return file[names[0]]


def _image_keys(source: Path, entry: Any, n_frames: int) -> NDArray[np.int64]:
    """What each frame is."""
    keys = read_values(entry[IMAGE_KEY], source)
    if keys.size != n_frames:
        raise FrameFormatError(f"{source}: {entry.name}/{IMAGE_KEY} has {keys.size} values for {n_frames} frames")
    unknown = np.flatnonzero(~np.isin(keys, (VIEW, FLAT, DARK, INVALID, ALIGNMENT)))
    if unknown.size:
        raise FrameFormatError(
            f"{source}: frame {int(unknown[0])} has the image key {keys[unknown[0]]:g}, expected -1, 0, 1, 2 or 3"
        )
    control = member(entry, f"{IMAGE_KEY}_control")
    if control is not None:
        control_keys = read_values(control, source)
        if control_keys.size != n_frames:
            raise FrameFormatError(f"{source}: {control.name} has {control_keys.size} values for {n_frames} frames")
        keys = np.where(control_keys == ALIGNMENT, ALIGNMENT, keys)
    return keys.astype(np.int64)


def _view_angles(
    source: Path, entry: Any, n_frames: int, views: FrameSet, description: ScanDescription
) -> NDArray[np.float64] | None:
    """View angles beta [rad]: a table that turns by +t is a view angle of -t.  None if the file has no angles."""
    dataset = member(entry, "sample/rotation_angle")
    if dataset is None:
        return None
    angles = angles_rad(dataset, source)
    if angles.size != n_frames:
        raise FrameFormatError(f"{source}: {dataset.name} holds {angles.size} angles for {n_frames} frames")
    angles = angles[views.frames]
    return angles if turns_clockwise(description) else 0.0 - angles


def _geometry(
    source: Path, entry: Any, beta_rad: NDArray[np.float64], shape: tuple[int, int], description: ScanDescription
) -> tuple[ConeBeamGeometry | ParallelBeam, str]:
    """Cone beam if the file gives all that it takes, else parallel beam; and why."""
    pitch_u, pitch_v = (_pitch_mm(source, entry, f"instrument/detector/{axis}_pixel_size") for axis in "xy")
    parallel = ParallelBeam(tuple(beta_rad.tolist()), pitch_u or None, pitch_v or None)
    source_mm = _optional_length(source, entry, "instrument/source/distance")
    detector_mm = _optional_length(source, entry, "instrument/detector/distance")
    kind = read_text(member(entry, "instrument/source/type"))
    if "synchrotron" in kind.lower():
        return parallel, "Parallel beam: the source is a synchrotron."
    lengths = {"source distance": source_mm, "detector distance": detector_mm, "x_pixel_size": pitch_u}
    missing = [name for name, length in lengths.items() if not length]
    if missing:
        return parallel, f"Parallel beam: the file gives no {missing[0]}."
    assert source_mm is not None
    assert detector_mm is not None
    assert pitch_u is not None
    axis_px, axis_note = _axis_position(source, entry)
    # Pixels are counted as stored: mirrored columns turn the sign round.
    axis_px = -axis_px if description.cols == "right-to-left" else axis_px
    try:
        geometry = ConeBeamGeometry.circular(
            sod_mm=abs(source_mm),
            sdd_mm=abs(source_mm) + abs(detector_mm),
            angles_rad=beta_rad,
            n_rows=shape[0],
            n_cols=shape[1],
            pitch_u_mm=pitch_u,
            pitch_v_mm=pitch_v or pitch_u,
            offset_u_mm=-axis_px * pitch_u,
        )
    except GeometryError as error:
        raise FrameFormatError(f"{source}: {error}") from error
    return geometry, f"Cone beam from the file's source and detector distances{axis_note}."


def _axis_position(source: Path, entry: Any) -> tuple[float, str]:
    """Position of the rotation axis [pixel from the middle of the panel], and a remark."""
    dataset = member(entry, "instrument/detector/x_rotation_axis_pixel_position")
    if dataset is None:
        return 0.0, ", the axis before the middle of the panel"
    values = read_values(dataset, source)
    if values.size != 1:
        raise FrameFormatError(f"{source}: {dataset.name} holds {values.size} numbers, expected one")
    return float(values[0]), f", the axis {values[0]:g} pixels from the middle of the panel"


def _optional_length(source: Path, entry: Any, name: str) -> float | None:
    """A length [mm], or None if it is not there; NeXus's unit is the metre."""
    dataset = member(entry, name)
    return None if dataset is None else length_mm(dataset, source, default_unit="m")


def _pitch_mm(source: Path, entry: Any, name: str) -> float | None:
    """A pixel pitch [mm], or None if it is not there; FrameFormatError if it is negative."""
    pitch = _optional_length(source, entry, name)
    if pitch is not None and pitch < 0:
        raise FrameFormatError(f"{source}: {entry.name}/{name} is {pitch:g} mm, expected a positive length")
    return pitch


def _pixel_mask(source: Path, detector: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """NXdetector's pixel_mask: not zero is bad."""
    dataset = member(detector, "pixel_mask")
    if dataset is None:
        return None
    mask = np.asarray(dataset[()])
    if mask.shape != shape:
        raise FrameFormatError(f"{source}: {dataset.name} has the shape {mask.shape}, expected {shape} as the frames")
    bad: NDArray[np.bool_] = mask != 0
    return bad
