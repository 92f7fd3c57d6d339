# SPDX-License-Identifier: Apache-2.0
"""The mask of bad pixels that a description names, for readers whose own files hold none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ingest.frames import orient_frames
from ingest.readers.npy_files import NpyFile, open_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.config import ScanDescription


def read_mask(description: ScanDescription, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Read ``[files] bad_pixels``, a .npy array in which what is not zero is bad.

    Parameters
    ----------
    description : names the file, or none.
    shape : rows and columns of the panel.

    Returns
    -------
    (row, col) bool
        Row 0 the lowest v; None if the description names no file.

    Raises
    ------
    FrameFormatError
        If the file is not a .npy array of the panel's size.
    """
    named = description.files.bad_pixels
    if named is None:
        return None
    mask_file = open_mask(description.file(named), shape, NpyFile)
    try:
        mask = mask_file.read(0) != 0
    finally:
        mask_file.close()
    return np.ascontiguousarray(orient_frames(mask, description.rows, description.cols))
