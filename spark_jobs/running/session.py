# SPDX-License-Identifier: Apache-2.0
"""A Spark session that starts quickly and keeps its log to itself.

Under ``spark-submit`` the JVM runs already: its master and its properties win over the settings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from spark_jobs.errors import SessionError
from spark_jobs.tasks.worker_environment import store_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from spark_jobs.running.settings import SparkSettings

_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_LOG4J2 = """rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{2}}: %m%n
"""


class StartedOnce:
    """Starts Spark when first called, and returns it ever after.

    Attributes
    ----------
    start_s : seconds that it took; 0 before
    ui_url : Spark's web pages; "" before, and without them
    """

    def __init__(self, start: Callable[[], SparkSession], on_start: Callable[[str], None] | None = None) -> None:
        self._start, self._on_start = start, on_start
        self._session: SparkSession | None = None
        self.start_s = 0.0
        self.ui_url = ""

    def __call__(self) -> SparkSession:
        """Return the session."""
        if self._session is None:
            started = time.perf_counter()
            self._session = self._start()
            self.start_s = time.perf_counter() - started
            self.ui_url = self._session.sparkContext.uiWebUrl or ""
            if self._on_start is not None:
                self._on_start(self.ui_url)
        return self._session


def create_session(settings: SparkSettings, *, app_name: str, log_file: Path) -> SparkSession:
    """Start Spark, or return the session that runs in this process already.

    What Spark logs goes to `log_file`; nothing of it to the terminal.

    Raises
    ------
    SessionError
        If there is no Java, or the master does not answer.
    """
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise SessionError(
            "Spark needs a Java runtime (17 or newer) and found none: install one, e.g. openjdk-17-jre-headless"
        )
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    submitted = _submitted()
    if submitted:
        settings = dataclasses.replace(settings, master=submitted.get("spark.master", settings.master))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="conepacs-spark-"))
    log4j = folder / "log4j2.properties"
    log4j.write_text(_LOG4J2.format(log=log_file.resolve().as_posix()))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.is_local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName(app_name)
    properties = settings.properties()
    if not settings.is_local:
        for name, value in store_variables(os.environ).items():
            properties.setdefault(f"spark.executorEnv.{name}", value)
    options = f"-Dlog4j2.configurationFile={log4j.as_uri()} {properties.get(_JAVA_OPTIONS, '')}"
    for key, value in (properties | {_JAVA_OPTIONS: options.strip()} | submitted).items():
        builder = builder.config(key, str(value))
    try:
        with _quiet_stderr(log_file), _no_orphan():
            return builder.getOrCreate()
    except Exception as error:
        raise SessionError(f"Spark did not start on {settings.master}: see {log_file}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _submitted() -> dict[str, str]:
    """Properties of the JVM that spark-submit has started; none without it."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


@contextlib.contextmanager
def _no_orphan() -> Iterator[None]:
    """End a JVM whose start is broken off, by Ctrl-C for instance.

    Once it runs, it ends when this process does.  While it starts, it fails to tell its port, which it writes into a
    folder that pyspark has deleted by then, and would listen for ever.
    """
    from pyspark import SparkContext

    before = _children()
    started = False
    try:
        yield
        started = True
    finally:
        if not started and SparkContext._gateway is None:
            for pid in _children() - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def _children() -> set[int]:
    """Processes that this one started; none where the system does not tell."""
    try:
        return {int(pid) for list_ in Path("/proc/self/task").glob("*/children") for pid in list_.read_text().split()}
    except OSError:
        return set()


@contextlib.contextmanager
def _quiet_stderr(log_file: Path) -> Iterator[None]:
    """Send what the JVM's launcher writes to file descriptor 2 into the log while Spark starts."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        with log_file.open("ab") as log:
            os.dup2(log.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
