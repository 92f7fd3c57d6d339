# SPDX-License-Identifier: Apache-2.0
"""Paths within a store: what is allowed is what every store takes, so a laptop's data also fit on HDFS."""

from __future__ import annotations

import re
from urllib.parse import unquote

from storage.errors import StorePathError

# Windows refuses these in names; HDFS refuses the colon, and the `hdfs` package expands a '#LATEST'.
_REFUSED = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|#]')


def clean_path(path: str, *, root_allowed: bool = False) -> str:
    """Return `path` as it is, or refuse it.

    Raises
    ------
    StorePathError
        If it is empty (unless `root_allowed`), absolute, has empty, ``.`` or ``..`` parts, or characters that one
        of the stores refuses.
    """
    if path == "":
        if root_allowed:
            return path
        raise StorePathError("the path is empty; expected a path below the store's root")
    if path.startswith("/"):
        raise StorePathError(f"{path}: expected a path relative to the store's root, got an absolute one")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise StorePathError(f"{path}: expected plain names between single slashes, got '.', '..' or an empty name")
    refused = _REFUSED.search(path)
    if refused:
        raise StorePathError(f"{path!r}: the character {refused[0]!r} is not allowed in a store's path")
    return path


def root_of(url_path: str) -> str:
    """Absolute root without a slash at its end ("" for the top) from the path part of a URL."""
    root = unquote(url_path).strip("/")
    return f"/{clean_path(root)}" if root else ""


def parent_of(path: str) -> str:
    """Folder of a path ("" for the root)."""
    return path.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """Path of a name in a folder ("" for the root)."""
    return f"{folder}/{name}" if folder else name
