# SPDX-License-Identifier: Apache-2.0
"""One job in a runner's hands: its lease, its reports, whether it has to stop, and how it ends."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from ingest.errors import IngestError
from jobs.errors import JobError, KindUnavailableError, LeaseLostError
from jobs.records import Progress
from pacs.errors import IndexUnavailableError, PacsError, PeerError
from reconstruction.errors import BackendUnavailableError, ReconstructionError
from spark_jobs.errors import JobStoppedError, SessionError, SparkJobError, TaskFailedError
from storage.errors import ChecksumError, StorageError, StoreUrlError

if TYPE_CHECKING:
    from jobs.queue import JobQueue
    from jobs.records import Job
    from spark_jobs.running.job_context import LogLevel

#: Why a job has to stop: its user wants so, another runner may have it, or this runner is to end.
StopReason = Literal["cancelled", "lost", "released"]
Verdict = Literal["finish", "fail", "again", "cancelled", "release", "nothing"]

#: Seconds between two reports of progress within a stage.
REPORT_EVERY_S = 2.0
#: Seconds before the first and at most before a later try to write a job's end down.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_LONGEST_ERROR = 500
_OWN_PACKAGES = ("spark_jobs", "jobs", "ingest", "pacs", "storage", "reconstruction")

#: What another try may cure, although its base class is among the hopeless.
_CURABLE = (
    TaskFailedError, SessionError, JobStoppedError, BackendUnavailableError, IndexUnavailableError, PeerError,
    KindUnavailableError,
)  # fmt: skip
#: Input that cannot be used, and stored data that is damaged: every try would end the same way.
_HOPELESS = (
    JobError, SparkJobError, IngestError, ReconstructionError, PacsError, StoreUrlError, ChecksumError,
)  # fmt: skip

_log = logging.getLogger(__name__)


def is_hopeless(error: Exception) -> bool:
    """Whether no other try would cure an error."""
    return isinstance(error, _HOPELESS) and not isinstance(error, _CURABLE)


def verdict(error: Exception | None, stop: StopReason | None) -> Verdict:
    """Decide what is written down of a job that has ended, by its error if any and by why it was to stop if it was."""
    if stop == "lost" or isinstance(error, LeaseLostError):
        return "nothing"
    if error is None:
        return "finish"
    if stop is not None:
        return "cancelled" if stop == "cancelled" else "release"
    return "fail" if is_hopeless(error) else "again"


def sentence_of(error: Exception) -> str:
    """One line for the queue: what our own packages say; of any other error the kind only, as it may quote input."""
    if type(error).__module__.partition(".")[0] in _OWN_PACKAGES:
        return " ".join(str(error).split())[:_LONGEST_ERROR]
    return f"a fault of the program ({type(error).__name__}): the runner's log says where"


class HeldJob:
    """A claimed job: keeps its lease, reports for it, and knows when to stop it.

    Parameters
    ----------
    queue, job, runner : the job, whose queue it is in, and the name of who has claimed it.
    claimed : when, by `time.monotonic` [s].
    lease_s : for how long it is claimed and renewed [s].
    delay_s : when another attempt is made after a failure, it is made so much later [s].

    The lease is counted from before the call that renewed it, so that this runner never believes in it for longer than
    the queue does: `stop_reason` is ``lost`` once that time is over, whatever the heartbeat is doing.
    """

    def __init__(
        self, queue: JobQueue, job: Job, runner: str, *, claimed: float, lease_s: float, delay_s: float
    ) -> None:
        self.job = job
        self.delay_s = delay_s
        self.spark_cancelled = False
        self._queue, self._runner, self._lease_s = queue, runner, lease_s
        self._renewed = claimed
        self._asked: StopReason | None = None
        self._reported = (Progress(), 0.0)
        self._lock = threading.Lock()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the job has to stop; None while it may go on."""
        if time.monotonic() - self._renewed >= self._lease_s:
            return "lost"
        return self._asked

    def should_stop(self) -> bool:
        """Whether the job has to stop and to write nothing any more."""
        return self.stop_reason is not None

    def stop(self, reason: StopReason) -> None:
        """Ask the job to stop; a lost lease outweighs the others, and the first of them counts."""
        with self._lock:
            if self._asked is None or reason == "lost":
                self._asked = reason

    def renew(self) -> None:
        """Renew the lease and look whether the job was cancelled; a queue that does not answer costs time only."""
        began = time.monotonic()
        try:
            job = self._queue.renew(self.job.job_id, self._runner, self.job.attempt, self._lease_s)
        except JobError:  # the lease is another's, or the job is gone altogether
            self.stop("lost")
        except StorageError as error:
            _log.warning("job %d: its lease could not be renewed (%s)", self.job.job_id, error)
        else:
            self._renewed = began
            if job.cancel_requested:
                self.stop("cancelled")

    def progress(self, stage: str, done: int, total: int) -> None:
        """Tell the queue how far the job is: what has changed, and within a stage not more often than every 2 s."""
        now, progress = time.monotonic(), Progress(stage, done, total)
        with self._lock:
            last, at = self._reported
            if progress == last or (stage == last.stage and done < total and now - at < REPORT_EVERY_S):
                return
            self._reported = (progress, now)
        self._report(progress=progress)

    def log(self, level: LogLevel, message: str) -> None:
        """Add a line to the job's log."""
        self._report(log=(level, message))

    def show_ui(self, url: str) -> None:
        """Tell the queue where Spark shows the job."""
        self._report(ui_url=url)

    def settle(self, error: Exception | None, result: dict[str, Any]) -> Verdict:
        """Write down how the job ended; as long as the lease lasts, also past a queue that does not answer.

        Returns
        -------
        str
            What came of it: ``nothing`` if the lease was lost, ``fail`` also after the last attempt.
        """
        wait_s = _FIRST_RETRY_S
        while True:
            decided = verdict(error, self.stop_reason)
            try:
                return self._write(decided, error, result)
            except LeaseLostError:
                return "nothing"
            except JobError as fault:  # e.g. a result too large for the queue
                if error is not None:
                    raise
                error = fault
            except StorageError as fault:
                _log.warning("job %d: its end could not be written down yet (%s)", self.job.job_id, fault)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_RETRY_S)

    def _write(self, decided: Verdict, error: Exception | None, result: dict[str, Any]) -> Verdict:
        """One call of the queue, and what came of it; LeaseLostError if it says that the job is another's by now."""
        key = (self.job.job_id, self._runner, self.job.attempt)
        if decided == "finish":
            self._queue.finish(*key, result)
        elif decided == "cancelled":
            self._queue.cancelled(*key)
        elif decided == "release":
            self._queue.release(*key)
        elif decided != "nothing":
            assert error is not None
            again = decided == "again"
            delay_s = self.delay_s if again else 0.0
            if self._queue.fail(*key, sentence_of(error), again=again, delay_s=delay_s).state == "failed":
                return "fail"
        return decided

    def _report(self, **what: Any) -> None:
        """One report; a queue that does not answer stops no job."""
        try:
            self._queue.report(self.job.job_id, self._runner, self.job.attempt, **what)
        except JobError:
            self.stop("lost")
        except StorageError as error:
            _log.info("job %d: a report was not taken (%s)", self.job.job_id, error)
