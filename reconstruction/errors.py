# SPDX-License-Identifier: Apache-2.0
"""Errors of the reconstruction package.

::

    ReconstructionError
    |-- GeometryError (ValueError)
    |-- ParameterError (ValueError)
    |-- CalibrationError
    |-- BackendUnavailableError
    `-- MemoryBudgetError
"""


class ReconstructionError(Exception):
    """Base of everything this package raises on purpose."""


class GeometryError(ReconstructionError, ValueError):
    """A pose, orbit, panel or grid is malformed, or cannot be reconstructed as it is."""


class ParameterError(ReconstructionError, ValueError):
    """A reconstruction parameter or an array's shape or dtype is not what was expected."""


class CalibrationError(ReconstructionError):
    """Flat fields, dark fields or the bad-pixel mask do not fit the projections."""


class BackendUnavailableError(ReconstructionError):
    """A back end was asked for by name and is unknown, or lacks something on this machine."""


class MemoryBudgetError(ReconstructionError):
    """The plan does not fit the memory that it was given."""
