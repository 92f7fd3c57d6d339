# SPDX-License-Identifier: Apache-2.0
"""Crooked looks, sweeps and records are refused before anything is read."""

import math

import pytest

from reconstruction.errors import ParameterError
from spark_jobs.errors import PlanError
from spark_jobs.looks.parameters import MOST_VALUES, PreviewParameters, SweepParameters
from spark_jobs.planning.series import run_from_bytes


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"scan_id": ""}, "needs the id of a stored scan, got none"),
        ({"voxels": 4}, "has 8 to 4096 voxels across, got 4"),
        ({"views": 2}, "needs at least 3 views, got 2"),
        ({"z_mm": math.nan}, "the height of a slice is a number of mm, .* got nan"),
        ({"z_mm": 3.0, "coarse": True}, "a coarse volume has none, got 3.0"),
        ({"memory_bytes": 1000}, "needs at least 1 MiB for line integrals, got 1000 bytes"),
    ],
)
def test_a_crooked_look_is_refused(wanted, words):
    with pytest.raises(PlanError, match=words):
        PreviewParameters(**({"scan_id": "scan-1"} | wanted))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"parameter": "pitch"}, "unknown parameter 'pitch': expected one of shift-px"),
        ({"score": "taste"}, "unknown score 'taste': expected one of "),
        ({"coarse": True}, "a sweep is of one slice: give its height, not a coarse volume"),
        ({"values": (1.0,)}, f"has 2 to {MOST_VALUES} values, got 1"),
        ({"values": ("hann", "cosine")}, "a sweep of shift-px takes numbers, got 'hann'"),
        ({"values": (1.0, math.inf)}, "a sweep of shift-px takes numbers, got 'inf'"),
        ({"parameter": "filter", "values": (1.0, 2.0)}, r"a sweep of filter takes names of filter windows, got '1\.0'"),
    ],
)
def test_a_crooked_sweep_is_refused(wanted, words):
    with pytest.raises(PlanError, match=words):
        SweepParameters(**({"scan_id": "scan-1", "values": (0.0, 1.0)} | wanted))


def test_a_value_of_a_sweep_that_is_no_parameter_is_refused():
    with pytest.raises(ParameterError, match=r"cut-off is a share of the Nyquist frequency in \(0, 1\], got 2\.0"):
        SweepParameters("scan-1", parameter="cutoff", values=(0.5, 2.0))
    with pytest.raises(ParameterError, match="unknown filter window 'gauss': expected one of ram-lak"):
        SweepParameters("scan-1", parameter="filter", values=("hann", "gauss"))


def test_a_record_of_another_schema_version_is_refused():
    with pytest.raises(PlanError, match="runs/x/run has run schema version 99, expected "):
        run_from_bytes(b'{"schema_version": 99}', "runs/x/run")
