# SPDX-License-Identifier: Apache-2.0
"""Settings of the programs that compute or serve; apart from those of a workstation that only uploads."""

from __future__ import annotations

from pydantic import Field

from cli.settings import StoreSettings
from spark_jobs.running.settings import SparkSettings


class JobSettings(StoreSettings):
    """Settings of ``conepacs reconstruct``."""

    spark: SparkSettings = Field(default_factory=SparkSettings)
