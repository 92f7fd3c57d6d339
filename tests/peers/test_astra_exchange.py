# SPDX-License-Identifier: Apache-2.0
"""ASTRA's own conversion from angles to vectors judges ours; its geometry code runs without a GPU."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from reconstruction.exchange import astra as exchange
from reconstruction.exchange.files import geometry_bytes
from reconstruction.exchange.panels import Panel
from tests.support.peers import require_peer
from tests.support.reader_samples_exchange import small_geometry


@pytest.fixture(scope="module")
def astra():
    """The toolbox."""
    require_peer("astra-toolbox", importlib.util.find_spec("astra") is not None, "pip install astra-toolbox")
    import astra

    return astra


def test_angles_give_astras_own_vectors(astra):
    angles = np.array([0.0, 0.4, 1.1, 2.9, 5.5])
    theirs = astra.functions.geom_2vec(astra.create_proj_geom("cone", 0.9, 1.1, 30, 40, angles, 100.0, 60.0))
    ours = exchange.from_angles(
        angles, source_origin=100.0, origin_det=60.0, det_spacing_x=0.9, det_spacing_y=1.1, panel=Panel(30, 40)
    )
    np.testing.assert_allclose(exchange.to_vectors(ours.geometry), theirs["Vectors"], atol=1e-12)


def test_moving_the_panel_is_astras_postalignment(astra):
    plain = exchange.from_angles(
        [0.3, 2.0], source_origin=100.0, origin_det=60.0, det_spacing_x=0.9, det_spacing_y=1.1, panel=Panel(30, 40)
    ).geometry
    values = json.loads(geometry_bytes(plain, "astra", ".json"))
    values["Vectors"] = np.array(values["Vectors"])
    moved = astra.functions.geom_postalignment(values, (2.5, -1.5))["Vectors"]
    poses = plain.poses.copy()
    poses[:, 3:6] += 2.5 * poses[:, 6:9] - 1.5 * poses[:, 9:12]
    np.testing.assert_allclose(moved, poses, atol=1e-12)


def test_astra_takes_our_dictionary(astra):
    geometry = small_geometry(tilted=True)
    values = json.loads(geometry_bytes(geometry, "astra", ".json"))
    values["Vectors"] = np.array(values["Vectors"])
    identifier = astra.data3d.create("-sino", values, 0.5)
    try:
        assert astra.data3d.get(identifier).shape == (geometry.n_rows, geometry.n_views, geometry.n_cols)
        vectors = astra.data3d.get_geometry(identifier)["Vectors"]
        np.testing.assert_allclose(vectors, geometry.poses, atol=1e-12)
    finally:
        astra.data3d.delete(identifier)
