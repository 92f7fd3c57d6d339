# SPDX-License-Identifier: Apache-2.0
"""Pictures of volumes: three planes through a point, with scale and directions."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from reconstruction.geometry import VolumeGrid

#: Name, image axes (down, right), and what is written at the image's right and lower edges.
_PLANES = (("axial (z)", "y", "x"), ("coronal (y)", "z", "x"), ("sagittal (x)", "z", "y"))


def draw_planes(
    volumes: Sequence[tuple[str, NDArray[Any]]], grid: VolumeGrid, point_mm: tuple[float, float, float]
) -> bytes:
    """Draw three planes through a point for each volume as PNG, one row a volume.

    Parameters
    ----------
    volumes : (title, (z, y, x) array) of one grid
    grid : VolumeGrid
    point_mm : (x, y, z)

    Returns
    -------
    bytes
        PNG.  Axial planes are drawn with +x to the right and +y down, as DICOM shows them; the others with +z up.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.1 * len(volumes)), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    axes = np.atleast_2d(figure.subplots(len(volumes), 3))
    x0, y0, z0 = grid.origin_mm
    pz, py, px = grid.voxel_pitch_mm
    nz, ny, nx = grid.shape
    i, j, k = (
        int(np.clip(round((p - o) / s), 0, n - 1))
        for p, o, s, n in zip(point_mm, (x0, y0, z0), (px, py, pz), (nx, ny, nz), strict=True)
    )
    extent_x, extent_y, extent_z = (
        (o - s / 2, o + (n - 0.5) * s) for o, s, n in ((x0, px, nx), (y0, py, ny), (z0, pz, nz))
    )
    for row, (title, volume) in enumerate(volumes):
        high = float(np.quantile(volume, 0.9995))
        shown = (
            (volume[k], (*extent_x, *extent_y[::-1])),
            (volume[::-1, j], (*extent_x, *extent_z)),
            (volume[::-1, :, i], (*extent_y, *extent_z)),
        )
        for column, ((image, extent), (name, down, right)) in enumerate(zip(shown, _PLANES, strict=True)):
            axis = axes[row, column]
            drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=high, extent=extent, interpolation="nearest")
            axis.set_title(f"{title}: {name}", fontsize=9)
            axis.set_xlabel(f"{right} [mm]", fontsize=8)
            axis.set_ylabel(f"{down} [mm]", fontsize=8)
            axis.tick_params(labelsize=7)
        figure.colorbar(drawn, ax=axes[row, 2], label="mu [1/mm]", shrink=0.85)
    handle = io.BytesIO()
    figure.savefig(handle, format="png", metadata={"Software": None})
    return handle.getvalue()
