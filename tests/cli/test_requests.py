# SPDX-License-Identifier: Apache-2.0
"""From options, as typed, to a request, and through a job's parameters to the same request."""

import pytest
import typer

from cli.requests import RequestOptions
from jobs.kinds import read_parameters
from reconstruction.errors import ParameterError
from spark_jobs.errors import PlanError
from spark_jobs.planning.request import request_from_json
from spark_jobs.running.kinds import SPARK_KINDS, request_of, values_of


@pytest.mark.parametrize(
    "typed",
    [
        {"redundancy": "parker", "outside": -0.02, "padding": 0.25, "tilted": "general"},
        {"voxel": "0.2", "correction": ["bad_pixels=keep", "hot_above=0.2"]},
        {"voxel": "0.4,0.1,0.1", "shape": "8,16,16", "outside": 0.5, "mu_range": "-1,1"},
    ],
)
def test_what_is_typed_reaches_the_job_unchanged(typed):
    request = RequestOptions(**typed).request("stone")
    assert request_of(read_parameters(SPARK_KINDS["reconstruct"], values_of(request))) == request
    assert request_from_json(request.to_json()) == request


def test_values_reach_their_places():
    request = RequestOptions(redundancy="wang", outside=-0.02, padding=0.1, tilted="general", voxel="3,2,1").request(
        "stone"
    )
    fdk = request.fdk
    assert (fdk.redundancy, fdk.outside_value, fdk.truncation_padding, fdk.tilted) == ("wang", -0.02, 0.1, "general")
    assert request.pitch_zyx_mm == (3.0, 2.0, 1.0)
    assert RequestOptions(voxel="0.5").request("stone").pitch_zyx_mm == (0.5, 0.5, 0.5)
    assert RequestOptions(correction=["bad_pixels=keep"]).request("stone").correction.bad_pixels == "keep"


@pytest.mark.parametrize(
    ("typed", "error", "said"),
    [
        ({"redundancy": "magic"}, ParameterError, "expected one of auto, parker, wang, none"),
        ({"correction": ["colour=red"]}, typer.BadParameter, "got 'colour'"),
        ({"correction": ["keep"]}, typer.BadParameter, "--correction needs KEY=VALUE"),
        ({"correction": ["hot_above=x"]}, typer.BadParameter, "--correction hot_above needs a number, got 'x'"),
        ({"voxel": "1,2"}, typer.BadParameter, "--voxel"),
        ({"outside": 0.5, "mu_range": "-0.1,0.4"}, PlanError, "not in the stored range of mu, -0.1 to 0.4"),
    ],
)
def test_what_cannot_be_is_one_sentence(typed, error, said):
    with pytest.raises(error, match=said):
        RequestOptions(**typed).request("stone")
