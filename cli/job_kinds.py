# SPDX-License-Identifier: Apache-2.0
"""The kinds of jobs that this program offers: those of all packages, put together here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from jobs.kinds import JobKind, kinds_by_name


def all_kinds() -> Mapping[str, JobKind]:
    """Return every kind by name.  A package that brings kinds of its own is added to the list of mappings."""
    from spark_jobs.looks.kinds import LOOK_KINDS
    from spark_jobs.running.kinds import SPARK_KINDS

    packages = (SPARK_KINDS, LOOK_KINDS)
    return kinds_by_name(chain.from_iterable(kinds.values() for kinds in packages))
