# SPDX-License-Identifier: Apache-2.0
"""What HDFS says, in this package's errors; both ways to HDFS name the same Java exceptions."""

from __future__ import annotations

import re

from storage.errors import (
    FileExistsInStoreError,
    MissingFileError,
    StorageError,
    StoreAccessError,
    StoreFullError,
    StorePathError,
    StoreUnavailableError,
)

_FULL = re.compile(r"No space left|DSQuotaExceeded|NSQuotaExceeded|DiskOutOfSpace|DiskSpace quota")
_ACCESS = re.compile(r"AccessControlException|Permission denied|Authentication failure|SecurityException")
_MISSING = re.compile(r"FileNotFoundException|does not exist|ParentNotDirectoryException|Path is not a file")
# The NameNode gave the file that is written up: its writer was away too long, or somebody deleted it.
_LOST_LEASE = re.compile(r"LeaseExpiredException|does not have any open files|Holder .* does not have")
_EXISTS = re.compile(r"FileAlreadyExistsException|already exists")


def hadoop_error(where: str, message: str) -> StorageError:
    """Error for what a NameNode, DataNode or client library reported about the path `where`.

    `message` may hold a Java stack trace; only its first line is kept.
    """
    reason = re.split(r"\n|\\n", message, maxsplit=1)[0].strip()
    if _FULL.search(message):
        return StoreFullError(f"{where}: no space left ({reason})")
    if _ACCESS.search(message):
        return StoreAccessError(f"{where}: access refused ({reason})")
    if "PathIsNotEmptyDirectoryException" in message or "Directory is not empty" in message:
        return StorageError(f"{where}: the folder is not empty")
    if "InvalidPathException" in message:
        return StorePathError(f"{where}: HDFS does not allow this name")
    if _LOST_LEASE.search(message):
        return StoreUnavailableError(f"{where}: the file that was being written is gone ({reason})")
    if _EXISTS.search(message):
        return FileExistsInStoreError(f"{where}: exists already")
    if _MISSING.search(message):
        return MissingFileError(f"{where}: no such file")
    return StoreUnavailableError(f"{where}: {reason}")
