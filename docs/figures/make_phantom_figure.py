# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/phantoms.png: phantoms, energy bins, and a view of the sample scan before and after correction.

Run it from the root of the checkout: ``PYTHONPATH=. .venv/bin/python docs/figures/make_phantom_figure.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

mpl.use("agg")
from matplotlib import pyplot as plt

from data_samples.make_sample import make_sample
from reconstruction.correction import prepare_fields, to_line_integrals
from reconstruction.geometry import VolumeGrid
from reconstruction.materials import BONE, IODINE, WATER, solution
from reconstruction.phantom import marker_phantom, sample, shepp_logan_3d

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from data_samples.make_sample import SampleTruth
    from reconstruction.photon_counting import PhotonCountingSettings

TARGET = Path(__file__).resolve().parents[1] / "images" / "phantoms.png"
GRID = VolumeGrid((201, 201, 201), (0.1, 0.1, 0.1))
VIEW = 20


def main() -> None:
    """Draw the two rows of panels and save them."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    figure, axes = plt.subplots(2, 4, figsize=(13.5, 6.2), layout="constrained")
    head = sample(shepp_logan_3d(10.0), VolumeGrid((1, 201, 201), (0.1, 0.1, 0.1), (0.0, 0.0, -2.5)))
    draw_plane(axes[0, 0], head[0], "Shepp-Logan, original: z = -0.25 r", "x", "y", (0.98, 1.06))
    marker = sample(marker_phantom(10.0), GRID)
    draw_plane(axes[0, 1], marker[100], "marker phantom: z = 0", "x", "y", (0.0, 0.08))
    draw_plane(axes[0, 2], marker[:, 100], "marker phantom: y = 0", "x", "z", (0.0, 0.08))
    with tempfile.TemporaryDirectory() as folder:
        truth = make_sample(folder)
        draw_sample(axes, truth, Path(folder))
    draw_bins(axes[1, 3], truth.settings)
    figure.savefig(TARGET, dpi=90, metadata={"Software": None})


def draw_plane(
    axes: Axes, plane: NDArray[np.float32], title: str, across: str, up: str, limits: tuple[float, float]
) -> None:
    """Draw one plane with its axes pointing right and up."""
    axes.imshow(plane, cmap="gray", origin="lower", extent=(-10.0, 10.0, -10.0, 10.0), vmin=limits[0], vmax=limits[1])
    axes.set(title=title, xlabel=f"{across} [mm]", ylabel=f"{up} [mm]")


def draw_sample(axes: NDArray[np.object_], truth: SampleTruth, folder: Path) -> None:
    """Draw the truth of the sample's first bin, and one view as counts and as line integrals of both bins."""
    volume = truth.phantom.sample_bins(VolumeGrid((1, 201, 201), (0.1, 0.1, 0.1)), truth.mu_per_mm)
    draw_plane(axes[0, 3], volume[0, 0], "sample scan, truth of 30-60 keV: z = 0", "x", "y", (0.0, 0.07))
    counts, flats, darks = (np.load(folder / f"{name}.npy") for name in ("projections", "flats", "darks"))
    raw = axes[1, 0].imshow(counts[0, VIEW], cmap="gray", origin="lower", vmin=0, vmax=22000)
    axes[1, 0].set(title="30-60 keV: counts", xlabel="column (u)", ylabel="row (v)")
    axes[1, 0].figure.colorbar(raw, ax=axes[1, 0], orientation="horizontal", shrink=0.8)
    for index, name in enumerate(("30-60 keV", "60-120 keV")):
        line_integrals, _ = to_line_integrals(
            counts[index, VIEW : VIEW + 1], prepare_fields(flats[index], darks[index])
        )
        panel = axes[1, 1 + index]
        shown = panel.imshow(line_integrals[0], cmap="gray_r", origin="lower", vmin=0, vmax=0.75)
        panel.set(title=f"{name}: line integrals", xlabel="column (u)", ylabel="row (v)")
        panel.figure.colorbar(shown, ax=panel, orientation="horizontal", shrink=0.8)


def draw_bins(axes: Axes, settings: PhotonCountingSettings) -> None:
    """Draw what each bin counts over the photons' energy, and how materials attenuate there."""
    response = settings.response
    for weights, low, high, colour in zip(
        response.weights, response.low_kev, response.high_kev, ("#1f5fa8", "#b3261e"), strict=True
    ):
        axes.fill_between(response.energies_kev, weights / response.weights.max(), color=colour, alpha=0.35, lw=0)
        middle = (response.energies_kev * weights).sum() / weights.sum()
        axes.text(middle, 0.04, f"{low:g}-{high:g}", color=colour, ha="center")
    axes.set(title="what the bins count; mu of materials", xlabel="photon energy [keV]", ylabel="counts (relative)")
    axes.set_ylim(0, 1.05)
    other = axes.twinx()
    energies = np.linspace(20.0, 120.0, 401)
    materials = ((WATER, "-"), (solution("iodine 20 mg/ml", IODINE, 20.0), "--"), (BONE, ":"))
    for material, style in materials:
        other.semilogy(energies, material.mu_per_mm(energies), style, color="black", lw=1.2, label=material.name)
    other.set_ylim(0.01, 1.5)
    other.set_ylabel("mu [1/mm]")
    other.legend(loc="upper right", fontsize=8)


if __name__ == "__main__":
    main()
