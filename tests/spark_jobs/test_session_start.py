# SPDX-License-Identifier: Apache-2.0
"""A start of Spark that is broken off leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

_START = """
import sys
from pathlib import Path
from spark_jobs.running.session import create_session
from spark_jobs.running.settings import SparkSettings
create_session(SparkSettings(), app_name="broken off", log_file=Path(sys.argv[1]))
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_start_that_is_broken_off_leaves_no_jvm(tmp_path):
    """A JVM that takes long to start, and Ctrl-C, which it does not hear."""
    script, told = tmp_path / "bin/spark-submit", tmp_path / "pid"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho $$ > {told}.part\nmv {told}.part {told}\nexec sleep 60\n")
    script.chmod(0o755)
    starter = subprocess.Popen(
        [sys.executable, "-c", _START, tmp_path / "spark.log"],
        env=os.environ | {"SPARK_HOME": str(tmp_path), "JAVA_HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_until("the JVM is started", told.exists, timeout_s=60)
        jvm = int(told.read_text())
        starter.send_signal(signal.SIGINT)
        assert starter.wait(30) != 0
        wait_until("the JVM has ended", lambda: not _alive(jvm), timeout_s=10)
    finally:
        starter.kill()
        starter.wait()
