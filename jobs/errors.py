# SPDX-License-Identifier: Apache-2.0
"""Errors of the job queue.

::

    JobError
    |-- UnknownJobError
    |-- UnknownKindError (ValueError)
    |-- KindUnavailableError
    |-- JobParameterError (ValueError)
    |-- JobStateError
    `-- LeaseLostError
"""


class JobError(Exception):
    """Base of everything this package raises on purpose."""


class UnknownJobError(JobError):
    """There is no job of that number."""


class UnknownKindError(JobError, ValueError):
    """No kind of that name is registered."""


class KindUnavailableError(JobError):
    """What runs a kind of job cannot be loaded on this machine."""


class JobParameterError(JobError, ValueError):
    """A job's parameters do not fit its kind, or another of its values is refused: the message names the first."""


class JobStateError(JobError):
    """A job's state does not allow what was asked, e.g. to retry one that runs."""


class LeaseLostError(JobError):
    """A runner's lease ran out and another may have the job: whatever it still does must not be written down."""
