# SPDX-License-Identifier: Apache-2.0
"""Geometries go through the files of other programs and come back; their formulas are written out here again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from reconstruction.errors import GeometryError
from reconstruction.exchange import astra, cil, leap, rtk, tigre
from reconstruction.exchange.files import PROGRAMS, geometry_bytes, program_of, read_geometry
from reconstruction.exchange.panels import Panel, default_grid
from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import marker_phantom, rotation_about
from reconstruction.projector import forward_project

ROWS, COLS = 30, 40


def circular(n_views=24, **changes):
    steps = np.random.default_rng(3).uniform(0.6, 1.4, n_views)
    values = {
        "sod_mm": 100.0, "sdd_mm": 160.0, "angles_rad": 0.3 + np.cumsum(steps) / steps.sum() * 2 * math.pi,
        "n_rows": ROWS, "n_cols": COLS, "pitch_u_mm": 0.9, "pitch_v_mm": 1.1, "offset_u_mm": 1.7, "offset_v_mm": -2.3,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def rotate_panels(geometry, *angles_deg):
    """Turn each panel about its own u, v and normal, another amount in each view."""
    poses = geometry.poses.copy()
    for view in range(geometry.n_views):
        u, v = poses[view, 6:9].copy(), poses[view, 9:12].copy()
        for axis, angle in zip((u, v, np.cross(u, v)), angles_deg, strict=True):
            factor = 1 + 0.5 * math.sin(view)
            matrix = np.array(rotation_about(tuple(axis / np.linalg.norm(axis)), math.radians(angle * factor)))
            u, v = matrix @ u, matrix @ v
        poses[view, 6:9], poses[view, 9:12] = u, v
    return ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)


def tilted(**changes):
    return rotate_panels(circular(**changes), 3.0, -2.0, 4.0)


def helical():
    geometry = circular()
    poses = geometry.poses.copy()
    rise = np.linspace(-8, 8, geometry.n_views)
    poses[:, 2] += rise
    poses[:, 5] += rise
    return ConeBeamGeometry(poses, ROWS, COLS)


def wobbling():
    geometry = tilted()
    poses = geometry.poses.copy()
    poses[:, :6] += np.random.default_rng(1).normal(0, 0.8, (geometry.n_views, 6))
    return ConeBeamGeometry(poses, ROWS, COLS)


def rolled():
    """A tilt about the central ray that is the same in all views: what LEAP calls tilt."""
    geometry = circular(offset_u_mm=0.0, offset_v_mm=0.0)
    poses = geometry.poses.copy()
    t = math.radians(2.5)
    pitch_v, pitch_u = geometry.pitch_mm
    u, v = poses[:, 6:9] / pitch_u, poses[:, 9:12] / pitch_v
    turned_u, turned_v = math.cos(t) * u + math.sin(t) * v, math.cos(t) * v - math.sin(t) * u
    poses[:, 3:6] += 1.7 * turned_u - 2.3 * turned_v
    poses[:, 6:9], poses[:, 9:12] = turned_u * pitch_u, turned_v * pitch_v
    return ConeBeamGeometry(poses, ROWS, COLS)


SCANS = {"circular": circular, "tilted": tilted, "helical": helical, "wobbling": wobbling, "rolled": rolled}
FORMATS = [(program, suffix) for program, (_, suffixes) in PROGRAMS.items() for suffix in suffixes]


def panel_of(geometry):
    pitch_v, pitch_u = geometry.pitch_mm
    return Panel(geometry.n_rows, geometry.n_cols, pitch_u, pitch_v)


def there_and_back(geometry, program, suffix, folder):
    path = folder / f"geometry{suffix}"
    path.write_bytes(geometry_bytes(geometry, program, suffix))
    return read_geometry(path, program=program, panel=panel_of(geometry)).geometry


def assert_same(got, expected):
    assert (got.n_rows, got.n_cols) == (expected.n_rows, expected.n_cols)
    np.testing.assert_allclose(got.poses, expected.poses, rtol=0, atol=1e-9 * expected.sdd_mm)


@pytest.mark.parametrize("scan", sorted(SCANS))
@pytest.mark.parametrize(("program", "suffix"), FORMATS)
def test_poses_come_back_from_each_file(program, suffix, scan, tmp_path):
    geometry = SCANS[scan]()
    assert_same(there_and_back(geometry, program, suffix, tmp_path), geometry)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
@pytest.mark.parametrize("scan", ["circular", "wobbling"])
def test_the_volume_stays_the_same(program, scan, tmp_path):
    geometry = SCANS[scan]()
    grid = VolumeGrid((12, 16, 15), (1.0, 0.7, 0.8), (0.2, -0.3, 0.5))
    projections = forward_project(marker_phantom(9.0), geometry)
    expected = reconstruct(projections, geometry, grid)
    got = reconstruct(projections, there_and_back(geometry, program, PROGRAMS[program][1][0], tmp_path), grid)
    assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("program", "suffix"), FORMATS)
def test_a_file_says_whose_it_is(program, suffix, tmp_path):
    path = tmp_path / f"geometry{suffix}"
    path.write_bytes(geometry_bytes(circular(), program, suffix))
    a_table = program == "poses" or (program == "astra" and suffix != ".json")
    assert program_of(path) == (None if a_table else program)


def test_what_is_no_geometry_is_nobodys(tmp_path):
    for name, content in {
        "a.xml": "<x/>",
        "b.json": "[1]",
        "c.json": "{",
        "d.txt": "hello",
        "e.npz": "PK",
        "f.cfg": "",
    }.items():
        (tmp_path / name).write_text(content)
        assert program_of(tmp_path / name) is None
    assert program_of(tmp_path / "absent.xml") is None


# The conventions, each from the formulas that the program's own source has.


def test_astras_angle_is_ours_and_a_quarter_turn():
    geometry = circular(offset_u_mm=0.0, offset_v_mm=0.0)
    got = astra.from_angles(
        geometry.source_angles_rad + math.pi / 2, source_origin=50.0, origin_det=30.0, det_spacing_x=0.45,
        det_spacing_y=0.55, panel=Panel(ROWS, COLS), unit_mm=2.0,
    )  # fmt: skip
    assert_same(got.geometry, geometry)


def tigre_pose(alpha, theta, psi, dso, dsd, off_u, off_v, yaw, pitch, roll, cor, origin, d_u, d_v):
    """Source, panel's middle and steps as TIGRE's computeDeltas_Siddon has them."""
    a, t, p = alpha, theta, psi
    s, c = math.sin, math.cos
    euler = np.array([
        [c(a) * c(t) * c(p) - s(a) * s(p), -c(a) * c(t) * s(p) - s(a) * c(p), c(a) * s(t)],
        [s(a) * c(t) * c(p) + c(a) * s(p), -s(a) * c(t) * s(p) + c(a) * c(p), s(a) * s(t)],
        [-s(t) * c(p), s(t) * s(p), c(t)],
    ])  # fmt: skip
    r, q, y = roll, pitch, yaw
    panel = np.array([
        [c(r) * c(q), c(r) * s(q) * s(y) - s(r) * c(y), c(r) * s(q) * c(y) + s(r) * s(y)],
        [s(r) * c(q), s(r) * s(q) * s(y) + c(r) * c(y), s(r) * s(q) * c(y) - c(r) * s(y)],
        [-s(q), c(q) * s(y), c(q) * c(y)],
    ])  # fmt: skip
    shift = np.array([-cor * s(a), cor * c(a), 0]) - np.array(origin)
    source = euler @ [dso, 0, 0] + shift
    center = euler @ [dso - dsd, off_u, off_v] + shift
    return np.concatenate([source, center, euler @ panel @ [0, d_u, 0], euler @ panel @ [0, 0, d_v]])


@pytest.mark.parametrize("order", ["python", "matlab"])
def test_tigres_numbers_mean_what_its_projector_does(order):
    rng = np.random.default_rng(5)
    n = 4
    angles, rot = rng.uniform(-3, 3, (n, 3)), rng.uniform(-0.1, 0.1, (n, 3))
    dso, dsd, cor = rng.uniform(90, 110, n), rng.uniform(150, 170, n), rng.uniform(-1, 1, n)
    off, origin = rng.uniform(-3, 3, (n, 2)), rng.uniform(-5, 5, (n, 3))
    matlab = order == "matlab"
    turn = (lambda a: a[:, ::-1].T) if matlab else (lambda a: a)
    values = {
        "DSD": dsd, "DSO": dso, "COR": cor, "angles": angles.T if matlab else angles, "offDetector": turn(off),
        "offOrigin": turn(origin), "rotDetector": rot.T if matlab else rot,
        "nDetector": [COLS, ROWS] if matlab else [ROWS, COLS], "dDetector": [0.9, 1.1] if matlab else [1.1, 0.9],
    }  # fmt: skip
    got = tigre.from_tigre(tigre.from_dict(values, "geo", order)).geometry
    expected = [
        tigre_pose(*angles[i], dso[i], dsd[i], off[i, 1], off[i, 0], *rot[i], cor[i], origin[i, ::-1], 0.9, 1.1)
        for i in range(n)
    ]
    np.testing.assert_allclose(got.poses, expected, atol=1e-10)
    assert (got.n_rows, got.n_cols) == (ROWS, COLS)


def test_a_steady_offset_of_tigres_image_moves_the_volume():
    fields = tigre.to_dict(tigre.to_tigre(circular()))
    fields["offOrigin"] = [3.0, 2.0, 1.0]
    got = tigre.from_tigre(tigre.from_dict(fields, "geo"))
    assert got.grid is not None
    assert got.grid.center_mm == (1.0, 2.0, 3.0)
    assert_same(got.geometry, circular())


@pytest.mark.parametrize("order", ["python", "matlab"])
def test_tigres_fields_come_back_in_both_orders(order):
    geometry = wobbling()
    fields = json.loads(json.dumps(tigre.to_dict(tigre.to_tigre(geometry), order)))
    got = tigre.from_tigre(tigre.from_dict(fields, "geo", order))
    assert_same(got.geometry, geometry)
    assert got.grid is not None
    assert got.grid.shape == default_grid(geometry).shape


def leap_pose(phi_deg, sod, sdd, tau, tilt_deg, height, center_row, center_col, n_rows, n_cols, high, wide):
    """Source, module, row and column vectors as LEAP's convert_conebeam_to_modularbeam has them."""
    phi, tilt = math.radians(phi_deg) - math.pi / 2, math.radians(tilt_deg)
    cp, sp, ct, st = math.cos(phi), math.sin(phi), math.cos(tilt), math.sin(tilt)
    right = 0.5 * (n_cols - 1) * wide - center_col * wide
    up = 0.5 * (n_rows - 1) * high - center_row * high
    source = np.array([sod * cp + tau * sp, sod * sp - tau * cp, height])
    v = np.array([sp * st, -cp * st, ct])
    u = np.array([-sp * ct, cp * ct, st])
    module = np.array([(sod - sdd) * cp + tau * sp, (sod - sdd) * sp - tau * cp, height]) + right * u + up * v
    return np.concatenate([source, module, u * wide, v * high])


def test_leaps_cone_means_what_its_conversion_does():
    phis = np.array([10.0, 50.0, 95.0, 170.0])
    text = (
        "geometry = cone\nnumAngles = 4\nnumRows = 30\nnumCols = 40\npixelHeight = 1.1\npixelWidth = 0.9\n"
        "centerRow = 13.2\ncenterCol = 20.7\nphis = 10, 50, 95, 170\nsod = 100\nsdd = 160\ntau = 1.5\ntiltAngle = 2\n"
        "helicalPitch = 3\n"
    )
    got = leap.read_text(text, "leap.cfg")
    heights = (np.deg2rad(phis) - np.deg2rad(90)) * 3
    expected = [
        leap_pose(phi, 100, 160, 1.5, 2, height, 13.2, 20.7, 30, 40, 1.1, 0.9)
        for phi, height in zip(phis, heights, strict=True)
    ]
    np.testing.assert_allclose(got.geometry.poses, expected, atol=1e-10)


def test_leap_takes_a_cone_where_it_can():
    def kind(geometry):
        return leap.write_text(geometry).split("geometry = ")[1].split("\n")[0]

    assert [kind(scan()) for scan in (circular, rolled, tilted, wobbling)] == ["cone", "cone", "modular", "modular"]
    even = circular(angles_rad=np.linspace(0, 4 * math.pi, 24))
    poses = even.poses.copy()
    poses[:, [2, 5]] += np.linspace(-9, 9, 24)[:, None]
    helix = ConeBeamGeometry(poses, ROWS, COLS)
    assert kind(helix) == "cone"
    assert_same(leap.read_text(leap.write_text(helix), "leap.cfg").geometry, helix)


def test_leaps_older_keys_and_evenly_spaced_angles():
    text = (
        "proj_geometry = cone\nproj_nangles = 8\nproj_nrows = 30\nproj_ncols = 40\nproj_pheight = 1.1\n"
        "proj_pwidth = 0.9\nproj_crow = 14.5\nproj_ccol = 19.5\nproj_arange = 360\nproj_sod = 100\nproj_sdd = 160\n"
        "img_dimx = 20\nimg_dimy = 21\nimg_dimz = 22\nimg_pwidth = 0.5\nimg_pheight = 0.6\nimg_offsetx = 1\n"
    )
    got = leap.read_text(text, "old.cfg")
    beta = np.arange(8) * math.pi / 4 - math.pi / 2
    assert_same(got.geometry, circular(angles_rad=beta, offset_u_mm=0.0, offset_v_mm=0.0))
    assert got.grid == VolumeGrid((22, 21, 20), (0.6, 0.5, 0.5), (1.0, 0.0, 0.0))


def cil_pose(system, angle_deg, panel):
    """A view as CIL's align_reference_frame and its conversion to ASTRA have it; the rotation axis along z."""
    source, detector = (np.array(p) - system["axis"] for p in (system["source"], system["detector"]))
    way = detector - source
    theta = math.atan2(way[0], way[1])

    def about_z(angle):
        return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])

    turn = about_z(-math.radians(angle_deg)) @ about_z(theta)
    columns, rows, origin = panel
    u = np.array(system["x"]) * columns * (-1 if "right" in origin else 1)
    v = np.array(system["y"]) * rows * (-1 if "top" in origin else 1)
    return np.concatenate([turn @ source, turn @ detector, turn @ u, turn @ v])


@pytest.mark.parametrize("origin", cil.ORIGINS)
def test_cils_cone_means_what_its_conversion_to_astra_does(origin):
    roll = math.radians(3)
    system = {
        "source": [2.0, -100.0, 3.0], "detector": [5.0, 60.0, -4.0], "axis": np.array([1.0, 2.0, 0.5]),
        "x": [math.cos(roll), 0, math.sin(roll)], "y": [-math.sin(roll), 0, math.cos(roll)],
    }  # fmt: skip
    values = {
        "geometry": "Cone3D", "source_position": system["source"], "detector_position": system["detector"],
        "detector_direction_x": system["x"], "detector_direction_y": system["y"],
        "rotation_axis_position": system["axis"].tolist(), "angles": [0.0, 30.0, 200.0], "initial_angle": 10.0,
        "num_pixels": [COLS, ROWS], "pixel_size": [0.9, 1.1], "origin": origin,
    }  # fmt: skip
    got = cil.from_dict(values, "cil.json").geometry
    expected = [cil_pose(system, angle + 10.0, (0.9, 1.1, origin)) for angle in (0.0, 30.0, 200.0)]
    np.testing.assert_allclose(got.poses, expected, atol=1e-10)


def test_cils_axis_may_point_anywhere():
    geometry = circular()
    cone = cil.to_cil(geometry)
    assert isinstance(cone, cil.CilCone3D)
    tip = np.array(rotation_about((1.0, 2.0, 0.5), 0.7))
    move = np.array([3.0, -2.0, 7.0])
    moved = {name: tip @ np.array(getattr(cone, name)) for name in (
        "source_position", "detector_position", "detector_direction_x", "detector_direction_y",
        "rotation_axis_direction",
    )}  # fmt: skip
    values = json.loads(cil.write_json(cone))
    values |= {name: vector.tolist() for name, vector in moved.items()}
    for name in ("source_position", "detector_position"):
        values[name] = (moved[name] + move).tolist()
    values["rotation_axis_position"] = move.tolist()
    assert_same(cil.from_dict(values, "cil.json").geometry, geometry)


def test_cil_takes_one_system_where_it_can():
    kinds = [type(cil.to_cil(scan())).__name__ for scan in (circular, rolled, wobbling, helical)]
    assert kinds == ["CilCone3D", "CilCone3D", "CilFlex", "CilFlex"]
    with pytest.raises(GeometryError, match="Cone3D_Flex can hold them"):
        cil.to_cil(wobbling(), flex=False)
    assert isinstance(cil.to_cil(circular(), flex=True), cil.CilFlex)


def test_rtks_numbers_of_a_plain_orbit_are_plain():
    numbers = rtk.to_rtk(circular())
    np.testing.assert_allclose(numbers.gantry_deg, np.mod(np.rad2deg(circular().source_angles_rad), 360), atol=1e-9)
    for name, value in {
        "source_to_isocenter_mm": 100, "source_to_detector_mm": 160, "projection_offset_x_mm": 1.7,
        "projection_offset_y_mm": -2.3, "source_offset_x_mm": 0, "in_plane_deg": 0, "out_of_plane_deg": 0,
    }.items():  # fmt: skip
        np.testing.assert_allclose(getattr(numbers, name), value, atol=1e-9)


def test_rtks_image_may_start_anywhere():
    geometry = circular()
    numbers = rtk.to_rtk(circular(offset_u_mm=0.0, offset_v_mm=0.0))
    u, v = rtk.centered_origin(geometry)
    assert_same(rtk.from_rtk(numbers, Panel(ROWS, COLS, 0.9, 1.1, u + 1.7, v - 2.3)), geometry)


# What a program cannot hold, and files that are not what they should be.


def skewed():
    poses = circular().poses.copy()
    poses[:, 9:12] += 0.05 * poses[:, 6:9]
    return ConeBeamGeometry(poses, ROWS, COLS)


def mirrored():
    poses = circular().poses.copy()
    poses[:, 6:9] *= -1
    return ConeBeamGeometry(poses, ROWS, COLS)


def stretched():
    poses = circular().poses.copy()
    poses[7, 6:9] *= 1.01
    return ConeBeamGeometry(poses, ROWS, COLS)


@pytest.mark.parametrize("program", ["rtk", "tigre", "leap", "cil"])
def test_panels_that_a_program_cannot_hold_are_refused(program):
    for geometry, reason in ((skewed(), "at right angles"), (stretched(), "one pixel pitch")):
        with pytest.raises(GeometryError, match=f"{reason}.*ASTRA vectors can hold that"):
            geometry_bytes(geometry, program)
    if program != "cil":
        with pytest.raises(GeometryError, match="mirrored: flip the frames, or take ASTRA vectors"):
            geometry_bytes(mirrored(), program)


@pytest.mark.parametrize("make", [skewed, mirrored, stretched])
@pytest.mark.parametrize("program", ["astra", "poses"])
def test_vectors_hold_any_panel(program, make, tmp_path):
    assert_same(there_and_back(make(), program, ".npy", tmp_path), make())


def test_cil_holds_a_mirrored_panel(tmp_path):
    assert_same(there_and_back(mirrored(), "cil", ".json", tmp_path), mirrored())


def test_a_cone_that_leap_cannot_hold_is_refused_with_the_way_out():
    steep = rotate_panels(circular(n_views=1, angles_rad=[0.0]), 0.0, 0.0, 9.0)
    forth_and_back = circular(n_views=3, angles_rad=[0.0, 1.0, 0.5])
    for geometry in (steep, forth_and_back, wobbling()):
        with pytest.raises(GeometryError, match="modular beam can hold"):
            leap.write_text(geometry, kind="cone")
    with pytest.raises(GeometryError, match="voxels as wide along x as along y"):
        leap.write_text(circular(), VolumeGrid((4, 4, 4), (1.0, 1.0, 2.0)))


BROKEN = {
    ("rtk", "a.xml", "<RTKThreeDCircularGeometry version='1'/>"): "of version 1, expected 2 or 3",
    ("rtk", "b.xml", "<RTKThreeDCircularGeometry version='3'/>"): "holds no <Projection>",
    ("rtk", "c.xml", "<Other/>"): "expected RTKThreeDCircularGeometry",
    ("rtk", "d.xml", "<RTKThreeDCircularGeometry"): "not a well-formed XML",
    ("rtk", "e.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><RTKThreeDCircularGeometry version='3'/>"): "declares entities",
    ("astra", "f.json", '{"type": "parallel3d"}'): "expected 'cone' or 'cone_vec'",
    (
        "astra",
        "g.json",
        '{"type": "cone_vec", "DetectorRowCount": 3, "DetectorColCount": 3}',
    ): "lacks the key 'Vectors'",
    ("astra", "h.txt", "1 2 3\n4 5 6\n"): "12 numbers a view",
    ("astra", "i.txt", "1 2 3\n4 5\n"): "as many numbers each",
    ("tigre", "j.json", '{"DSD": 1, "mode": "parallel"}'): "expected 'cone'",
    ("tigre", "k.json", '{"DSD": 1}'): "lacks the field 'DSO'",
    ("leap", "l.cfg", "geometry = fan"): "expected 'cone' or 'modular'",
    ("leap", "m.cfg", "geometry = cone\ndetectorType = curved"): "expected 'flat'",
    ("leap", "n.cfg", "geometry"): "should be 'key = value'",
    ("leap", "o.cfg", "geometry = modular\nnumAngles = 2.5"): "whole number above 0",
    ("cil", "p.json", '{"geometry": "Parallel3D"}'): "expected 'Cone3D' or 'Cone3D_Flex'",
    ("cil", "q.json", "[1, 2]"): "one JSON object",
    ("cil", "r.json", "{"): "not a readable CIL geometry file",
}


@pytest.mark.parametrize(("program", "name", "content"), sorted(BROKEN))
def test_a_file_that_is_not_what_it_should_be_is_refused(program, name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(GeometryError, match=BROKEN[program, name, content]) as error:
        read_geometry(path, program=program, panel=Panel(3, 3, 1.0, 1.0))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_rtks_matrices_must_be_those_of_its_numbers(tmp_path):
    text = geometry_bytes(tilted(), "rtk").decode()
    spoilt = text.replace("<SourceToDetectorDistance>", "<SourceToDetectorDistance>1")
    assert spoilt != text
    with pytest.raises(GeometryError, match="is not the one that its nine numbers give"):
        rtk.read_xml(spoilt, "x.xml")


def test_rtks_cylindrical_panels_and_parallel_beams_are_refused():
    text = geometry_bytes(circular(), "rtk").decode()
    curved = text.replace('version="3">', 'version="3">\n<RadiusCylindricalDetector>200</RadiusCylindricalDetector>')
    with pytest.raises(GeometryError, match="cylindrical panel"):
        rtk.read_xml(curved, "x.xml")
    start = '<RTKThreeDCircularGeometry version="2"><SourceToIsocenterDistance>1</SourceToIsocenterDistance>'
    parallel, _ = rtk.read_xml(f"{start}<Projection><Angle>3</Angle></Projection></RTKThreeDCircularGeometry>", "x.xml")
    with pytest.raises(GeometryError, match="a parallel beam"):
        rtk.from_rtk(parallel, Panel(3, 3, 1.0, 1.0))


def test_tigre_counts_in_radians_and_from_the_axis():
    fields = tigre.to_dict(tigre.to_tigre(circular()))
    with pytest.raises(GeometryError, match="TIGRE counts in rad"):
        tigre.from_dict(fields | {"angles": [0.0, 359.0]}, "geo")
    with pytest.raises(GeometryError, match="which nothing here reads"):
        tigre.from_dict(fields | {"tilt": 1}, "geo")
    poses = circular().poses.copy()
    poses[0, :2] = 0
    with pytest.raises(GeometryError, match="view 0 is on it"):
        tigre.to_tigre(ConeBeamGeometry(poses, ROWS, COLS))


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(GeometryError, match="say of which of rtk"):
        read_geometry(tmp_path / "a.bin")
    with pytest.raises(GeometryError, match="unknown geometry format 'odl'"):
        geometry_bytes(circular(), "odl")
    with pytest.raises(GeometryError, match=r"written as \.xml"):
        geometry_bytes(circular(), "rtk", ".json")
    (tmp_path / "b.xml").write_bytes(geometry_bytes(circular(), "rtk"))
    with pytest.raises(GeometryError, match="no panel size"):
        read_geometry(tmp_path / "b.xml")
