# SPDX-License-Identifier: Apache-2.0
"""Errors of the job queue.

::

    JobError
    |-- UnknownJobError
    |-- UnknownKindError (ValueError)
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


class JobParameterError(JobError, ValueError):
    """The parameters of a job do not fit its kind: the message names the first that is wrong."""


class JobStateError(JobError):
    """A job's state does not allow what was asked, e.g. to retry one that runs."""


class LeaseLostError(JobError):
    """A runner's lease ran out and another may have the job: whatever it still does must not be written down."""
