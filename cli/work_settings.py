# SPDX-License-Identifier: Apache-2.0
"""Settings of ``conepacs jobs work``."""

from __future__ import annotations

from pydantic import Field

from cli.job_settings import JobSettings
from spark_jobs.running.runner_settings import RunnerSettings


class WorkSettings(JobSettings):
    """Spark, and the runner that works jobs off by it."""

    runner: RunnerSettings = Field(default_factory=RunnerSettings)
