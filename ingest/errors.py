# SPDX-License-Identifier: Apache-2.0
"""Errors of the ingest package.

::

    IngestError
    |-- FrameFormatError (ValueError)
    |-- ScanDescriptionError (ValueError)
    |-- IncompleteScanError
    |-- UnknownScanError
    |-- ScanConflictError
    `-- ChunkCorruptError
"""


class IngestError(Exception):
    """Base of everything this package raises on purpose."""


class FrameFormatError(IngestError, ValueError):
    """A detector or vendor file is truncated, malformed, or of a kind that is not read."""


class ScanDescriptionError(IngestError, ValueError):
    """A scan description (scan.toml, .json, vendor text file) is malformed or contradicts the frames."""


class IncompleteScanError(IngestError):
    """Views, flat or dark frames that the description promises are missing."""


class UnknownScanError(IngestError):
    """No scan of that id is in the store."""


class ScanConflictError(IngestError):
    """Another scan is stored under the same id."""


class ChunkCorruptError(IngestError):
    """A stored chunk does not have the checksum, size or schema that it should have."""
