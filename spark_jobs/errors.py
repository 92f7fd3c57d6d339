# SPDX-License-Identifier: Apache-2.0
"""Errors of the Spark jobs.

::

    SparkJobError
    |-- PlanError (ValueError)
    |-- BandCorruptError
    |-- JobStoppedError
    |-- RunnerError (ValueError)
    |-- SessionError
    |-- SweepRefusedError
    `-- TaskFailedError
"""


class SparkJobError(Exception):
    """Base of everything this package raises on purpose."""


class PlanError(SparkJobError, ValueError):
    """A reconstruction cannot be planned as asked: the message says what was got and what is possible."""


class BandCorruptError(SparkJobError):
    """A stored band of filtered rows does not have the checksum or size that it should have."""


class JobStoppedError(SparkJobError):
    """A job was told to stop, and stopped: nothing of it was registered."""


class RunnerError(SparkJobError, ValueError):
    """A job runner cannot be set up as asked: the message says what was got and what was expected."""


class SessionError(SparkJobError):
    """Spark cannot be started, or the master does not answer."""


class SweepRefusedError(SparkJobError):
    """What should be swept from a store would be more than what killed jobs left."""


class TaskFailedError(SparkJobError):
    """A task failed as often as it may; nothing was registered."""
