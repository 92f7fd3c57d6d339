# SPDX-License-Identifier: Apache-2.0
"""How a plan cuts slabs into bricks, and which filtered values each brick reads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.bricks import Area, Window, brick_windows, cut_evenly, has_field
from reconstruction.projection import projection_matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import VolumeGrid
    from reconstruction.slabs import RowBand
    from spark_jobs.planning.view_groups import ViewGroup

#: A row is cut into about so many tiles, of at least `MIN_TILE_COLS` columns: tiles that a shadow only touches are read
#: whole, and each is a ranged read.
TILES = 32
MIN_TILE_COLS = 64
#: Borders of bricks in y and x fall on multiples of this, the kernels' tile.
SIDE_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Brick:
    """One brick: its slab, and its part of each slice."""

    slab_index: int
    area: Area


@dataclass(frozen=True, slots=True)
class BrickCut:
    """How each slab is cut: the parts of a slice that have a voxel in the field; columns of a tile of filtered rows."""

    areas: tuple[Area, ...]
    tile_cols: int

    def brick(self, index: int) -> Brick:
        """One of the bricks, counted slab by slab."""
        slab_index, place = divmod(index, len(self.areas))
        return Brick(slab_index, self.areas[place])

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        areas = [[a.y_start, a.y_stop, a.x_start, a.x_stop] for a in self.areas]
        return {"areas": areas, "tile_cols": self.tile_cols}


def brick_cut_from_json(values: dict[str, Any] | None) -> BrickCut | None:
    """Make a cut from what `BrickCut.to_json` gave, after a trip through JSON."""
    return None if values is None else BrickCut(tuple(Area(*area) for area in values["areas"]), values["tile_cols"])


def cut_area(grid: VolumeGrid, radius_mm: float, n_y: int, n_x: int, n_out: int) -> BrickCut:
    """Cut a slice into n_y x n_x parts, without those beside the field, for filtered rows of `n_out` columns."""
    _, ny, nx = grid.shape
    borders = cut_evenly(ny, n_y, SIDE_ALIGNMENT), cut_evenly(nx, n_x, SIDE_ALIGNMENT)
    areas = (Area(*y, *x) for y, x in itertools.product(*(itertools.pairwise(b) for b in borders)))
    return BrickCut(tuple(area for area in areas if has_field(grid, area, radius_mm)), tile_columns(n_out))


def tile_columns(n_out: int) -> int:
    """Columns of a tile of filtered rows: a multiple of 32."""
    return max(MIN_TILE_COLS, -(-n_out // (TILES * 32)) * 32)


def brick_windows_of(
    setup: SlabSetup, groups: tuple[ViewGroup, ...], matrices: NDArray[np.float64] | None = None
) -> list[tuple[int, NDArray[np.int64], Window]]:
    """Return what a brick reads of the filtered rows: the place of each group, its views that count, and the window.

    `matrices` are those of the geometry, if at hand.
    """
    used = [(place, views) for place, group in enumerate(groups) if (views := group.used(setup)).size]
    lengths = np.array([views.size for _, views in used])
    matrices = projection_matrices(setup.geometry) if matrices is None else matrices
    windows = brick_windows(
        matrices[np.concatenate([views for _, views in used])], np.cumsum(lengths) - lengths, setup.grid, setup.slab,
        setup.made_area, setup.radius_mm, panel_rows=setup.geometry.n_rows,
        filtered_cols=(setup.ramp.col_start, setup.ramp.n_out),
    )  # fmt: skip
    return [
        (place, views, _within(window, setup.band_of(views)))
        for (place, views), window in zip(used, windows, strict=True)
    ]


def _within(window: Window, band: RowBand) -> Window:
    """A window cut to the rows that the views' share of the slab needs."""
    start = min(max(window.row_start, band.row_start), band.row_stop - 1)
    return replace(window, row_start=start, row_stop=max(start + 1, min(window.row_stop, band.row_stop)))
