# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scan as PNG: its geometry, and a projection.  Needs matplotlib (the extra ``draw``).

Figures are made without pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import importlib
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import IngestError
from ingest.inspect_geometry import geometry_facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.inspect_geometry import GeometryFacts
    from ingest.scan import Scan
    from reconstruction.geometry import ConeBeamGeometry

_DPI = 130
_INK = "#22303c"
_SOURCE = "#d1495b"
_PANEL = "#00798c"
_FIELD = "#edae49"
_ORBIT = "#8d99a6"
#: Pixels along the longer side of a drawn projection; larger frames are thinned out.
_MAX_PIXELS = 1600
#: Below this share of the drawing the field gets a magnifier.
_SMALL_FIELD = 0.015


def draw_geometry(scan: Scan) -> bytes:
    """Draw a scan's orbit, source, panel and field as PNG: seen from +z, and from the side.

    Raises
    ------
    IngestError
        If the scan has no cone-beam geometry, or matplotlib is missing.
    """
    geometry = scan.geometry
    if geometry is None:
        raise IngestError(f"scan {scan.scan_id} has no cone-beam geometry to draw")
    facts = geometry_facts(geometry)
    figure = _figure((13.0, 6.6))
    figure.suptitle(
        f"Scan {scan.scan_id}: geometry", fontsize=14, color=_INK, x=0.02, y=0.975, ha="left", weight="bold"
    )
    top = figure.add_axes((0.055, 0.2, 0.42, 0.68))
    side = figure.add_axes((0.555, 0.2, 0.42, 0.68))
    _draw_top(top, geometry, facts)
    _draw_side(side, geometry, facts)
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.012, 0.085), ncols=5, frameon=False, fontsize=9,
                  markerscale=1.3)  # fmt: skip
    figure.text(0.02, 0.025, _caption(scan, facts), fontsize=9.5, color=_INK, linespacing=1.5)
    return _png(figure)


def draw_projection(
    frame: NDArray[Any], *, title: str = "", unit: str = "counts", bad_pixels: NDArray[np.bool_] | None = None
) -> bytes:
    """Draw one projection as PNG, row 0 at the bottom, with a scale of grey and a histogram.

    Parameters
    ----------
    frame : (row, col)
        Any numeric type.  Grey goes from the 0.5 % to the 99.5 % percentile.
    title : above the picture.
    unit : of the values.
    bad_pixels : (row, col) bool, optional
        Drawn in red.

    Raises
    ------
    IngestError
        If the array is no image, or matplotlib is missing.
    """
    if frame.ndim != 2 or frame.size == 0:
        raise IngestError(f"a projection to draw has the axes (row, col), got the shape {frame.shape}")
    step = max(1, -(-max(frame.shape) // _MAX_PIXELS))
    shown = frame[::step, ::step].astype(np.float64)
    low, high = np.percentile(shown, [0.5, 99.5])
    if low == high:
        low, high = low - 0.5, high + 0.5
    n_rows, n_cols = frame.shape
    extent = (-0.5, n_cols - 0.5, -0.5, n_rows - 0.5)
    scale = min(8.0 / n_cols, 8.0 / n_rows)
    width, height = max(2.0, n_cols * scale), max(1.5, n_rows * scale)
    figure = _figure((width + 3.5, height + 1.2))
    axes = _add_axes(figure, 0.85, width, height)
    bar = _add_axes(figure, 0.85 + width + 0.15, 0.22, height)
    bins = _add_axes(figure, 0.85 + width + 1.2, 1.2, height)
    image = axes.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest",
                        aspect="auto")  # fmt: skip
    if bad_pixels is not None and bad_pixels.any():
        rows, cols = np.nonzero(bad_pixels)
        axes.plot(cols, rows, "s", color=_SOURCE, markersize=2, label=f"{rows.size} bad pixels")
        axes.legend(loc="upper right", fontsize=9)
    axes.set_xlabel("column (u)")
    axes.set_ylabel("row (v)")
    axes.set_title(title or "projection", loc="left", color=_INK, fontsize=12, weight="bold")
    figure.colorbar(image, cax=bar)
    bar.set_title(unit, loc="left", fontsize=9, color=_INK)
    bins.hist(shown.ravel(), bins=128, range=(low, high), orientation="horizontal", color=_PANEL)
    bins.set_ylim(low, high)
    bins.set_xticks([])
    bins.set_yticks([])
    bins.set_title("histogram", loc="left", fontsize=9, color=_INK)
    for name in ("top", "bottom", "right"):
        bins.spines[name].set_visible(False)
    return _png(figure)


def _add_axes(figure: Any, left: float, width: float, height: float) -> Any:
    """Axes at a place given in inches, above the room for labels."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes((left / total_width, 0.7 / total_height, width / total_width, height / total_height))


def _draw_top(axes: Any, geometry: ConeBeamGeometry, facts: GeometryFacts) -> None:
    """The plane of the orbit, x to the right and y up."""
    poses = geometry.poses
    source, center, half = poses[0, 0:2], poses[0, 3:5], geometry.n_cols / 2 * poses[0, 6:8]
    panel = np.stack([center - half, center + half])
    axes.plot(poses[:, 0], poses[:, 1], ".", color=_ORBIT, markersize=3, label=f"source of {geometry.n_views} views")
    fan = np.vstack([source, panel])
    axes.fill(fan[:, 0], fan[:, 1], color=_SOURCE, alpha=0.10, linewidth=0)
    axes.plot(*np.stack([source, center]).T, color=_SOURCE, linewidth=0.8, linestyle=(0, (6, 3)))
    _draw_field_circle(axes, facts)
    axes.plot(*source, "o", color=_SOURCE, markersize=8, label="source, first view")
    axes.plot(*panel.T, color=_PANEL, linewidth=4, solid_capstyle="butt", label="panel, first view")
    points = np.vstack([poses[:, 0:2], panel, [[0, 0]]])
    size = _frame(axes, points)
    _arrow(axes, (0.0, 0.0), (0.16 * size, 0.0), "x", _INK)
    _arrow(axes, (0.0, 0.0), (0.0, 0.16 * size), "y", _INK)
    u = poses[0, 6:8] / np.linalg.norm(poses[0, 6:8])
    away = (center - source) / np.linalg.norm(center - source)
    _arrow(axes, center + 0.035 * size * away, 0.13 * size * u, "u", _PANEL)
    _draw_sense(axes, geometry, facts, size)
    axes.set_title("seen from +z", loc="left", color=_INK)
    axes.set_xlabel("x [mm]")
    axes.set_ylabel("y [mm]")
    if facts.field_radius_mm < _SMALL_FIELD * size:
        _draw_magnifier(axes, facts, points)


def _draw_field_circle(axes: Any, facts: GeometryFacts) -> None:
    """What all views see, and the rotation axis."""
    angle = np.linspace(0, 2 * math.pi, 200)
    if facts.field_radius_mm > 0:
        x, y = facts.field_radius_mm * np.cos(angle), facts.field_radius_mm * np.sin(angle)
        axes.fill(x, y, color=_FIELD, alpha=0.45, linewidth=0, label="field that all views see")
        axes.plot(x, y, color=_FIELD, linewidth=1.2)
    axes.plot(0, 0, "+", color=_INK, markersize=8, label="rotation axis")


def _draw_magnifier(axes: Any, facts: GeometryFacts, points: NDArray[np.float64]) -> None:
    """The field once more, where it is too small to be seen, in the corner with the most room."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    room = {
        corner: np.hypot(
            points[:, 0] - left - (corner[0] + 0.15) * (right - left),
            points[:, 1] - bottom - (corner[1] + 0.15) * (top - bottom),
        ).min()
        for corner in ((0.66, 0.06), (0.66, 0.66), (0.08, 0.06), (0.08, 0.66))
    }
    corner = max(room, key=lambda corner: float(room[corner]))
    inset = axes.inset_axes((*corner, 0.3, 0.3))
    _draw_field_circle(inset, facts)
    limit = 1.25 * abs(facts.field_radius_mm)
    inset.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    inset.tick_params(labelsize=7, colors=_INK)
    axes.indicate_inset_zoom(inset, edgecolor=_ORBIT)


def _draw_sense(axes: Any, geometry: ConeBeamGeometry, facts: GeometryFacts, size: float) -> None:
    """An arrow along the orbit from the first source position on."""
    if facts.sense not in ("clockwise", "counter-clockwise"):
        return
    start = geometry.source_angles_rad[0]
    radius = facts.sod_mm + 0.04 * size
    turn = min(2.5, max(0.3, 0.22 * size / radius)) * (1 if facts.sense == "counter-clockwise" else -1)
    angles = np.linspace(start + 0.3 * turn, start + turn, 40)
    axes.plot(radius * np.cos(angles), radius * np.sin(angles), color=_SOURCE, linewidth=1.4)
    tip = [radius * np.cos(angles[-1]), radius * np.sin(angles[-1])]
    tail = [radius * np.cos(angles[-4]), radius * np.sin(angles[-4])]
    axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": _SOURCE, "mutation_scale": 14})


def _draw_side(axes: Any, geometry: ConeBeamGeometry, facts: GeometryFacts) -> None:
    """The plane of the axis and the first source: distance along the central ray to the right, z up."""
    pose = geometry.poses[0]
    along = pose[3:5] - pose[0:2]
    along = along / np.linalg.norm(along)

    def plane(point: Any) -> tuple[float, float]:
        return float(point[:2] @ along), float(point[2])

    half = geometry.n_rows / 2 * pose[9:12]
    source = plane(pose[0:3])
    low, high = plane(pose[3:6] - half), plane(pose[3:6] + half)
    axes.fill(*np.array([source, low, high]).T, color=_SOURCE, alpha=0.10, linewidth=0)
    axes.plot(*np.array([source, plane(pose[3:6])]).T, color=_SOURCE, linewidth=0.8, linestyle=(0, (6, 3)))
    radius = max(facts.field_radius_mm, 0.0)
    z = source[1] + (np.array([low[1], high[1]]) - source[1]) * facts.sod_mm / facts.sdd_mm
    axes.fill_betweenx(z, -radius, radius, color=_FIELD, alpha=0.45, linewidth=0)
    axes.plot(*source, "o", color=_SOURCE, markersize=8)
    axes.plot(*np.array([low, high]).T, color=_PANEL, linewidth=4, solid_capstyle="butt")
    size = _frame(axes, np.array([source, low, high, (0.0, z[0]), (0.0, z[1])]))
    axes.axvline(0, color=_INK, linewidth=0.9, linestyle=(0, (8, 3, 2, 3)))
    _arrow(axes, (0.0, 0.0), (0.0, max(0.16 * size, 1.25 * float(z.max()))), "z", _INK)
    middle = plane(pose[3:6])
    _arrow(axes, (middle[0] + 0.035 * size, middle[1]), (0.0, 0.13 * size), "v", _PANEL)
    base = min(low[1], source[1], float(z.min())) - 0.07 * size
    _dimension(axes, source[0], 0.0, base, f"sod {facts.sod_mm:.4g} mm", size)
    _dimension(axes, source[0], middle[0], base - 0.08 * size, f"sdd {facts.sdd_mm:.4g} mm", size)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, base - 0.14 * size), top)
    axes.set_title("seen from the side, first view", loc="left", color=_INK)
    axes.set_xlabel("along the central ray [mm]")
    axes.set_ylabel("z [mm]")


def _dimension(axes: Any, start: float, stop: float, height: float, text: str, size: float) -> None:
    """A dimension line with its length."""
    axes.annotate(
        "", (start, height), (stop, height), arrowprops={"arrowstyle": "<->", "color": _INK, "linewidth": 0.9}
    )
    axes.text(
        (start + stop) / 2, height + 0.015 * size, text, ha="center", va="bottom", fontsize=9, color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _arrow(axes: Any, start: Any, step: Any, label: str, color: str) -> None:
    """A labelled arrow."""
    tip = np.asarray(start, dtype=float) + np.asarray(step, dtype=float)
    axes.annotate(
        "", tip, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    )
    beyond = tip + 0.2 * np.asarray(step, dtype=float)
    axes.text(
        *beyond, label, color=color, ha="center", va="center", fontsize=11, style="italic", weight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )  # fmt: skip


def _frame(axes: Any, points: NDArray[np.float64]) -> float:
    """Show all points with equal scales and a margin; return the width of what is shown [mm]."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max())
    # Room for the arrows of the axes and of u or v.
    low, high = np.minimum(low, -0.05 * size), np.maximum(high, 0.2 * size)
    middle = (low + high) / 2
    reach = 0.5 * float((high - low).max()) + 0.09 * size
    axes.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
    axes.set_aspect("equal", adjustable="box")
    axes.grid(color="#e3e7ea", linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color("#c5ccd2")
    axes.tick_params(colors=_INK, labelsize=9)
    return size


def _caption(scan: Scan, facts: GeometryFacts) -> str:
    """The numbers under the drawing."""
    voxel_v, voxel_u = facts.voxel_mm
    turn = "full turn" if facts.is_full_turn else f"{facts.arc_deg:.4g} degrees"
    return (
        f"{scan.n_views} views, {turn}, {facts.sense}    |    magnification {facts.magnification:.4g}    |    "
        f"panel {scan.n_cols} x {scan.n_rows} pixels of {facts.pitch_mm[1]:.4g} x {facts.pitch_mm[0]:.4g} mm\n"
        f"voxel at the axis {voxel_u:.4g} x {voxel_v:.4g} mm    |    "
        f"field: radius {facts.field_radius_mm:.4g} mm, height {facts.field_height_mm:.4g} mm"
    )


def _figure(size: tuple[float, float]) -> Any:
    """An empty figure that draws without a display."""
    try:
        figure_module = importlib.import_module("matplotlib.figure")
        agg_module = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise IngestError("drawing needs matplotlib, which is not installed: pip install 'conepacs[draw]'") from error
    figure = figure_module.Figure(figsize=size, dpi=_DPI, facecolor="white")
    agg_module.FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    """A figure as PNG, without the name of the program that made it: the same picture, the same bytes."""
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
