# SPDX-License-Identifier: Apache-2.0
"""Pictures of the tensile bar: the projection with its axis, three planes, profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.nikon_job import Radiogram, Volume
    from benchmarks.nikon_measures import Bar
    from reconstruction.rotation_axis import AxisLine

WINDOW = (0.0, 0.06)


def draw(folder: Path, volume: Volume, bar: Bar, radiogram: Radiogram, axes: tuple[AxisLine, AxisLine]) -> list[Path]:
    """Write nikon.png (the overview of the manual) and the three planes voxel for pixel; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    middle = [n // 2 for n in volume.mu.shape]
    neck = int(np.abs(volume.z_mm + 0.4).argmin())
    straight = int(np.flatnonzero(bar.is_straight)[-1] * 0.75)
    planes = {
        "axial_bar": volume.mu[straight],
        "axial_neck": volume.mu[neck],
        "coronal": volume.mu[::-1, middle[1]],
        "sagittal": volume.mu[::-1, :, middle[2]],
    }
    paths = []
    for name, plane in planes.items():
        path = folder / f"nikon_{name}.png"
        plt.imsave(path, plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        paths.append(path)
    figure, panels = plt.subplots(1, 5, figsize=(13, 3.6), width_ratios=[1.1, 0.7, 1, 1, 1.6], layout="constrained")
    _projection(panels[0], radiogram, axes)
    _plane(panels[1], planes["coronal"], volume.x_mm, volume.z_mm, "coronal", "z [mm]")
    for panel, index, words in ((panels[2], straight, "in the bar"), (panels[3], neck, "in the neck")):
        title = f"z = {volume.z_mm[index]:.1f} mm, {words}"
        _plane(panel, volume.mu[index, ::-1], volume.x_mm, volume.y_mm, title, "y [mm]")
    _along(panels[4], volume, bar)
    path = folder / "nikon.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return [*paths, path]


def _projection(panel: Axes, radiogram: Radiogram, axes: tuple[AxisLine, AxisLine]) -> None:
    picture = radiogram.line_integrals
    panel.imshow(picture, cmap="gray", origin="lower", vmin=0, vmax=0.5)
    rows = np.array([0, picture.shape[0] - 1])
    for axis, style, name in zip(axes, ("-", "--"), ("symmetry", "edges"), strict=True):
        panel.plot([axis.col_at(row) for row in rows], rows, style, lw=1, label=f"{name} {axis.center_col:.2f}")
    panel.set(title="line integrals, axis", xlabel="column", ylabel="row", xlim=(0, picture.shape[1] - 1))
    panel.legend(loc="lower right", fontsize=6)


def _plane(panel: Axes, plane: np.ndarray, across_mm: np.ndarray, up_mm: np.ndarray, title: str, up_name: str) -> None:
    extent = (across_mm[0], across_mm[-1], up_mm[0], up_mm[-1])
    panel.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], extent=extent)
    panel.set(title=title, xlabel="x [mm]", ylabel=up_name)


def _along(panel: Axes, volume: Volume, bar: Bar) -> None:
    for values, name in ((bar.core_mu, "cross-section"), (bar.wall_mu, "outer ring")):
        panel.plot(volume.z_mm, values, lw=1, label=f"mean of the {name}")
    inside = bar.is_straight
    panel.fill_between(volume.z_mm, 0, 0.05, where=inside.tolist(), color="0.9", label="away from the neck")
    panel.set(title="mu along the axis [1/mm]", xlabel="z [mm]", ylim=(0, 0.05))
    panel.legend(fontsize=6, loc="lower right")
