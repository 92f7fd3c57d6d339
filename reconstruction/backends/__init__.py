# SPDX-License-Identifier: Apache-2.0
"""Back ends by name; nothing is imported before it is asked for.

A back-end module offers ``open_backend(name) -> Backend`` and ``missing(name) -> str`` (what it
lacks on this machine, or an empty text).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from reconstruction.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup

#: Name -> module.  ``numba`` is the fastest of its three paths on the machine at hand.
BACKENDS: Mapping[str, str] = {
    "numpy_reference": "reconstruction.backends.numpy_reference",
    "numba": "reconstruction.backends.numba_fdk",
    "numba-avx512": "reconstruction.backends.numba_fdk",
    "numba-avx2": "reconstruction.backends.numba_fdk",
    "numba-portable": "reconstruction.backends.numba_fdk",
    "cupy": "reconstruction.backends.cupy_fdk",
    "cupy-linear": "reconstruction.backends.cupy_fdk",
    "cupy-layered": "reconstruction.backends.cupy_fdk",
    "cupy-float16": "reconstruction.backends.cupy_fdk",
    "astra": "reconstruction.backends.astra_fdk",
}


class SlabAccumulator(Protocol):
    """A slab that takes batches of views and adds them up, in the order they come."""

    def add(
        self, line_integrals: Sequence[NDArray[np.float32]] | NDArray[np.float32], view_indices: NDArray[np.int64]
    ) -> None:
        """Weight, filter and back-project some views: (view, row, col) float32, rows of `setup.band_of(views)`."""

    def add_filtered(
        self, filtered: NDArray[np.float32], view_indices: NDArray[np.int64], window: Window | None = None
    ) -> None:
        """Back-project rows that `Backend.filter_rows` made: (view, row, filtered col) float32.

        They are the rows of `setup.band_of(views)`, or the `window` that its part of the field projects to.
        """

    def read_slices(self, start: int, stop: int) -> NDArray[np.float32]:
        """Slices of the slab as (z, y, x) float32, counted from the slab's first one."""


class Backend(Protocol):
    """What runs the steps of FDK."""

    name: str

    def start(self, setup: SlabSetup, *, threads: int | None = None) -> SlabAccumulator:
        """Begin a slab."""

    def filter_rows(
        self,
        setup: SlabSetup,
        line_integrals: NDArray[np.float32],
        view_indices: NDArray[np.int64],
        *,
        row_start: int,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """Weight and filter rows from `row_start` on: (view, row, col) to (view, row, filtered col)."""

    def resample(
        self,
        setup: SlabSetup,
        frames: Sequence[Sequence[NDArray[np.float32]]],
        view_indices: NDArray[np.int64],
        *,
        frame_row_start: int,
        row_start: int,
        row_stop: int,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """Make rows of virtual views from rows of their frames: (view)(slot)(row, col) to (view, row, col).

        `setup.virtual` says how; `reconstruction.virtual_views.resample_view` does it the plain way.
        """


def load_backend(name: str) -> Backend:
    """Return a back end by name.

    Raises
    ------
    BackendUnavailableError
        If the name is unknown, or the back end lacks something here: the message says what.
    """
    if name not in BACKENDS:
        raise BackendUnavailableError(f"unknown back end '{name}': expected one of {', '.join(BACKENDS)}")
    try:
        module = importlib.import_module(BACKENDS[name])
    except ImportError as error:
        raise BackendUnavailableError(
            f"back end '{name}' needs the package '{error.name}', which is missing"
        ) from error
    lacking = module.missing(name)
    if lacking:
        raise BackendUnavailableError(f"back end '{name}' is not available here: {lacking}")
    return cast("Backend", module.open_backend(name))


def list_backends() -> dict[str, str]:
    """Each name with what it lacks here; an empty text where it can be used."""
    found = {}
    for name in BACKENDS:
        try:
            load_backend(name)
            found[name] = ""
        except BackendUnavailableError as error:
            found[name] = str(error)
    return found
