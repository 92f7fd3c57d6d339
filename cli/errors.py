# SPDX-License-Identifier: Apache-2.0
"""The rim of the command line: one table from errors to exit codes, one plain sentence each.

::

    CliError
    |-- SettingError (ValueError)
    |-- NotImportedError
    |-- RegionsDisagreeError
    |-- JobFailedError
    |-- JobCancelledError
    |-- WaitedTooLongError
    `-- CannotListenError
"""

from __future__ import annotations

from ingest.errors import ChunkCorruptError, IngestError
from jobs.errors import JobError, KindUnavailableError
from local_cluster.errors import ClusterError, ClusterOptionsError, DrainError, UnknownDaemonError
from pacs.errors import IndexUnavailableError, InstanceNotFoundError, PackError, PacsError, PeerError
from reconstruction.errors import BackendUnavailableError, ReconstructionError
from spark_jobs.errors import BandCorruptError, JobStoppedError, SessionError, SparkJobError, TaskFailedError
from storage.errors import BackupError, ChecksumError, DatabaseError, StorageError, StoreUrlError


class CliError(Exception):
    """Base of what the verbs themselves raise on purpose."""


class SettingError(CliError, ValueError):
    """A setting of conepacs.toml or of the environment is unknown, or its value is not what was expected."""


class NotImportedError(CliError):
    """Files that were to be imported were not."""


class RegionsDisagreeError(CliError):
    """The demo's volume is not that of its specimen, or not the same by all ways of fetching it."""


class JobFailedError(CliError):
    """A job that was waited for failed."""


class JobCancelledError(CliError):
    """A job that was waited for was cancelled."""


class WaitedTooLongError(CliError):
    """A job that was waited for has not ended in the time given."""


class CannotListenError(CliError):
    """An address to serve on is taken, or is not this machine's."""


USAGE = 2
BAD_INPUT = 3
UNAVAILABLE = 4
CORRUPT = 5
FAILED = 6
CANCELLED = 7
#: EX_SOFTWARE of sysexits: a fault of the program itself.
UNEXPECTED = 70
INTERRUPTED = 130

#: The first entry that an error is an instance of counts.
EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (SettingError, USAGE),
    (NotImportedError, BAD_INPUT),
    (RegionsDisagreeError, FAILED),
    (CannotListenError, UNAVAILABLE),
    (JobFailedError, FAILED),
    (JobCancelledError, CANCELLED),
    (WaitedTooLongError, UNAVAILABLE),
    (ChunkCorruptError, CORRUPT),
    (BandCorruptError, CORRUPT),
    (ChecksumError, CORRUPT),
    (PackError, CORRUPT),
    (TaskFailedError, FAILED),
    (JobStoppedError, INTERRUPTED),
    (SessionError, UNAVAILABLE),
    (BackendUnavailableError, UNAVAILABLE),
    (StoreUrlError, BAD_INPUT),
    (BackupError, BAD_INPUT),
    (DatabaseError, UNAVAILABLE),
    (StorageError, UNAVAILABLE),
    (IndexUnavailableError, UNAVAILABLE),
    (PeerError, UNAVAILABLE),
    (InstanceNotFoundError, BAD_INPUT),
    (IngestError, BAD_INPUT),
    (ReconstructionError, BAD_INPUT),
    (SparkJobError, BAD_INPUT),
    (PacsError, BAD_INPUT),
    (KindUnavailableError, UNAVAILABLE),
    (JobError, BAD_INPUT),
    (ClusterOptionsError, USAGE),
    (UnknownDaemonError, USAGE),
    (DrainError, FAILED),
    (ClusterError, UNAVAILABLE),
)

EXIT_CODE_HELP = (
    "Exit codes: 0 done, 2 wrong usage or setting, 3 input that cannot be used, 4 something does not answer "
    "(store, index, peer, Spark), 5 stored data damaged, 6 a task or job failed, 7 a job was cancelled, "
    "70 a fault of the program, 130 interrupted."
)


def exit_code_of(error: Exception) -> int | None:
    """Return the exit code of an error that one of our packages raised on purpose; None for any other."""
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return code
    return None
