# SPDX-License-Identifier: Apache-2.0
"""Errors of the pacs package.

::

    PacsError
    |-- InvalidQueryError (ValueError)
    |-- InstanceNotFoundError
    |-- ConformanceError (ValueError)
    |   |-- EncodingError
    |   |-- NoInstanceError
    |   `-- ClassMismatchError
    |-- PackError
    |-- PeerError
    `-- IndexUnavailableError
"""


class PacsError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidQueryError(PacsError, ValueError):
    """A C-FIND identifier or QIDO-RS request is malformed, or asks for what its level does not have."""


class InstanceNotFoundError(PacsError):
    """No instance of that UID is in the index."""


class ConformanceError(PacsError, ValueError):
    """A received object breaks the Standard or a limit of this archive, and is refused."""


class EncodingError(ConformanceError):
    """A volume, its grid or its description cannot be written as valid DICOM."""


class NoInstanceError(ConformanceError):
    """A file is no DICOM instance at all: a text, a picture, the DICOMDIR of a medium."""


class ClassMismatchError(ConformanceError):
    """A received data set is of another SOP class, or another instance, than the request says."""


class PackError(PacsError):
    """A pack is truncated, damaged, or of a schema version that is not known."""


class PeerError(PacsError):
    """Another DICOM node does not answer, refuses the association, or fails a request."""


class IndexUnavailableError(PacsError):
    """The index does not answer, is locked for too long, or has another schema version."""
