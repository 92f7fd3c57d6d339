# SPDX-License-Identifier: Apache-2.0
"""Looks a scan over before anybody computes on it: geometry, views, bins, statistics and faults.

Works on a source as a reader opens it, and on a stored scan; only some views are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.errors import IncompleteScanError
from ingest.frame_statistics import BinStatistics, add_statistics
from ingest.frames import check_frames
from ingest.inspect_faults import Finding, PixelFaults, find_faults, find_pixel_faults, truncated_sides
from ingest.inspect_geometry import GeometryFacts, geometry_facts
from reconstruction.orbits import camera_positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from ingest.readers import ScanReader
    from ingest.scan import FieldFrames, Scan

#: Views that are read of a source.
SOURCE_SAMPLE_VIEWS = 12
#: Views that are read of a stored scan, where one view costs its whole view block, and bytes for them at most.
STORED_SAMPLE_VIEWS = 4
STORED_SAMPLE_BYTES = 4_000_000_000
PERCENTILES = (1.0, 50.0, 99.0)
#: Pixels of a frame that go into the percentiles, about.
_PERCENTILE_PIXELS = 50_000


@dataclass(frozen=True, slots=True)
class BinInspection:
    """One energy bin: statistics and percentiles (1, 50, 99 %) of the sampled views, and its faulty pixels."""

    label: str
    statistics: BinStatistics
    percentiles: tuple[float, float, float]
    faults: PixelFaults


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes
    ----------
    scan : the scan's description.
    where : ``source`` or ``store``.
    available_views : how many views are there now.
    sampled_views : indices of the views that the statistics are drawn from.
    geometry : None without a cone-beam geometry.
    bins : one entry for each energy bin.
    findings : faults first, then remarks, as plain sentences.
    stored_bytes, manifest_sha256 : of a stored scan, else None.
    """

    scan: Scan
    where: Literal["source", "store"]
    available_views: int
    sampled_views: tuple[int, ...]
    geometry: GeometryFacts | None
    bins: tuple[BinInspection, ...]
    findings: tuple[Finding, ...]
    stored_bytes: int | None = None
    manifest_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values, the scan reduced to its sizes; no patient's name among them."""
        scan = self.scan
        return {
            "scan_id": scan.scan_id,
            "source_format": scan.source_format,
            "where": self.where,
            "content": scan.content,
            "pixel_type": scan.pixel_type,
            "shape": [len(scan.bins), scan.n_views, scan.n_rows, scan.n_cols],
            "available_views": self.available_views,
            "sampled_views": list(self.sampled_views),
            "n_flats": 0 if scan.flats is None else scan.flats.count,
            "n_darks": 0 if scan.darks is None else scan.darks.count,
            "views_at_positions": _views_at_positions(scan),
            "flats_at_positions": [] if scan.flats is None else list(scan.flats.position_counts),
            "darks_at_positions": [] if scan.darks is None else list(scan.darks.position_counts),
            "geometry": None if self.geometry is None else asdict(self.geometry),
            "bins": [asdict(found) for found in self.bins],
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(scan.notes),
            "stored_bytes": self.stored_bytes,
            "manifest_sha256": self.manifest_sha256,
        }


def inspect_source(reader: ScanReader, *, sample_views: int = SOURCE_SAMPLE_VIEWS) -> Inspection:
    """Look over a source.

    Parameters
    ----------
    reader : the opened source; it may still be written.
    sample_views : how many views to read, one at a time.

    Raises
    ------
    IncompleteScanError
        If no view is there yet.
    FrameFormatError
        If frames cannot be read, or hold NaN, infinite or negative counts.
    """
    scan = reader.scan
    available = min(reader.available_views(), scan.n_views)
    if available < 1:
        raise IncompleteScanError(f"scan {scan.scan_id}: none of its {scan.n_views} views is there yet")
    return _inspect(
        scan,
        where="source",
        available=available,
        views=_spread(available, sample_views),
        read_view=lambda view: reader.read_views(view, view + 1)[:, 0],
        fields=tuple(
            (_mean_of(scan.flats, reader.read_flats, at), _mean_of(scan.darks, reader.read_darks, at))
            for at in scan.field_positions
        ),
        known_bad=reader.read_bad_pixels(),
    )


def inspect_stored(stored: StoredScan, *, sample_views: int = STORED_SAMPLE_VIEWS) -> Inspection:
    """Look over a stored scan; the views are those of `sample_views` view blocks, fewer if blocks are large.

    Raises
    ------
    ChunkCorruptError
        If what is read is not what was written.
    """
    scan, layout = stored.scan, stored.layout
    bins = range(len(scan.bins))
    block_bytes = layout.view_block * layout.view_bytes
    n_views = max(1, min(sample_views, STORED_SAMPLE_BYTES // block_bytes))

    def mean_frames(read: Callable[..., NDArray[Any] | None], position: int | None) -> NDArray[np.float32] | None:
        frames = [read(index, position=position) for index in bins]
        return _mean_frame(np.stack([f for f in frames if f is not None])) if frames[0] is not None else None

    return _inspect(
        scan,
        where="store",
        available=scan.n_views,
        views=_spread(scan.n_views, n_views),
        read_view=lambda view: np.stack([stored.read_view(index, view) for index in bins]),
        fields=tuple(
            (mean_frames(stored.read_flats, at), mean_frames(stored.read_darks, at)) for at in scan.field_positions
        ),
        known_bad=stored.read_bad_pixels(),
        stored_bytes=stored.manifest.stored_bytes,
        manifest_sha256=stored.manifest_sha256,
    )


def inspection_table(inspection: Inspection) -> list[tuple[str, str]]:
    """Return what was found as pairs of a label and a text, to be printed; findings are left out."""
    scan, geometry = inspection.scan, inspection.geometry
    rows = [
        ("scan", f"{scan.scan_id} ({inspection.where}, {scan.source_format}, {scan.content}, {scan.pixel_type})"),
        ("panel", f"{scan.n_rows} rows x {scan.n_cols} columns"),
        ("views", f"{inspection.available_views} of {scan.n_views}"),
        ("flat frames", _count_text(scan.flats)),
        ("dark frames", _count_text(scan.darks)),
    ]
    if scan.camera_positions:
        counts = _views_at_positions(scan)
        rows.insert(3, ("camera positions", f"{len(counts)}, of {', '.join(map(str, counts))} views"))
    if inspection.stored_bytes is not None:
        rows.append(("stored", f"{inspection.stored_bytes / 1e6:.1f} MB, sha256 {inspection.manifest_sha256}"))
    if geometry is not None:
        center = (
            "-" if geometry.center_col is None else f"column {geometry.center_col:.2f}, row {geometry.center_row:.2f}"
        )
        rows += [
            ("orbit", geometry.orbit),
            ("source to axis, to detector", f"{geometry.sod_mm:.3f} mm, {geometry.sdd_mm:.3f} mm"),
            ("magnification", f"{geometry.magnification:.4f}"),
            ("pixel pitch (v, u)", "{:.5f} x {:.5f} mm".format(*geometry.pitch_mm)),
            ("voxel at the axis (v, u)", "{:.5f} x {:.5f} mm".format(*geometry.voxel_mm)),
            ("central ray", center),
            ("field", f"radius {geometry.field_radius_mm:.3f} mm, height {geometry.field_height_mm:.3f} mm"),
            ("fan, cone angle", f"{geometry.fan_angle_deg:.2f}, {geometry.cone_angle_deg:.2f} degrees"),
            ("arc", f"{geometry.arc_deg:.2f} degrees, {geometry.sense}"),
            ("step", f"{geometry.step_deg:.4f} +- {geometry.step_deviation_deg:.4f} degrees"),
        ]
    for found in inspection.bins:
        s, (low, median, high) = found.statistics, found.percentiles
        text = (
            f"mean {s.mean:.6g}, {s.minimum:.6g} to {s.maximum:.6g}; 1, 50, 99 %: {low:.6g}, {median:.6g}, {high:.6g}"
        )
        rows.append((f"bin {s.bin_index}: {found.label}", f"{text}; {s.n_zeros} zeros, {s.n_saturated} saturated"))
    return rows


def _inspect(
    scan: Scan,
    *,
    where: Literal["source", "store"],
    available: int,
    views: tuple[int, ...],
    read_view: Callable[[int], NDArray[Any]],
    fields: tuple[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None], ...],
    known_bad: NDArray[np.bool_] | None,
    stored_bytes: int | None = None,
    manifest_sha256: str | None = None,
) -> Inspection:
    """Read the sample view by view and draw the conclusions; `fields` are mean flats and darks (bin, row, col)."""
    statistics: tuple[BinStatistics, ...] | None = None
    samples: list[NDArray[Any]] = []
    # A line integral of 0 is air, a count of 0 in every view a dead pixel.
    always_zero = np.full((len(scan.bins), scan.n_rows, scan.n_cols), scan.content != "line_integrals")
    truncated: list[tuple[bool, bool]] = []
    stride = max(1, scan.n_rows * scan.n_cols // _PERCENTILE_PIXELS)
    for view in views:
        frame = read_view(view)
        check_frames(frame[:, None], view, f"scan {scan.scan_id}", content=scan.content)
        statistics = add_statistics(statistics, frame[:, None])
        samples.append(frame.reshape(len(frame), -1)[:, ::stride].copy())
        always_zero &= frame == 0
        truncated.append(truncated_sides(scan, frame, *fields[scan.camera_positions[view] if len(fields) > 1 else 0]))
    geometry = None if scan.geometry is None else geometry_facts(scan.geometry)
    percentiles = np.percentile(np.concatenate(samples, axis=1), PERCENTILES, axis=1).T
    bins = tuple(
        BinInspection(
            label=energy_bin.label,
            statistics=found,
            percentiles=(float(values[0]), float(values[1]), float(values[2])),
            faults=find_pixel_faults(
                [
                    (None if flat is None else flat[index], None if dark is None else dark[index])
                    for flat, dark in fields
                ],
                always_zero[index],
                known_bad,
            ),
        )
        for index, (energy_bin, found, values) in enumerate(zip(scan.bins, statistics or (), percentiles, strict=True))
    )
    return Inspection(
        scan=scan,
        where=where,
        available_views=available,
        sampled_views=views,
        geometry=geometry,
        bins=bins,
        findings=find_faults(
            scan,
            geometry,
            available,
            [(b.statistics, b.faults) for b in bins],
            _truncated_shares(scan, views, np.array(truncated)),
        ),
        stored_bytes=stored_bytes,
        manifest_sha256=manifest_sha256,
    )


def _truncated_shares(scan: Scan, views: tuple[int, ...], truncated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the views in which the sample covers the first, and the last columns; of the outer camera positions."""
    if scan.geometry is None:
        return np.asarray(truncated.mean(axis=0), dtype=np.float64)
    positions = camera_positions(scan.geometry)
    outer = [truncated[positions[list(views)] == last, side] for side, last in enumerate((0, positions.max()))]
    return np.array([side.mean() if side.size else 0.0 for side in outer])


def _spread(n_views: int, n_sampled: int) -> tuple[int, ...]:
    """Indices of views spread evenly over the scan."""
    count = max(1, min(n_views, n_sampled))
    return tuple(int(i) for i in np.arange(count) * n_views // count)


def _views_at_positions(scan: Scan) -> list[int]:
    """Views at each camera position; [] where they are not told apart."""
    return (
        [scan.camera_positions.count(position) for position in range(scan.n_positions)] if scan.camera_positions else []
    )


def _count_text(frames: FieldFrames | None) -> str:
    """How many flat or dark frames there are, and at which camera positions."""
    if frames is None:
        return "none"
    if not frames.by_position:
        return str(frames.count)
    return f"{frames.count}: {', '.join(map(str, frames.position_counts))} at the camera positions"


def _mean_of(
    described: FieldFrames | None, read: Callable[..., NDArray[Any] | None], position: int | None
) -> NDArray[np.float32] | None:
    """Mean of a source's flat or dark frames that serve a camera position's views (bin, row, col), or None."""
    apart = described is not None and described.by_position
    return _mean_frame(read(position) if apart else read())


def _mean_frame(frames: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """Mean over the frames (bin, frame, row, col) as (bin, row, col), or None."""
    return None if frames is None else frames.mean(axis=1, dtype=np.float32)
