# SPDX-License-Identifier: Apache-2.0
"""One policy for a store that does not answer for a while: a DataNode died, the NameNode starts again, a link is down.

Reads are tried again by `RetryingStore`, which `storage.filesystem.open_store` puts around every remote store; writes
by `storage.publish`, because only there is known how to begin anew.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from storage.errors import StorageError, StoreAccessError, StoreFullError, StoreUnavailableError
from storage.ranged_reader import RangedReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.filesystem import FileInfo, Store

Result = TypeVar("Result")

#: A restarted NameNode answers after some 15 s, and takes writes some seconds later.
PATIENCE_S = 90.0
#: For a store that has never answered: rather a wrong address than a restart.
FIRST_CONTACT_S = 5.0
LONGEST_PAUSE_S = 4.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on with a store that fails.

    Attributes
    ----------
    patience_s : from the first failure on [s]; a try that runs is not cut short.
    least_tries : at least so many tries, however long each of them takes.
    first_pause_s : before the second try [s]; it doubles up to 4 s.  Each is shortened by up to half, at random, so
        that the workers of a job do not come back all at once.
    """

    patience_s: float = PATIENCE_S
    least_tries: int = 1
    first_pause_s: float = 0.5

    def __post_init__(self) -> None:
        if self.patience_s < 0 or self.least_tries < 1 or self.first_pause_s <= 0:
            raise ValueError(f"a retry policy needs a patience, tries and a pause, got {self}")


def keep_trying(act: Callable[[], Result], what: str, policy: RetryPolicy | Callable[[], RetryPolicy]) -> Result:
    """Call `act` until it succeeds or the policy's patience is over.

    `what` names it in the log.  `act` must be able to run again after it failed.  A function as the policy is asked
    after each failure.

    Raises
    ------
    StoreFullError, StoreAccessError
        At once: trying again does not help.
    StoreUnavailableError
        The last one, if the store went on failing.
    """
    number, first_failure_s = 0, 0.0
    now: Callable[[], RetryPolicy] = (lambda: policy) if isinstance(policy, RetryPolicy) else policy
    while True:
        number += 1
        try:
            return act()
        except (StoreFullError, StoreAccessError):
            raise
        except StoreUnavailableError as error:
            chosen, now_s = now(), time.monotonic()
            first_failure_s = first_failure_s if number > 1 else now_s
            pause_s = min(LONGEST_PAUSE_S, chosen.first_pause_s * 2.0 ** min(number - 1, 16)) * random.uniform(0.5, 1.0)
            if number >= chosen.least_tries and now_s + pause_s - first_failure_s > chosen.patience_s:
                raise
            _log.warning("%s: try %d failed (%s); again in %.1f s", what, number, error, pause_s)
        time.sleep(pause_s)


class RetryingStore:
    """A store whose reads are tried again; writes, renames and deletions pass as they are.

    Until the store has answered once, it is given up after `first_contact_s` [s], so that a wrong address is told
    soon; afterwards after the patience of `policy`.  `bare` is the store itself, `answered` whether it has answered.
    """

    def __init__(
        self, store: Store, policy: RetryPolicy | None = None, *, first_contact_s: float = FIRST_CONTACT_S
    ) -> None:
        self.url = store.url
        self.bare = store
        self._policy = policy or RetryPolicy()
        self._first_contact_s = first_contact_s
        self.answered = False

    def policy(self, wanted: RetryPolicy) -> RetryPolicy:
        """Policy for what is done now: the one that is wanted, or a short one before the first answer."""
        return wanted if self.answered else RetryPolicy(min(self._first_contact_s, wanted.patience_s))

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; large reads are one request each."""
        found = self._kept(lambda: self.bare.open_read(path), path)
        if isinstance(found, RangedReader):
            fetch = found.fetch
            found.fetch = lambda start, length: self._kept(lambda: fetch(start, length), path)
        return found

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        return self._kept(lambda: self.bare.read_range(path, offset, length), path)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        return self._kept(lambda: self.bare.read_bytes(path), path)

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; not tried again."""
        return self.bare.open_write(path)

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        return self._kept(lambda: self.bare.info(path), path)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        return self._kept(lambda: self.bare.exists(path), path)

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        return self._kept(lambda: self.bare.list_folder(path), path or self.url)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file; not tried again, `storage.publish` looks whether it was done."""
        self.bare.rename(source, target, overwrite=overwrite)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; not tried again."""
        self.bare.delete(path, recursive=recursive)

    def _kept(self, act: Callable[[], Result], path: str) -> Result:
        """Keep trying to read, patiently once the store is known to be there."""
        try:
            result = keep_trying(act, path, self.policy(self._policy))
        except StoreUnavailableError:
            raise
        except StorageError:
            self.answered = True  # by a refusal
            raise
        self.answered = True
        return result
