# SPDX-License-Identifier: Apache-2.0
"""Publish files so that a reader sees a whole file or none: temporary name, write, close, rename.

Two kinds: *replace* (renamed over what is there; only for files that no index points into) and *write_once* (the name
carries the attempt; a name that is taken is refused).
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar

from storage.errors import (
    FileExistsInStoreError,
    MissingFileError,
    PublishError,
    StorageError,
    StoreAccessError,
    StoreFullError,
    StoreUnavailableError,
)
from storage.paths import clean_path, join, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.filesystem import Store

Result = TypeVar("Result")
PublishKind = Literal["replace", "write_once"]

LONGEST_PAUSE_S = 4.0
# `.NAME.<start in seconds, hex>-<random>.tmp`: the name tells its age, whatever the store keeps of times.
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]+)-[0-9a-f]{16}\.tmp")

_log = logging.getLogger(__name__)


def publish(
    store: Store,
    path: str,
    produce: Callable[[BinaryIO], Result],
    *,
    kind: PublishKind,
    tries: int = 6,
    first_pause_s: float = 0.5,
) -> Result:
    """Write a file under a temporary name in the same folder, then rename it to `path`.

    Parameters
    ----------
    store
        Where to write.
    path
        Final name.
    produce
        Writes the whole file to the handle that it is given.  It is called again for each new try, so it must be able
        to start anew.
    kind
        ``"replace"`` or ``"write_once"``.
    tries
        How often at most; writes fail for some seconds after a DataNode died.
    first_pause_s
        Pause before the second try [s]; it doubles up to 4 s.

    Returns
    -------
    Result
        What the last call of `produce` returned.

    Raises
    ------
    FileExistsInStoreError
        If ``write_once`` and the name is taken; of several writers exactly one wins.
    StoreFullError, StoreAccessError
        At once: trying again does not help.
    PublishError
        If the store stayed unavailable for all tries.

    Whatever happens, no half-written file is left under `path`; what `produce` raises itself is passed on.
    """
    clean_path(path)
    if tries < 1:
        raise ValueError(f"tries must be at least 1, got {tries}")
    if kind == "write_once" and store.exists(path):
        raise FileExistsInStoreError(f"{store.url}/{path}: exists already and is written once")
    last: StoreUnavailableError | None = None
    for number in range(tries):
        if last is not None:
            pause_s = min(LONGEST_PAUSE_S, first_pause_s * 2.0 ** (number - 1))
            _log.warning("%s: try %d of %d failed (%s); again in %.1f s", path, number, tries, last, pause_s)
            time.sleep(pause_s)
        try:
            return _publish_once(store, path, produce, kind)
        except (StoreFullError, StoreAccessError):
            raise
        except StoreUnavailableError as error:
            last = error
    raise PublishError(f"{store.url}/{path}: could not be written in {tries} tries; last: {last}") from last


def publish_bytes(store: Store, path: str, data: bytes, *, kind: PublishKind) -> None:
    """Publish a file that is at hand as a whole; see `publish`."""
    publish(store, path, lambda handle: handle.write(data), kind=kind)


def is_temporary(path: str) -> bool:
    """Whether a path is a temporary file of `publish`, which listings pass over."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def sweep_temporaries(store: Store, folder: str, older_than_s: float, *, dry_run: bool = False) -> list[str]:
    """Delete temporary files that a killed process left in one folder (not in folders below it).

    `older_than_s` [s] must exceed the longest time that one file takes to write, and how far clocks differ.
    Returns the deleted paths; a `dry_run` returns what would be deleted.
    """
    deleted = []
    for entry in store.list_folder(folder):
        match = _TEMPORARY.fullmatch(entry.path.rpartition("/")[2])
        if match and not entry.is_folder and time.time() - int(match[1], 16) > older_than_s:
            if not dry_run:
                store.delete(entry.path)
            deleted.append(entry.path)
    return deleted


def _publish_once(store: Store, path: str, produce: Callable[[BinaryIO], Result], kind: PublishKind) -> Result:
    """One try; the temporary file is gone afterwards, come what may."""
    folder, name = parent_of(path), path.rpartition("/")[2]
    temporary = join(folder, f".{name}.{int(time.time()):x}-{secrets.token_hex(8)}.tmp")
    try:
        handle = store.open_write(temporary)
        try:
            result = produce(handle)
        except BaseException:
            _close_quietly(handle)
            raise
        handle.close()
        _rename(store, temporary, path, kind)
    except BaseException:
        _delete_quietly(store, temporary)
        raise
    return result


def _rename(store: Store, temporary: str, path: str, kind: PublishKind) -> None:
    """Rename; when the answer got lost on its way, look whether it was done."""
    try:
        store.rename(temporary, path, overwrite=kind == "replace")
    except (StoreUnavailableError, MissingFileError):
        # Only this rename takes the temporary file away; if it is gone and the target is there, it took place.
        if store.exists(temporary) or not store.exists(path):
            raise


def _close_quietly(handle: BinaryIO) -> None:
    """Close a handle whose file is given up."""
    try:
        handle.close()
    except (StorageError, OSError) as error:
        _log.debug("closing a file that is given up: %s", error)


def _delete_quietly(store: Store, temporary: str) -> None:
    """Delete a temporary file; if the store cannot, `sweep_temporaries` will."""
    try:
        store.delete(temporary)
    except StorageError as error:
        _log.warning("%s: the temporary file stays until the next sweep (%s)", temporary, error)
