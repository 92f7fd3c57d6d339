# SPDX-License-Identifier: Apache-2.0
"""Errors of the storage package.

::

    StorageError
    |-- StoreUrlError (ValueError)
    |-- StorePathError (ValueError)
    |-- MissingFileError
    |-- FileExistsInStoreError
    |-- StoreUnavailableError
    |   |-- TransferDamagedError
    |   |-- StoreFullError
    |   `-- StoreAccessError
    |-- PublishError
    |-- ChecksumError
    |-- BackupError
    |   `-- RestoreRefusedError
    `-- DatabaseError
"""


class StorageError(Exception):
    """Base of everything this package raises on purpose."""


class StoreUrlError(StorageError, ValueError):
    """The URL of a store is malformed, or its scheme is unknown or lacks a package."""


class StorePathError(StorageError, ValueError):
    """A path within a store is absolute, climbs with ``..``, or has characters that some store refuses."""


class MissingFileError(StorageError):
    """A file that was asked for is not in the store."""


class FileExistsInStoreError(StorageError):
    """A write-once name is taken already."""


class StoreUnavailableError(StorageError):
    """The store does not answer, is full, or refuses the access."""


class TransferDamagedError(StoreUnavailableError):
    """What arrived in the store is not what was sent; it has to be sent again."""


class StoreFullError(StoreUnavailableError):
    """There is no space left; trying again does not help."""


class StoreAccessError(StoreUnavailableError):
    """The store refuses the access to this user; trying again does not help."""


class PublishError(StorageError):
    """A file could not be published within the allowed tries; nothing half-written is visible."""


class ChecksumError(StorageError):
    """Bytes read back do not have the digest that was recorded for them."""


class BackupError(StorageError):
    """There is no such backup, or it is of a newer version."""


class RestoreRefusedError(BackupError):
    """What a backup would be restored into is not empty."""


class DatabaseError(StorageError):
    """The SQL database cannot be opened, or its schema is of another version."""
