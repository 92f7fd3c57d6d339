# SPDX-License-Identifier: Apache-2.0
"""Kinds of jobs: their parameters' schema, and what runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from jobs.errors import JobParameterError, KindUnavailableError, UnknownKindError
from jobs.kinds import (
    JobKind,
    check_parameters,
    find_kind,
    json_schema,
    kinds_by_name,
    load_run,
    read_parameters,
)
from jobs.records import Resources


@dataclass(frozen=True, slots=True)
class Filter:
    name: str = "ram-lak"
    cutoff: float = 1.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the kind of these tests takes."""

    scan: str
    bins: tuple[int, ...] = ()
    shape: tuple[int, int, int] | None = None
    mode: Literal["auto", "fused"] = "auto"
    filter: Filter = field(default_factory=Filter)
    stages: tuple[Filter, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if any(one < 0 for one in self.bins):
            raise ValueError(f"bins must not be negative, got {self.bins}")


def make_kind(name="scan", run="tests.support.queues:run_work", parameters=Parameters):
    return JobKind(name, "for tests", parameters, lambda _parameters: Resources(), run)


KIND = make_kind()


def test_parameters_are_completed_with_all_defaults():
    complete = check_parameters(KIND, {"scan": "a", "bins": [1, 2], "filter": {"cutoff": 1}, "labels": {"any": "name"}})
    assert complete == {
        "scan": "a",
        "bins": [1, 2],
        "shape": None,
        "mode": "auto",
        "filter": {"name": "ram-lak", "cutoff": 1.0},
        "stages": [],
        "labels": {"any": "name"},
    }
    assert check_parameters(KIND, complete) == complete
    assert read_parameters(KIND, complete) == Parameters("a", (1, 2), filter=Filter(cutoff=1.0), labels={"any": "name"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "scan: the parameter 'scan' is missing"),
        ({"scan": 3}, "scan: parameter 'scan': input should be a valid string, got 3"),
        ({"scan": "a", "mode": "slow"}, "parameter 'mode': input should be 'auto' or 'fused', got 'slow'"),
        ({"scan": "a", "bins": [1, "x"]}, r"parameter 'bins.1': input should be a valid integer"),
        ({"scan": "a", "filter": {"cutoff": "x"}}, "parameter 'filter.cutoff': input should be a valid number"),
        ({"scan": "a", "bin": 1}, "scan: there is no parameter 'bin'; there are scan, bins, shape, mode, filter"),
        ({"scan": "a", "filter": {"cut": 1}}, "scan: there is no parameter 'filter.cut'"),
        ({"scan": "a", "stages": [{}, {"cut": 1}]}, r"scan: there is no parameter 'stages\[1\].cut'"),
        ({"scan": "a", "bins": [-1]}, r"scan: bins must not be negative, got \(-1,\)"),
        ({"scan": "a", "filter": {"cutoff": float("nan")}}, "parameters of kind 'scan': not JSON values"),
        ({"scan": object()}, "parameters of kind 'scan': not JSON values"),
        ({"scan": "a" * (256 << 10)}, r"parameters of kind 'scan': \d+ bytes as JSON, at most 262144 are allowed"),
        ({"scan": ["x" * 500]}, r"input should be a valid string, got .{80}$"),
    ],
)
def test_wrong_parameters_are_told_in_one_sentence(values, message):
    with pytest.raises(JobParameterError, match=message) as caught:
        check_parameters(KIND, values)
    assert "\n" not in str(caught.value)


def test_the_schema_is_that_of_the_dataclass():
    schema = json_schema(KIND)
    assert schema["required"] == ["scan"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["mode"] == {
        "default": "auto",
        "enum": ["auto", "fused"],
        "title": "Mode",
        "type": "string",
    }


def test_a_registry_is_a_plain_mapping_of_different_names():
    kinds = kinds_by_name([KIND, make_kind("other")])
    assert list(kinds) == ["scan", "other"]
    assert find_kind(kinds, "scan") is KIND
    with pytest.raises(UnknownKindError, match="no kind of job is named 'sacn'; there are other, scan"):
        find_kind(kinds, "sacn")
    with pytest.raises(UnknownKindError, match="there are none"):
        find_kind({}, "scan")
    with pytest.raises(ValueError, match="two kinds of jobs are named 'scan'"):
        kinds_by_name([KIND, KIND])
    with pytest.raises(TypeError):
        kinds["third"] = KIND


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Big Name"}, "kind of job 'Big Name': expected a name of a-z"),
        ({"parameters": dict}, "kind of job 'scan': its parameters must be a dataclass"),
        ({"run": "json.dumps"}, "kind of job 'scan': expected package.module:function, got 'json.dumps'"),
    ],
)
def test_a_kind_that_cannot_work_is_refused_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        make_kind(**changes)


def test_what_runs_a_kind_is_loaded_on_use():
    assert load_run(KIND).__name__ == "run_work"
    for run, message in {
        "no_such_package.jobs:run": "jobs of kind 'scan' cannot be run here: No module named 'no_such_package'",
        "json:no_such_function": "jobs of kind 'scan' cannot be run here: json has no 'no_such_function'",
        "json:__name__": "jobs of kind 'scan' cannot be run here: json:__name__ is not a function",
    }.items():
        with pytest.raises(KindUnavailableError, match=message):
            load_run(make_kind(run=run))
