# SPDX-License-Identifier: Apache-2.0
"""Every refusal of this package that no other test reaches: what was got, what was expected, what to do instead."""

import json
import math

import numpy as np
import pytest

from reconstruction import backends
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.bricks import Area, brick_windows
from reconstruction.correction import correction_of_white, prepare_band
from reconstruction.coverage import default_grid, projection_matrices, shadow
from reconstruction.errors import BackendUnavailableError, CalibrationError, GeometryError, ParameterError
from reconstruction.exchange import astra, cil, leap, rtk, tigre
from reconstruction.exchange.files import read_geometry
from reconstruction.exchange.panels import Panel
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.forbild import forbild
from reconstruction.geometry import Pose, Slab, VolumeGrid
from reconstruction.iterative.parameters import iterative_parameters
from reconstruction.iterative.region import make_region
from reconstruction.materials import CADMIUM_TELLURIDE
from reconstruction.orbits import find_orbits
from reconstruction.photon_counting import marker_specimen
from reconstruction.redundancy import find_redundancy
from reconstruction.slabs import view_rows
from reconstruction.slice_weights import slice_weights
from reconstruction.spectrum import bin_response, kramers_spectrum
from tests.support.orbits import circle, degrees, stack

GRID = VolumeGrid((4, 40, 40), (1.0, 0.5, 0.5))
ROUND = circle(degrees(0, 360, 4))
LINE = stack((-3.0, 3.0), degrees(0, 360, 4), n_rows=1)


def refused_by_lines(radius_mm):
    """Rows of views whose field reaches behind the source."""
    z = np.zeros(ROUND.n_views)
    return view_rows(ROUND, radius_mm, z, z)


def brick_behind_the_source():
    grid = VolumeGrid((2, 300, 300), (1.0, 1.0, 1.0))
    matrices = projection_matrices(ROUND)
    return brick_windows(
        matrices, np.array([0]), grid, Slab(0, 2), Area(0, 300, 0, 300), 140.0, panel_rows=30, filtered_cols=(0, 100)
    )


def wang_beside_the_axis():
    geometry = circle(degrees(0, 360, 4), offset_u_mm=45.0)
    return find_redundancy(find_orbits(geometry), "wang", 0.1).factors(geometry, 0, 0, 1)


def unseen_region():
    return make_region(ROUND, VolumeGrid((1, 8, 8), (0.01, 0.5, 0.5)), guard_slices=0).band


FLATS, DARKS = np.full((2, 6, 8), 900), np.full((2, 6, 7), 10)
NO_BAD = np.zeros((6, 8), dtype=bool)

#: What is asked for, the error, and what it says: what was got, and what is right.
REFUSALS = {
    "a field round the source": (
        lambda: shadow(ROUND, 101.0, -1.0, 1.0),
        GeometryError,
        r"radius 101 mm reaches the source, which is 100 mm from the axis: ask for a smaller field",
    ),
    "a field that touches the source": (
        lambda: shadow(stack((-8.0, 8.0), degrees(0, 360, 4)), 99.99, -1.0, 1.0),
        GeometryError,
        r"radius 99.99 mm reaches behind the source of a view: ask for a smaller field",
    ),
    "rows of a field round the source": (
        lambda: refused_by_lines(101.0),
        GeometryError,
        r"radius 101 mm reaches behind .*: ask for a smaller field",
    ),
    "a brick round the source": (
        brick_behind_the_source,
        GeometryError,
        r"brick at slices 0:2.*behind a view's source: take a grid within",
    ),
    "a stack that sees no whole disc": (
        lambda: slice_weights(LINE, find_orbits(LINE), 12.0, np.zeros(1)),
        GeometryError,
        r"no view sees the whole disc of a field of radius 12 mm at any height: ask for a smaller field",
    ),
    "a voxel pitch of nothing": (lambda: default_grid(ROUND, 0.0), GeometryError, r"positive length, got 0.0 mm"),
    "a voxel larger than the field": (
        lambda: default_grid(ROUND, 60.0),
        GeometryError,
        r"holds no voxel of 60 mm: take smaller voxels, or say the grid",
    ),
    "a cut-off above 1": (
        lambda: FdkParameters(cutoff=1.2),
        ParameterError,
        r"share of the Nyquist .* in \(0, 1\], got 1.2",
    ),
    "a field of no radius": (
        lambda: FdkParameters(field_radius_mm=-2.0),
        ParameterError,
        r"radius must be positive, got -2.0 mm",
    ),
    "projections of another size": (
        lambda: reconstruct(np.zeros((90, 30, 99), np.float32), ROUND, GRID),
        GeometryError,
        r"shape \(90, 30, 99\), the geometry says \(90, 30, 100\)",
    ),
    "projections of another type": (
        lambda: reconstruct(np.zeros((90, 30, 100)), ROUND, GRID),
        ParameterError,
        r"must be float32 line integrals, got float64",
    ),
    "Wang beside the axis": (wang_beside_the_axis, GeometryError, r"this one lies beside it: use redundancy 'auto'"),
    "a pose of eleven numbers": (
        lambda: Pose.from_array(np.zeros(11)),
        GeometryError,
        r"a pose has 12 numbers, got 11",
    ),
    "a grid without a centre": (
        lambda: VolumeGrid((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, math.nan)),
        GeometryError,
        r"finite \(x, y, z\) \[mm\], got",
    ),
    "an empty slab": (lambda: Slab(3, 3), GeometryError, r"needs 0 <= z_start < z_stop, got 3 and 3"),
    "flats and darks of two panels": (
        lambda: prepare_band(FLATS, DARKS, NO_BAD),
        CalibrationError,
        r"flat frames have \(6, 8\) pixels, the dark frames \(6, 7\)",
    ),
    "a white of another panel": (
        lambda: correction_of_white(np.ones((3, 7), np.float32), None, NO_BAD, CorrectionParameters(), row_start=2),
        CalibrationError,
        r"white of \(3, 7\) pixels from row 2 on does not fit \(6, 8\)",
    ),
    "rays through no sample": (
        lambda: forbild("head").line_integrals(ROUND, [0], supersample=0),
        ParameterError,
        r"at least 1, got 0",
    ),
    "voxels of no sample": (
        lambda: forbild("head").sample(GRID, supersample=0),
        ParameterError,
        r"supersample must be at least 1, got 0",
    ),
    "a specimen of no size": (
        lambda: marker_specimen(0.0),
        ParameterError,
        r"radius_mm must be a positive length, got 0.0",
    ),
    "a spectrum in too large steps": (
        lambda: kramers_spectrum(80.0, (), step_kev=20.0),
        ParameterError,
        r"must lie in \(0, 10\] keV, got 20.0",
    ),
    "a threshold that no photon passes": (
        lambda: bin_response(80.0, (20.0,), sensor=(CADMIUM_TELLURIDE, 0.0)),
        ParameterError,
        r"no photon of a 80 kV .* threshold 20 keV",
    ),
    "FDK with iterations": (
        lambda: iterative_parameters("fdk", iterations=3, subsets=2),
        ParameterError,
        r"iterations and subsets do not go with the method fdk: take one of",
    ),
    "an unknown method": (
        lambda: iterative_parameters("mlem"),
        ParameterError,
        r"unknown method 'mlem': expected one of fdk",
    ),
    "total variation with SIRT": (
        lambda: iterative_parameters("sirt", tv_strength=0.1),
        ParameterError,
        r"goes with the method tv, got the method sirt",
    ),
    "fewer guard slices than none": (
        lambda: make_region(ROUND, GRID, guard_slices=-1),
        GeometryError,
        r"cannot be fewer than none, got -1",
    ),
    "slices thinner than a ray": (
        unseen_region,
        GeometryError,
        r"no ray of the panel enters and leaves .*: ask for slices that the panel sees",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_what_was_got_and_what_is_right(name):
    ask, error, said = REFUSALS[name]
    with pytest.raises(error, match=said) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_a_back_end_whose_package_is_missing_says_which(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {"absent": "reconstruction.backends.no_such_module"})
    with pytest.raises(BackendUnavailableError, match=r"back end 'absent' needs the package 'reconstruction.*missing"):
        backends.load_backend("absent")


ASTRA = {
    "type": "cone", "DetectorRowCount": 4, "DetectorColCount": 5, "DetectorSpacingX": 1.0, "DetectorSpacingY": 1.0,
    "DistanceOriginSource": 100.0, "DistanceOriginDetector": 50.0, "ProjectionAngles": [0.0, 1.0],
}  # fmt: skip
CIL = {
    "geometry": "Cone3D", "num_pixels": [5, 4], "pixel_size": [1.0, 1.0], "source_position": [0, -100, 0],
    "detector_position": [0, 50, 0], "angles": [0.0, 10.0],
}  # fmt: skip
FLEX = {
    "geometry": "Cone3D_Flex", "num_pixels": [5, 4], "pixel_size": [1.0, 1.0],
    "source_position_set": [[0, -100, 0]], "detector_position_set": [[0, 50, 0]],
    "detector_direction_x_set": [[1, 0, 0]], "detector_direction_y_set": [[0, 0, 1]],
}  # fmt: skip
TIGRE = {
    "DSD": 150.0, "DSO": 100.0, "nDetector": [4, 5], "dDetector": [1.0, 1.0], "angles": [0.0, 1.0],
}  # fmt: skip
LEAP = {
    "geometry": "cone", "numAngles": "2", "numRows": "4", "numCols": "5", "pixelHeight": "1", "pixelWidth": "1",
    "centerRow": "1.5", "centerCol": "2", "sod": "100", "sdd": "150", "phis": "0, 90",
}  # fmt: skip
MODULAR = {
    "geometry": "modular", "numAngles": "1", "numRows": "4", "numCols": "5", "pixelHeight": "1", "pixelWidth": "1",
    "sourcePositions": "0, -100, 0", "moduleCenters": "0, 50, 0", "rowVectors": "0, 0, 1",
}  # fmt: skip
RTK = (
    '<?xml version="1.0"?>\n<RTKThreeDCircularGeometry version="3"><SourceToIsocenterDistance>100'
    "</SourceToIsocenterDistance><SourceToDetectorDistance>150</SourceToDetectorDistance>{}"
    "<Projection><GantryAngle>{}</GantryAngle>{}</Projection></RTKThreeDCircularGeometry>"
)
PANEL = Panel(4, 5, 1.0, 1.0)


def leap_text(values, **changes):
    kept = {key: value for key, value in (values | changes).items() if value is not None}
    return "".join(f"{key} = {value}\n" for key, value in kept.items())


def in_rtk(outside="", angle="0", inside=""):
    return lambda: rtk.import_xml(RTK.format(outside, angle, inside), "g.xml", PANEL)


def in_cil(**changes):
    return lambda: cil.from_dict(CIL | changes, "g.json")


def in_flex(**changes):
    return lambda: cil.from_dict(FLEX | changes, "g.json")


def in_tigre(**changes):
    return lambda: tigre.from_dict(TIGRE | changes, "g.json")


FILES = {
    "astra unit": (
        lambda: astra.from_dict(ASTRA, "g.json", unit_mm=0.0),
        r"unit_mm must be a positive length, got 0.0",
    ),
    "astra value": (
        lambda: astra.from_dict(ASTRA | {"DetectorRowCount": "four"}, "g.json"),
        r"'cone' has a malformed value: .*four",
    ),
    "astra key": (
        lambda: astra.from_dict({k: v for k, v in ASTRA.items() if k != "DetectorSpacingX"}, "g.json"),
        r"lacks the key 'DetectorSpacingX'",
    ),
    "cil origin": (in_cil(origin="middle"), r"origin should be one of bottom-left, .*, got 'middle'"),
    "cil axis": (in_cil(rotation_axis_direction=[0, 0, 0]), r"rotation axis has no length: give \(0, 0, 1\) for z"),
    "cil directions": (in_cil(detector_direction_x=[1, 0, 1]), r"directions at right angles, got a cosine of 0.707"),
    "cil set": (in_flex(source_position_set=[[0, -100]]), r"three numbers a view, got an array of shape \(1, 2\)"),
    "cil key": (in_cil(geometry="Cone3D_Flex"), r"kind Cone3D_Flex lacks the key 'source_position_set'"),
    "cil value": (in_cil(angles="many"), r"kind Cone3D has a malformed value: .*many"),
    "leap kind": (lambda: leap.read_text(leap_text(LEAP, geometry=None), "g.cfg"), r"needs the key 'geometry'"),
    "leap list": (lambda: leap.read_text(leap_text(MODULAR), "g.cfg"), r"modular LEAP geometry needs the key '\w+'"),
    "leap key": (lambda: leap.read_text(leap_text(LEAP, sod=None), "g.cfg"), r"needs the key 'sod'"),
    "leap count": (
        lambda: leap.read_text(leap_text(LEAP, phis="0, 1, 2"), "g.cfg"),
        r"phis should hold 2 finite numbers, got 3",
    ),
    "leap number": (lambda: leap.read_text(leap_text(LEAP, sdd="far"), "g.cfg"), r"sdd should hold numbers: .*far"),
    "rtk pitch": (
        lambda: rtk.import_xml(RTK.format("", "0", ""), "g.xml", Panel(4, 5)),
        r"give pitch_u_mm and pitch_v_mm",
    ),
    "rtk two numbers": (in_rtk(angle="0 1"), r"<GantryAngle> needs one number, got '0 1'"),
    "rtk not finite": (in_rtk(angle="nan"), r"<GantryAngle> holds a number that is not finite"),
    "rtk word": (in_rtk(angle="north"), r"<GantryAngle> should hold numbers: .*north"),
    "rtk matrix": (in_rtk(inside="<Matrix>1 2 3</Matrix>"), r"the matrix of view 0 has 3 numbers, expected 12"),
    "rtk element": (in_rtk(outside="<Moon>1</Moon>"), r"has the element 'Moon', which .* does not know: take it out"),
    "rtk views": (
        lambda: rtk.RtkGeometry(np.zeros(2), np.ones(3), *(np.zeros(2) for _ in range(7))),
        r"source_to_isocenter_mm needs one finite number for each of 2 views",
    ),
    "tigre angles": (
        in_tigre(angles=[[0.0, 1.0], [1.0, 2.0]]),
        r"one number, or three, for each view, got the shape \(2, 2\)",
    ),
    "tigre words for angles": (in_tigre(angles=["a", "b"]), r"the angles should be numbers: "),
    "tigre scalar": (in_tigre(DSD=[1.0, 2.0, 3.0]), r"'DSD' needs one number or 2, got an array of shape \(3,\)"),
    "tigre axes": (in_tigre(nDetector=[4, 5, 6]), r"'nDetector' needs 2 numbers, got an array of shape \(3,\)"),
    "tigre per view": (
        in_tigre(offDetector=[[1.0, 2.0]] * 3),
        r"'offDetector' needs 2 numbers, or as many for each of 2 views, got",
    ),
    "tigre not finite": (in_tigre(COR=math.inf), r"'COR' holds a number that is not finite"),
    "tigre words": (in_tigre(dDetector=["wide", "high"]), r"'dDetector' should hold numbers: "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_geometry_of_another_program_is_refused_with_its_field(name):
    ask, said = FILES[name]
    with pytest.raises(GeometryError, match=said):
        ask()


def test_files_that_are_not_there_or_not_of_a_program_are_refused(tmp_path):
    with pytest.raises(GeometryError, match=r"absent\.json cannot be read: No such file"):
        read_geometry(tmp_path / "absent.json", program="astra")
    path = tmp_path / "g.json"
    path.write_text(json.dumps(TIGRE | {"order": "fortran"}))
    with pytest.raises(GeometryError, match="order should be 'python' or 'matlab', got 'fortran'"):
        read_geometry(path, program="tigre")
    with pytest.raises(GeometryError, match="a table of poses is not written as JSON"):
        read_geometry(path, program="poses", panel=PANEL)
