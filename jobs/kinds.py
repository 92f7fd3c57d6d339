# SPDX-License-Identifier: Apache-2.0
"""Kinds of jobs: what parameters each takes, what it needs, and what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.records import Resources


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job, registered by the program that offers it.

    Attributes
    ----------
    name : lower case, e.g. ``reconstruct``
    title : one line for people
    parameters : a frozen dataclass; its fields, types and defaults are the schema
    resources : what a job with some parameters (an instance of that dataclass) needs
    run : does the work: (the runner's context, the parameters) -> result as JSON values; an import path
        ``package.module:function``, resolved where it runs, so that who only submits needs none of its libraries
    """

    name: str
    title: str
    parameters: type[Any]
    resources: Callable[[Any], Resources]
    run: str
