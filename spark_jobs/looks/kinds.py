# SPDX-License-Identifier: Apache-2.0
"""The kinds of jobs that look: preview and sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.kinds import JobKind, kinds_by_name
from jobs.records import Resources
from spark_jobs.looks.parameters import PreviewParameters, SweepParameters

if TYPE_CHECKING:
    from collections.abc import Mapping


def look_resources(parameters: PreviewParameters) -> Resources:
    """What a look needs: a core, and the memory of its line integrals twice."""
    return Resources(cores=1, memory_bytes=2 * parameters.memory_bytes)


#: The kinds of this package by name.
LOOK_KINDS: Mapping[str, JobKind] = kinds_by_name(
    (
        JobKind(
            "preview", "Look at one slice or a coarse volume of a stored scan", PreviewParameters, look_resources,
            "spark_jobs.looks.kind_runs:run_preview",
        ),
        JobKind(
            "sweep", "Reconstruct one slice with many values of one parameter", SweepParameters, look_resources,
            "spark_jobs.looks.kind_runs:run_sweep",
        ),
    )
)  # fmt: skip
