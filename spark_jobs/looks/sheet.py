# SPDX-License-Identifier: Apache-2.0
"""Looks as PNG: a slice, three planes of a coarse volume, the contact sheet of a sweep."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from spark_jobs.looks.scores import grey_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spark_jobs.looks.preview import Preview
    from spark_jobs.looks.sweep import Sweep

_LABEL_PIXELS = 18
_GAP_PIXELS = 6
_SHEET_TILE = 256
_BACKGROUND, _INK, _BEST = (18, 18, 20), (225, 225, 225), (237, 174, 73)


def preview_png(look: Preview) -> bytes:
    """Draw a look as PNG: the slice, or the three middle planes (axial, coronal, sagittal) of a coarse volume.

    x runs to the right; y of a slice runs down, as in the DICOM series and on the page, z of the other planes up.
    """
    volume = look.volume
    nz, ny, nx = volume.shape
    planes = [volume[nz // 2]]
    labels = [f"z = {round(look.grid.center_mm[2], 3) + 0.0:.3f} mm"]
    if nz > 1:
        planes += [volume[::-1, ny // 2], volume[::-1, :, nx // 2]]
        labels = ["axial", "coronal", "sagittal"]
    low, high = drawn_range(look)
    return _sheet([_tile(plane, low, high) for plane in planes], labels, columns=len(planes), best=None)


def drawn_range(look: Preview) -> tuple[float, float]:
    """Return the mu that is drawn black, and that is drawn white [1/mm]."""
    return grey_range([look.volume[look.volume.shape[0] // 2]])


def contact_sheet(sweep: Sweep, name: str) -> bytes:
    """Draw all slices of a sweep as PNG, each with its value and score, the best with a frame; x right, y down."""
    low, high = sweep.grey_range
    step = max(1, math.ceil(sweep.slices.shape[1] / _SHEET_TILE))
    tiles = [_tile(s[::step, ::step], low, high) for s in sweep.slices]
    labels = [
        f"{name} {value if isinstance(value, str) else f'{value:g}'}   {score:.4f}"
        for value, score in zip(sweep.values, sweep.scores, strict=True)
    ]
    return _sheet(tiles, labels, columns=math.ceil(math.sqrt(len(tiles))), best=sweep.best)


def _tile(plane: NDArray[np.float32], low: float, high: float) -> Image.Image:
    """Grey values of a plane; its first row is on top."""
    greys = np.clip((plane - low) / (high - low), 0.0, 1.0) * 255
    return Image.fromarray(np.ascontiguousarray(greys.astype(np.uint8)))


def _sheet(tiles: list[Image.Image], labels: list[str], *, columns: int, best: int | None) -> bytes:
    """Put tiles with labels below them side by side."""
    width = max(max(tile.width for tile in tiles), 120)
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    cell_width, cell_height = width + _GAP_PIXELS, height + _LABEL_PIXELS + _GAP_PIXELS
    sheet = Image.new("RGB", (columns * cell_width + _GAP_PIXELS, rows * cell_height + _GAP_PIXELS), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for place, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = _GAP_PIXELS + place % columns * cell_width
        y = _GAP_PIXELS + place // columns * cell_height
        sheet.paste(tile.convert("RGB"), (x, y))
        chosen = place == best
        if chosen:
            draw.rectangle((x - 3, y - 3, x + tile.width + 2, y + tile.height + 2), outline=_BEST, width=2)
        draw.text((x + 2, y + tile.height + 3), label, fill=_BEST if chosen else _INK)
    handle = io.BytesIO()
    sheet.save(handle, format="PNG")
    return handle.getvalue()
