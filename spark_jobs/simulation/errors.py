# SPDX-License-Identifier: Apache-2.0
"""Errors of the cluster planner and its simulation.

::

    SparkJobError
    `-- SimulationError (ValueError)
        |-- DescriptionError
        `-- DoesNotFitError
"""

from __future__ import annotations

from spark_jobs.errors import SparkJobError


class SimulationError(SparkJobError, ValueError):
    """Base of what the planner and its simulation raise on purpose: something cannot be simulated as asked."""


class DescriptionError(SimulationError):
    """The description of a cluster or of a scan is malformed: the message says what was got and what is expected."""


class DoesNotFitError(SimulationError):
    """A plan does not fit a cluster: the message says what is missing, and what would fit."""
