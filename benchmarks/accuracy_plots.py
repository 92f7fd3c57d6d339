# SPDX-License-Identifier: Apache-2.0
"""The pictures of the accuracy sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COLOURS = ("#1f5fa8", "#b3261e", "#2a7a35", "#b07a10")
LABELS = {
    "views": "views", "pitch_mm": "pixel pitch [mm]", "voxel_mm": "voxel pitch [mm]", "offset": "offset of the panel",
}  # fmt: skip


def draw_all(results: dict[str, Any], pictures: dict[str, tuple[NDArray[Any], NDArray[Any]]], folder: Path) -> None:
    """Draw every picture into a folder."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "conepacs"
    mpl.rcParams["font.size"] = 9
    _mu(results["mu"], folder / "accuracy-mu.svg")
    _defrise(results["defrise"], folder / "accuracy-defrise.svg")
    _sharpness(results["sharpness"], folder / "accuracy-sharpness.svg")
    _phantoms(pictures, folder / "accuracy-phantoms.png")


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    # No date: the same figures give the same file.
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def _plain(axis: Axes, x_label: str, y_label: str) -> None:
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _mu(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(11, 2.8), sharey=True)
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        axis.axhspan(-0.5, 0.5, color="#2a7a35", alpha=0.08)
        axis.plot([p["at"] for p in points], [p["error_percent"] for p in points], "o-", color=COLOURS[0])
        if name != "offset":
            axis.set_xscale("log")
        axis.set_ylim(-0.7, 0.7)
        _plain(axis, LABELS[name], "error of mu [%]" if name == "views" else "")
    _save(figure, path)


def _defrise(found: list[dict[str, float]], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 3))
    angle = [case["cone_angle_deg"] for case in found]
    axis.plot(angle, [case["disc_of_mu"] for case in found], "o-", color=COLOURS[0], label="disc")
    axis.plot(angle, [case["contrast"] for case in found], "s-", color=COLOURS[1], label="disc less gap")
    _plain(axis, "cone angle [degrees]", "of the disc's mu")
    axis.legend(frameon=False)
    _save(figure, path)


def _sharpness(found: dict[str, dict[str, Any]], path: Path) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3))
    for colour, (window, case) in zip(COLOURS, found.items(), strict=False):
        left.plot(*case["mtf"], color=colour, label=window)
        middle.plot(case["sides"], case["contrast_percent"], "o-", color=colour)
        right.plot(case["noise_power"][0], np.array(case["noise_power"][1]) * 1e6, color=colour)
    left.set_xlim(0, 1.2)
    left.set_ylim(0, 1.02)
    left.legend(frameon=False)
    _plain(left, "frequency [1/voxel]", "MTF")
    _plain(middle, "side of a square [voxels]", "contrast told from noise [%]")
    _plain(right, "frequency [1/mm]", "noise power [1e-6]")
    _save(figure, path)


def _phantoms(pictures: dict[str, tuple[NDArray[Any], NDArray[Any]]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(pictures), figsize=(2.9 * len(pictures), 5.8))
    for column, (name, pair) in zip(axes.T, pictures.items(), strict=True):
        for axis, values, label in zip(column, pair, ("truth", "reconstructed"), strict=True):
            window = (0.0, 2.1) if name != "Shepp-Logan" else (0.95, 1.08)
            axis.imshow(values, origin="lower", cmap="gray", vmin=window[0], vmax=window[1])
            axis.set_title(f"{name}, {label}", fontsize=8)
            axis.set_axis_off()
    _save(figure, path)
