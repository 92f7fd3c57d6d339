# SPDX-License-Identifier: Apache-2.0
"""What the contract of readers is tested with: one small sample of each format, made where the test wants it.

A module ``tests/support/reader_samples_<name>.py`` offers ``SAMPLES``, a dict of a sample's name to a
function of an empty folder that returns a `ReaderSample`; the contract suite finds it by its name.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@dataclass(frozen=True)
class ReaderSample:
    """A source and what a reader must make of it.

    Attributes
    ----------
    source : the file or folder to open.
    source_format : the reader that must recognise it.
    frames : (bin, view, row, col), in the project's orientation.
    flats, darks : (bin, frame, row, col) or None.
    bad_pixels : (row, col) bool or None.
    truncate : a file of it to cut short: opening or reading must then fail and name it; None: not tested.
    settings : reader settings to open it with.
    camera_positions : of each view; () where they are not told apart.
    flats_at, darks_at : how many of the flat and dark frames are of each position, () where all views share them.
    """

    source: Path
    source_format: str
    frames: np.ndarray
    flats: np.ndarray | None = None
    darks: np.ndarray | None = None
    bad_pixels: np.ndarray | None = None
    truncate: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    camera_positions: tuple[int, ...] = ()
    flats_at: tuple[int, ...] = ()
    darks_at: tuple[int, ...] = ()


def all_samples() -> dict[str, Callable[[Path], ReaderSample]]:
    """Makers of all samples by name."""
    makers: dict[str, Callable[[Path], ReaderSample]] = {}
    for path in sorted(Path(__file__).parent.glob("reader_samples_*.py")):
        makers.update(importlib.import_module(f"tests.support.{path.stem}").SAMPLES)
    return makers
