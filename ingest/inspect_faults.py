# SPDX-License-Identifier: Apache-2.0
"""Faults that a few views, the flat and dark frames and the geometry give away, each as one plain sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reconstruction.orbits import camera_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ingest.frame_statistics import BinStatistics
    from ingest.inspect_geometry import GeometryFacts
    from ingest.scan import Scan

#: A pixel whose flat field is below this share of the median is dead.
DEAD_SHARE = 0.1
#: One whose flat field is above this multiple of the median, or whose dark field is above it by this share, is hot.
HOT_MULTIPLE = 3.0
HOT_DARK_SHARE = 0.1
#: An edge of the panel that lets less than this through is covered by the sample.
EDGE_TRANSMISSION = 0.85
#: ... if it is so in this share of the views.
EDGE_VIEWS = 0.25
SATURATED_SHARE = 1e-4
ZERO_SHARE = 1e-2
BAD_SHARE = 1e-2
#: A step between views may differ from the mean one by this share of it.
STEP_SHARE = 0.01
#: Pixel pitches and ways from source to detector that there are [mm], and the least arc of a scan [deg].
PITCHES_MM = (1e-4, 10.0)
DISTANCES_MM = (2.0, 20_000.0)
LEAST_ARC_DEG = 7.0
_EDGE_BANDS = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; a fault spoils the result, a remark is worth knowing."""

    severity: Literal["fault", "remark"]
    text: str


@dataclass(frozen=True, slots=True)
class PixelFaults:
    """Counts of pixels: known to be bad, dead (no counts) and hot (too many); the last two leave the known ones out."""

    n_known: int
    n_dead: int
    n_hot: int


def find_pixel_faults(
    fields: Sequence[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]],
    always_zero: NDArray[np.bool_],
    known_bad: NDArray[np.bool_] | None,
) -> PixelFaults:
    """Count the faulty pixels of one energy bin.

    Parameters
    ----------
    fields : ((row, col) float32 or None, (row, col) float32 or None)
        Mean flat and dark field; of each camera position if they have their own: what is faulty at one counts.
    always_zero : (row, col) bool
        Pixels that counted nothing in all sampled views.
    known_bad : (row, col) bool or None
    """
    found = [_faulty(flat, dark, always_zero) for flat, dark in fields]
    dead, hot = (np.logical_or.reduce(masks) for masks in zip(*found, strict=True))
    unknown = np.ones_like(always_zero) if known_bad is None else ~known_bad
    return PixelFaults(
        n_known=0 if known_bad is None else int(np.count_nonzero(known_bad)),
        n_dead=int(np.count_nonzero(dead & unknown)),
        n_hot=int(np.count_nonzero(hot & unknown)),
    )


def _faulty(
    flat: NDArray[np.float32] | None, dark: NDArray[np.float32] | None, always_zero: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Dead and hot pixels (row, col) by one mean flat and dark field."""
    dead, hot = always_zero, np.zeros_like(always_zero)
    if flat is not None:
        net = flat if dark is None else flat - dark
        median = float(np.median(net))
        if median > 0:
            dead = net < DEAD_SHARE * median
            hot = net > HOT_MULTIPLE * median
            if dark is not None:
                hot = hot | (dark > np.median(dark) + HOT_DARK_SHARE * median)
    return dead, hot


def truncated_sides(
    scan: Scan, frame: NDArray[Any], flats: NDArray[np.float32] | None, darks: NDArray[np.float32] | None
) -> tuple[bool, bool]:
    """Whether the sample covers the panel's first, and its last columns in a view (bin, row, col).

    Without flat frames raw counts cannot tell.
    """
    width = max(1, scan.n_cols // 100)
    sides = []
    for columns in (slice(0, width), slice(scan.n_cols - width, scan.n_cols)):
        edge = frame[..., columns].astype(np.float64).mean(axis=0)
        if scan.content == "line_integrals":
            edge = np.exp(-edge)
        elif scan.content == "normalized":
            edge = edge / (scan.white_level or 1.0)
        elif flats is not None:
            dark = 0.0 if darks is None else darks[..., columns].mean(axis=0, dtype=np.float64)
            edge = (edge - dark) / np.maximum(flats[..., columns].mean(axis=0, dtype=np.float64) - dark, 1e-9)
        else:
            return False, False
        # Bands of rows rather than pixels: photon noise alone must not look like a sample.
        bands = np.array_split(edge, min(_EDGE_BANDS, max(1, len(edge) // 4)))
        sides.append(any(float(np.median(band)) < EDGE_TRANSMISSION for band in bands))
    return sides[0], sides[1]


def find_faults(
    scan: Scan,
    geometry: GeometryFacts | None,
    available_views: int,
    bins: Sequence[tuple[BinStatistics, PixelFaults]],
    truncated: NDArray[Any],
) -> tuple[Finding, ...]:
    """Return the findings, faults first.

    Parameters
    ----------
    truncated : (2,) float
        Share of the sampled views in which the sample covers the panel's first, and last columns.
    """
    found = [
        *described_findings(scan, geometry, available_views),
        *(finding for statistics, faults in bins for finding in _bin_findings(scan, statistics, faults)),
    ]
    for share, side in zip(truncated, ("first", "last"), strict=True):
        if share > EDGE_VIEWS and not (geometry is not None and geometry.short_side == side):
            found.append(_fault(
                f"the sample covers the {side} columns of the panel in {share:.0%} of the views that were looked at: "
                "it is truncated, and values near its rim will be too high"
            ))  # fmt: skip
    return tuple(sorted(found, key=lambda finding: finding.severity != "fault"))


def described_findings(scan: Scan, geometry: GeometryFacts | None, available_views: int) -> list[Finding]:
    """Return what the description and the poses tell, without a look at the pixels."""
    found = list(_scan_findings(scan, available_views))
    if geometry is not None:
        found += [*_geometry_findings(scan, geometry), *_unit_findings(scan, geometry)]
    return found


def _scan_findings(scan: Scan, available_views: int) -> Iterator[Finding]:
    """What the description alone tells."""
    if available_views < scan.n_views:
        yield _fault(f"{available_views} of {scan.n_views} views are there")
    if scan.parallel is not None:
        yield _remark("the beam is parallel: the scan can be looked at, but not reconstructed")
    elif scan.geometry is None:
        yield _fault("there is no geometry: give one in a scan.toml")
    if scan.content == "counts":
        if scan.flats is None:
            yield _fault("there are no flat frames: counts cannot be turned into attenuation")
        if scan.darks is None and any(energy_bin.kind == "integrating" for energy_bin in scan.bins):
            yield _remark("there are no dark frames: the dark current of an integrating detector stays in the counts")
        yield from _position_findings(scan)


def _position_findings(scan: Scan) -> Iterator[Finding]:
    """How the field frames go with the places of the camera that the poses show."""
    if scan.geometry is None or scan.flats is None:
        return
    shown = camera_positions(scan.geometry)
    n_shown = int(shown.max()) + 1
    if n_shown > 1 and not scan.flats.by_position:
        yield _remark(
            f"the poses show {n_shown} camera positions, but one set of flat frames serves all: name flats for each in "
            "[[camera_positions]] if the beam is not the same everywhere"
        )
    elif scan.flats.by_position:
        for position in range(scan.n_positions):
            places = np.unique(shown[np.array(scan.camera_positions) == position])
            if places.size > 1:
                yield _fault(
                    f"the views of camera position {position} stand at {places.size} different places by their poses: "
                    "their flat frames are those of one of them at most"
                )


def _geometry_findings(scan: Scan, geometry: GeometryFacts) -> Iterator[Finding]:
    """What the poses tell."""
    n_views, wanted = round(geometry.views_per_turn), math.ceil(math.pi / 2 * geometry.panel_columns)
    if n_views < wanted:
        yield _remark(
            f"{n_views} views are few for {geometry.panel_columns} columns: at the rim of the field the panel's "
            f"resolution wants pi/2 x {geometry.panel_columns} = {wanted}; streaks are likely"
        )
    if geometry.field_radius_mm <= 0:
        yield _fault(
            "the panel does not see the rotation axis on both sides in every view: it ends "
            f"{-geometry.field_radius_mm:.3f} mm from it"
        )
    elif geometry.short_side is not None:
        yield _remark(
            f"the panel is offset: it sees {geometry.field_radius_mm:.3f} mm on one side of the axis and "
            f"{geometry.reach_radius_mm:.3f} mm on the other"
        )
    if not geometry.is_full_turn and scan.n_views > 1:
        yield _remark(f"the views cover {geometry.arc_deg:.2f} degrees, not a full turn")
    if scan.n_views == 1:
        yield _fault("there is one view only")
    if geometry.step_deviation_deg > STEP_SHARE * geometry.step_deg:
        yield _remark(
            f"the views are not evenly spaced: steps differ by up to {geometry.step_deviation_deg:.4f} degrees from "
            f"their mean {geometry.step_deg:.4f}"
        )
    if geometry.orbit.startswith("neither"):
        yield _fault(
            "the source moves on no circle, stack of circles or helix: such a scan is refused; its parts may be one"
        )
    elif geometry.orbit == "circle":
        yield _remark("the poses of the views are not exactly those of one circle: each view is taken with its own")


def _unit_findings(scan: Scan, geometry: GeometryFacts) -> Iterator[Finding]:
    """Lengths and angles that look like those of another unit."""
    pitch = max(geometry.pitch_mm)
    if not PITCHES_MM[0] <= pitch <= PITCHES_MM[1]:
        yield _fault(f"a pixel pitch of {pitch:g} mm cannot be that of a detector: lengths are in mm")
    if not DISTANCES_MM[0] <= geometry.sdd_mm <= DISTANCES_MM[1]:
        yield _fault(f"a way of {geometry.sdd_mm:g} mm from source to detector is not likely: lengths are in mm")
    if scan.n_views > 2 and geometry.arc_deg < LEAST_ARC_DEG:
        yield _fault(f"the views cover {geometry.arc_deg:.4g} degrees only: angles are in degrees, not in radians")


def _bin_findings(scan: Scan, statistics: BinStatistics, faults: PixelFaults) -> Iterator[Finding]:
    """What the pixels of one energy bin tell."""
    where = f"bin {statistics.bin_index}"
    if statistics.minimum == statistics.maximum:
        yield _fault(f"{where}: every pixel is {statistics.maximum:g}")
    elif statistics.n_zeros > ZERO_SHARE * statistics.n_pixels and scan.content != "line_integrals":
        yield _fault(f"{where}: {statistics.n_zeros / statistics.n_pixels:.1%} of the pixels counted nothing")
    if statistics.n_saturated > SATURATED_SHARE * statistics.n_pixels:
        yield _fault(f"{where}: {statistics.n_saturated / statistics.n_pixels:.2%} of the pixels are saturated")
    n_pixels = scan.n_rows * scan.n_cols
    for count, kind in ((faults.n_dead, "dead"), (faults.n_hot, "hot")):
        if count:
            text = f"{where}: {count} {kind} pixels that the mask of bad pixels does not name"
            yield _fault(text) if count > BAD_SHARE * n_pixels else _remark(text)


def _fault(text: str) -> Finding:
    return Finding("fault", text)


def _remark(text: str) -> Finding:
    return Finding("remark", text)
