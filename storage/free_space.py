# SPDX-License-Identifier: Apache-2.0
"""How much room a store has left, where that can be told: on this machine's disks."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from storage.errors import StoreUnavailableError
from storage.filesystem import local_path

if TYPE_CHECKING:
    from pathlib import Path

    from storage.filesystem import Store


def free_bytes(store: Store) -> int | None:
    """Room left on the disk of a local store [B]; None for a remote one, whose own service knows.

    Raises
    ------
    StoreUnavailableError
        If the disk does not tell.
    """
    folder = local_path(store, "")
    return None if folder is None else free_bytes_of_folder(folder)


def free_bytes_of_folder(folder: Path) -> int:
    """Room left on the disk that a folder lies on, or will lie on once it is made [B].

    Raises
    ------
    StoreUnavailableError
        If the disk does not tell.
    """
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise StoreUnavailableError(f"{there}: the room left on its disk is not known ({error.strerror})") from error
