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
from storage.filesystem import DirectStore
from storage.paths import clean_path, join, parent_of
from storage.retrying import PATIENCE_S, RetryingStore, RetryPolicy, keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.filesystem import Store

Result = TypeVar("Result")
PublishKind = Literal["replace", "write_once"]

LEAST_TRIES = 3
# `.NAME.<start in seconds, hex>-<random>.tmp`: the name tells its age, whatever the store keeps of times.
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]+)-[0-9a-f]{16}\.tmp")

_log = logging.getLogger(__name__)


def publish(
    store: Store,
    path: str,
    produce: Callable[[BinaryIO], Result],
    *,
    kind: PublishKind,
    patience_s: float = PATIENCE_S,
    before_rename: Callable[[], None] = lambda: None,
) -> Result:
    """Write a file under a temporary name in the same folder, then rename it to `path`.

    A store that makes whole files by itself (`DirectStore`: S3) is left to do so.

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
    patience_s
        How long the store may fail [s], counted from the first failure; writes fail for some seconds after a DataNode
        died, and half a minute while a NameNode starts again.  There are three tries at least, however long each takes.
        A store that has never answered is given up sooner, see `storage.filesystem.open_store`.
    before_rename
        Called when the temporary file is whole, before its name shows: for what must be there earlier.  What it raises
        ends the publishing.

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
        If the store went on failing.

    Whatever happens, no half-written file is left under `path`; what `produce` raises itself is passed on.
    """
    clean_path(path)
    policy = RetryPolicy(patience_s, least_tries=LEAST_TRIES)
    # One patience, not one within another; a long one as soon as the store has answered anything.
    bare = store.bare if isinstance(store, RetryingStore) else store
    tries, started_s, leftovers = 0, time.monotonic(), list[str]()

    def patience() -> RetryPolicy:
        return store.policy(policy) if isinstance(store, RetryingStore) else policy

    def answered() -> None:
        if isinstance(store, RetryingStore):
            store.answered = True

    def attempt() -> Result:
        nonlocal tries
        tries += 1
        if kind == "write_once":
            taken = bare.exists(path)
            answered()
            if taken:
                raise FileExistsInStoreError(f"{store.url}/{path}: exists already and is written once")
        if isinstance(bare, DirectStore):
            before_rename()
            return bare.write_whole(path, produce, overwrite=kind == "replace")
        return _publish_once(bare, path, produce, kind, policy, leftovers, answered, before_rename)

    try:
        result = keep_trying(attempt, path, patience)
    except (StoreFullError, StoreAccessError):
        raise
    except StoreUnavailableError as error:
        spent_s = time.monotonic() - started_s
        raise PublishError(
            f"{store.url}/{path}: could not be written in {tries} tries within {spent_s:.0f} s; last: {error}"
        ) from error
    finally:
        for temporary in leftovers:
            _delete_quietly(bare, temporary)
    answered()
    return result


def publish_bytes(
    store: Store, path: str, data: bytes, *, kind: PublishKind, before_rename: Callable[[], None] = lambda: None
) -> None:
    """Publish a file that is at hand as a whole; see `publish`."""
    publish(store, path, lambda handle: handle.write(data), kind=kind, before_rename=before_rename)


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


def _publish_once(
    store: Store,
    path: str,
    produce: Callable[[BinaryIO], Result],
    kind: PublishKind,
    policy: RetryPolicy,
    leftovers: list[str],
    answered: Callable[[], None],
    before_rename: Callable[[], None],
) -> Result:
    """One try; a temporary file that cannot be deleted now is added to `leftovers`."""
    folder, name = parent_of(path), path.rpartition("/")[2]
    temporary = join(folder, f".{name}.{int(time.time()):x}-{secrets.token_hex(8)}.tmp")
    try:
        handle = store.open_write(temporary)
        answered()
        try:
            result = produce(handle)
        except BaseException:
            _close_quietly(handle)
            raise
        handle.close()
        before_rename()
        _rename_patiently(store, temporary, path, kind, policy)
    except BaseException:
        if not _delete_quietly(store, temporary):
            leftovers.append(temporary)
        raise
    return result


def _rename_patiently(store: Store, temporary: str, path: str, kind: PublishKind, policy: RetryPolicy) -> None:
    """Try to rename again and again by itself: the bytes, which may be many, are safe in the store by now."""
    try:
        keep_trying(lambda: _rename(store, temporary, path, kind), path, policy)
    except (StoreFullError, StoreAccessError):
        raise
    except StoreUnavailableError as error:
        raise PublishError(
            f"{store.url}/{path}: is written, but could not be renamed within {policy.patience_s:.0f} s; last: {error}"
        ) from error


def _rename(store: Store, temporary: str, path: str, kind: PublishKind) -> None:
    """Rename; when the answer got lost on its way, look whether it was done."""
    try:
        store.rename(temporary, path, overwrite=kind == "replace")
    except (StoreUnavailableError, MissingFileError, FileExistsInStoreError):
        # Only this rename takes the temporary file away; if it is gone and the target is there, it took place.
        if store.exists(temporary) or not store.exists(path):
            raise


def _close_quietly(handle: BinaryIO) -> None:
    """Close a handle whose file is given up."""
    try:
        handle.close()
    except (StorageError, OSError) as error:
        _log.debug("closing a file that is given up: %s", error)


def _delete_quietly(store: Store, temporary: str) -> bool:
    """Delete a temporary file and say whether it is gone; if the store cannot, `sweep_temporaries` will."""
    try:
        store.delete(temporary)
    except StorageError as error:
        _log.warning("%s: the temporary file cannot be deleted now (%s)", temporary, error)
        return False
    return True
