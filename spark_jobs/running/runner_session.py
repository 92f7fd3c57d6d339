# SPDX-License-Identifier: Apache-2.0
"""The one Spark session of a runner: started when first needed, and anew when it has died."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

#: Seconds that the end of a runner waits for a start of Spark that is under way.
_CLOSE_S = 10.0

_log = logging.getLogger(__name__)


def job_tag(job_id: int) -> str:
    """Spark's tag on everything that runs for a job: by it the job is cancelled, whatever groups its stages have."""
    return f"conepacs-job-{job_id}"


class RunnerSession:
    """Spark for the jobs of one runner; threads share it, each job in a pool of its own.

    Parameters
    ----------
    start : starts Spark; it is called again after Spark has died.
    """

    def __init__(self, start: Callable[[], SparkSession]) -> None:
        self._start = start
        self._session: SparkSession | None = None
        self._is_ours = False
        self._lock = threading.Lock()

    def session_for(self, job_id: int) -> SparkSession:
        """Return a session that lives, with the calling thread's work marked as the job's.

        Raises
        ------
        SessionError
            If Spark does not start.
        """
        with self._lock:
            if self._session is not None and not _is_alive(self._session):
                _log.warning("Spark has died; it is started again")
                _discard(self._session)
                self._session = None
            if self._session is None:
                self._is_ours = not _spark_runs()
                self._session = self._start()
            session = self._session
        context = session.sparkContext
        context.addJobTag(job_tag(job_id))
        context.setLocalProperty("spark.scheduler.pool", job_tag(job_id))
        return session

    def ui_url(self) -> str:
        """Address of Spark's pages; empty where there are none."""
        session = self._session
        return (session.sparkContext.uiWebUrl or "") if session is not None else ""

    def cancel(self, job_id: int) -> None:
        """Cancel all that runs on Spark for a job; nothing if Spark is not there (any more)."""
        session = self._session
        if session is None:
            return
        try:
            session.sparkContext.cancelJobsWithTag(job_tag(job_id))
        except Exception as error:  # noqa: BLE001 - py4j raises what it likes when the JVM goes; then nothing runs either
            _log.info("job %d: Spark could not be told to cancel it (%s)", job_id, error)

    def close(self) -> None:
        """Stop Spark, if it was started here; a start that takes long is left to the end of the process."""
        if not self._lock.acquire(timeout=_CLOSE_S):
            return
        try:
            if self._session is not None and (self._is_ours or not _is_alive(self._session)):
                _discard(self._session)
            self._session = None
        finally:
            self._lock.release()


def _spark_runs() -> bool:
    """Whether this process has a Spark already, which whoever started it will stop."""
    from pyspark import SparkContext

    return SparkContext._active_spark_context is not None


def _is_alive(session: SparkSession) -> bool:
    """Whether the JVM answers and its context was not stopped."""
    try:
        session.sparkContext.defaultParallelism  # noqa: B018 - asks the JVM, which refuses once it is stopped
    except Exception:  # noqa: BLE001 - a dead gateway raises errors of py4j, of sockets, or AttributeError
        return False
    return True


def _discard(session: SparkSession) -> None:
    """Stop what is left of a session, and make pyspark forget a JVM that is gone, so that the next one can start."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    alive = _is_alive(session)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session.stop()
    if not alive:
        # pyspark keeps these for the life of the process, and has no public way to say that its JVM has died.
        for owner, name in (
            (SparkSession, "_instantiatedSession"), (SparkContext, "_active_spark_context"),
            (SparkContext, "_gateway"), (SparkContext, "_jvm"),
        ):  # fmt: skip
            setattr(owner, name, None)
