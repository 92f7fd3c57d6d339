# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/geometry.svg: the frame of reference, by projecting points with the project's own geometry.

Run it from the root of the checkout: ``.venv/bin/python docs/figures/make_geometry_figure.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import Arc, Circle, FancyArrowPatch, Rectangle

from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TARGET = Path(__file__).resolve().parents[1] / "images" / "geometry.svg"
SOD_MM, SDD_MM, BETA_RAD, PITCH_MM, N_COLS, N_ROWS = 100.0, 160.0, math.radians(35), 8.0, 10, 8
FIELD_RADIUS_MM = 26.0
POINT_MM = (8.0, 15.0, 14.0)
BLUE, RED, GREEN, GREY = "#1f5fa8", "#b3261e", "#2a7a35", "#666666"


def main() -> None:
    """Draw the three panels and save them."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=[BETA_RAD], n_rows=N_ROWS, n_cols=N_COLS, pitch_u_mm=PITCH_MM,
        pitch_v_mm=PITCH_MM,
    )  # fmt: skip
    plt.rcParams.update({"svg.hashsalt": "conepacs", "svg.fonttype": "path", "font.size": 10})
    figure, axes = plt.subplot_mosaic(
        [["above", "side"], ["above", "panel"]], figsize=(13.5, 7.6), width_ratios=[1.12, 1], layout="constrained"
    )
    draw_from_above(axes["above"], geometry)
    draw_from_the_side(axes["side"])
    draw_panel(axes["panel"])
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, metadata={"Date": None})


def draw_from_above(axes: Axes, geometry: ConeBeamGeometry) -> None:
    """The x-y plane as seen from +z: source, field, panel, beta, u."""
    pose = geometry.pose(0)
    source, centre = np.array(pose.source_mm[:2]), np.array(pose.detector_center_mm[:2])
    step = np.array(pose.u_step_mm[:2])
    first, last = centre - N_COLS / 2 * step, centre + N_COLS / 2 * step
    axes.add_patch(Circle((0, 0), SOD_MM, fill=False, ls=":", ec=GREY))
    axes.add_patch(Circle((0, 0), FIELD_RADIUS_MM, fc="#eef3f8", ec=BLUE))
    axes.plot(*np.transpose([source, first]), color=GREY, lw=0.7)
    axes.plot(*np.transpose([source, last]), color=GREY, lw=0.7)
    axes.plot(*np.transpose([source, centre]), color=GREY, lw=1, ls="--")
    axes.plot(*np.transpose([first, last]), color=GREEN, lw=4, solid_capstyle="butt")
    axes.plot(*source, "o", color=RED, ms=8)
    arrow(axes, (0, 0), (62, 0), "k", "x", (65, -2))
    arrow(axes, (0, 0), (0, 62), "k", "y", (-2, 66))
    axes.plot(0, 0, "o", color="k", ms=5)
    axes.plot(0, 0, "o", mfc="none", mec="k", ms=10)
    axes.text(9, -8, "z, towards you:\nthe rotation axis", ha="left", va="top", fontsize=9)
    outside = centre * 1.16
    arrow(axes, outside, outside + 3.2 * step, GREEN, "u", outside + 3.9 * step)
    axes.add_patch(Arc((0, 0), 76, 76, theta1=0, theta2=math.degrees(BETA_RAD), color=BLUE, lw=1.5))
    half_way = 46 * np.array([math.cos(BETA_RAD / 2), math.sin(BETA_RAD / 2)])
    axes.text(*half_way, r"$\beta$", color=BLUE, fontsize=14, ha="center", va="center")
    axes.text(source[0] - 4, source[1] + 8, "source\n" + r"$sod\,(\cos\beta,\ \sin\beta)$", color=RED, ha="center")
    axes.text(first[0] + 3, first[1] - 9, "panel", color=GREEN, ha="center", va="center")
    label_along(axes, np.zeros(2), source, "sod", 6)
    label_along(axes, centre, np.zeros(2), "sdd - sod", 6)
    turn = [SOD_MM * np.array([math.cos(a), math.sin(a)]) for a in np.radians([62, 88])]
    axes.add_patch(
        FancyArrowPatch(*turn, connectionstyle="arc3,rad=0.12", arrowstyle="-|>", mutation_scale=16, color=RED)
    )
    axes.text(10, SOD_MM + 8, r"$\beta$ grows: counter-clockwise", color=RED, fontsize=9, ha="left")
    frame(axes, "seen from +z; the sample is at rest", (-125, 118), (-106, 122))


def draw_from_the_side(axes: Axes) -> None:
    """The plane of the central ray and the axis: v and the magnification."""
    depth, _, z = along_ray(POINT_MM)
    v_mm = SDD_MM * z / (SOD_MM - depth)
    panel, half = SOD_MM - SDD_MM, N_ROWS / 2 * PITCH_MM
    axes.plot([SOD_MM, panel], [0, 0], color=GREY, ls="--", lw=1)
    for edge in (-half, half):
        axes.plot([SOD_MM, panel], [0, edge], color=GREY, lw=0.7)
    axes.plot([0, 0], [-48, 48], color="k", lw=1, ls="-.")
    axes.plot([panel, panel], [-half, half], color=GREEN, lw=4, solid_capstyle="butt")
    axes.add_patch(Rectangle((-FIELD_RADIUS_MM, -16), 2 * FIELD_RADIUS_MM, 32, fc="#eef3f8", ec=BLUE, zorder=0))
    axes.plot(SOD_MM, 0, "o", color=RED, ms=8)
    axes.text(SOD_MM, 5, "source", color=RED, ha="center")
    axes.plot([SOD_MM, panel], [0, v_mm], color=BLUE, lw=1.2)
    axes.plot(depth, z, "o", color=BLUE, ms=6)
    axes.text(depth + 2, z + 3, "(x, y, z)", color=BLUE)
    axes.plot(panel, v_mm, "s", color=BLUE, ms=6)
    axes.text(panel - 4, v_mm, r"$v=\frac{sdd\;z}{sod-t}$", color=BLUE, ha="right", va="center", fontsize=13)
    arrow(axes, (0, 0), (0, 54), "k", "z", (0, 58))
    arrow(axes, (panel - 34, -20), (panel - 34, 8), GREEN, "v", (panel - 34, 12))
    dimension(axes, 0, SOD_MM, -44, "sod")
    dimension(axes, panel, SOD_MM, -60, "sdd")
    dimension(axes, 0, depth, 27, "t")
    axes.plot([depth, depth], [z, 27], color=GREY, lw=0.6, ls=":")
    title = "the plane of the axis and the source;  " + r"$t=x\,\cos\beta+y\,\sin\beta$"
    frame(axes, title, (-122, 118), (-72, 72))


def draw_panel(axes: Axes) -> None:
    """The panel as the source sees it: rows, columns, and where a point falls."""
    depth, sideways, z = along_ray(POINT_MM)
    u_mm, v_mm = SDD_MM * sideways / (SOD_MM - depth), SDD_MM * z / (SOD_MM - depth)
    width, height = N_COLS * PITCH_MM, N_ROWS * PITCH_MM
    for i in range(N_COLS + 1):
        axes.plot([i * PITCH_MM - width / 2] * 2, [-height / 2, height / 2], color="#bbbbbb", lw=0.7)
    for j in range(N_ROWS + 1):
        axes.plot([-width / 2, width / 2], [j * PITCH_MM - height / 2] * 2, color="#bbbbbb", lw=0.7)
    axes.add_patch(Rectangle((-width / 2, -height / 2), width, height, fill=False, ec=GREEN, lw=2))
    corner = (-(N_COLS - 1) / 2 * PITCH_MM, -(N_ROWS - 1) / 2 * PITCH_MM)
    axes.add_patch(Rectangle((-width / 2, -height / 2), PITCH_MM, PITCH_MM, fc="#d9ecd9"))
    axes.annotate(
        "row 0, column 0", corner, (-width / 2, -height / 2 - 14), arrowprops={"arrowstyle": "-", "color": GREY}
    )
    arrow(axes, (0, 0), (30, 0), GREEN, "u", (33, 0))
    arrow(axes, (0, 0), (0, 40), GREEN, "v", (0, 44))
    axes.plot(0, 0, "+", color="k", ms=10)
    axes.text(2, -5.5, "foot of the central ray", fontsize=8.5)
    axes.plot(u_mm, v_mm, "s", color=BLUE, ms=7)
    axes.text(u_mm + 2, v_mm + 3, "(u, v)", color=BLUE, bbox={"fc": "white", "ec": "none", "pad": 1})
    frame(axes, "the panel as the source sees it", (-50, 50), (-58, 54))


def along_ray(point_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Coordinates of a point towards the source, along u, and along v."""
    x, y, z = point_mm
    cos, sin = math.cos(BETA_RAD), math.sin(BETA_RAD)
    return x * cos + y * sin, -x * sin + y * cos, z


def arrow(axes: Axes, start: object, end: object, color: str, label: str, at: object) -> None:
    """An arrow and its label."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=color, lw=1.6, shrinkA=0))
    axes.text(*at, label, color=color, ha="center", va="center", fontsize=12, fontstyle="italic")


def dimension(axes: Axes, start: float, end: float, height: float, label: str) -> None:
    """A dimension line with its label in the middle."""
    axes.annotate("", (start, height), (end, height), arrowprops={"arrowstyle": "<|-|>", "color": GREY, "lw": 0.9})
    box = {"fc": "white", "ec": "none", "pad": 1}
    axes.text((start + end) / 2, height, label, ha="center", va="center", fontstyle="italic", bbox=box)


def label_along(axes: Axes, start: NDArray[np.float64], end: NDArray[np.float64], label: str, off: float) -> None:
    """Write along a line, beside its middle."""
    direction = (end - start) / np.linalg.norm(end - start)
    middle = (start + end) / 2 + off * np.array([-direction[1], direction[0]])
    angle = math.degrees(math.atan2(direction[1], direction[0]))
    axes.text(*middle, label, rotation=angle, ha="center", va="center", fontstyle="italic")


def frame(axes: Axes, title: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    """Equal scales, no ticks, a title below."""
    axes.set(xlim=x_range, ylim=y_range, aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10.5, y=-0.04)


if __name__ == "__main__":
    main()
