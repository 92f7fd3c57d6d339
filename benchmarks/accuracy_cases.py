# SPDX-License-Identifier: Apache-2.0
"""The cases of the accuracy sheet: what is scanned, how it is reconstructed, and what is found.

All are made of exact line integrals, with Poisson noise only where noise is what is looked at.  Numbers come as JSON
values; arrays to draw come beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import accuracy_measures as measures
from reconstruction.backends import load_backend
from reconstruction.errors import GeometryError
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.forbild import forbild
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.phantom import Cylinder, Phantom, sample, shepp_logan_3d
from reconstruction.projector import forward_project

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A table-top scanner: source to axis, source to panel, and the field's width [mm].
SOD_MM, SDD_MM, FIELD_MM = 200.0, 280.0, 40.0
MU = 0.05
COUNTS = 20_000.0
THREADS = 2


@dataclass(frozen=True)
class Size:
    """How fine the cases are: voxels of a side, views, rows of thin cases."""

    voxels: int
    views: int

    @property
    def cols(self) -> int:
        """Columns of a panel that covers the field."""
        return self.voxels * 3 // 2


SMALL, FULL = Size(48, 90), Size(192, 720)


def orbit(
    n_views: int, n_cols: int, n_rows: int, *, arc: float = 2 * math.pi, offset: float = 0.0, width: float = 1.1
) -> ConeBeamGeometry:
    """A circular orbit whose panel is `width` times as wide as the field's shadow, moved by a share of its width."""
    radius = FIELD_MM / 2
    panel = 2 * width * SDD_MM * radius / math.sqrt(SOD_MM**2 - radius**2)
    full = arc >= 2 * math.pi - 1e-9
    angles = 0.1 + (np.arange(n_views) * arc / n_views if full else np.linspace(0, arc, n_views))
    pitch = panel / n_cols
    return ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=angles, n_rows=n_rows, n_cols=n_cols, pitch_u_mm=pitch,
        pitch_v_mm=pitch, offset_u_mm=offset * panel,
    )  # fmt: skip


def cylinder(radius_mm: float = 0.4 * FIELD_MM, height_mm: float = 400.0) -> Phantom:
    """A cylinder about the axis, longer than what the panel sees."""
    return Phantom((Cylinder((0.0, 0.0, 0.0), (radius_mm, radius_mm, height_mm / 2), MU),))


def mean_mu_error(geometry: ConeBeamGeometry, grid: VolumeGrid, *, field_mm: float = FIELD_MM / 2) -> float:
    """Relative error of mu in the inner 80 % of the cylinder, in the middle slices."""
    volume = reconstruct(
        forward_project(cylinder(), geometry), geometry, grid, FdkParameters(field_radius_mm=field_mm), threads=THREADS
    )
    inside = measures.disc_mask(grid.shape[1:], 0.8 * 0.4 * FIELD_MM / grid.voxel_pitch_mm[1])
    return float(volume[:, inside].mean() / MU - 1)


def thin_grid(n: int, *, slices: int = 4, field_mm: float = FIELD_MM) -> VolumeGrid:
    """A few slices about the orbit's plane."""
    pitch = field_mm / n
    return VolumeGrid((slices, n, n), (pitch, pitch, pitch))


def mu_of_a_cylinder(size: Size) -> dict[str, list[dict[str, float]]]:
    """Error of mu [%] along one parameter at a time: views, pixel pitch, voxel pitch, offset of the panel."""
    n, rows = size.voxels, 16
    found: dict[str, list[dict[str, float]]] = {"views": [], "pitch_mm": [], "voxel_mm": [], "offset": []}
    for views in (90, 180, 360, 720, 1440):
        error = mean_mu_error(orbit(views, size.cols, rows), thin_grid(n))
        found["views"].append({"at": views, "error_percent": 100 * error})
    for pitch in (0.1, 0.15, 0.2, 0.4) if size is SMALL else (0.03, 0.05, 0.1, 0.2, 0.4):
        panel = orbit(size.views, 8, rows)
        cols, high = math.ceil(8 * panel.pitch_mm[1] / pitch), math.ceil(6.0 / pitch)
        error = mean_mu_error(orbit(size.views, cols, high), thin_grid(n))
        found["pitch_mm"].append({"at": pitch, "error_percent": 100 * error})
    for factor in (0.5, 1.0, 2.0, 4.0):
        grid = thin_grid(max(16, round(n / factor / 2) * 2))
        error = mean_mu_error(orbit(size.views, size.cols, 4 * rows), grid)
        found["voxel_mm"].append({"at": grid.voxel_pitch_mm[0], "error_percent": 100 * error})
    for offset in (0.0, 0.1, 0.2, 0.3, 0.4, 0.45):
        error = mean_mu_error(orbit(size.views, size.cols, rows, offset=offset, width=1.1 / (1 - offset)), thin_grid(n))
        found["offset"].append({"at": offset, "error_percent": 100 * error})
    return found


def offset_by_arc(size: Size) -> list[dict[str, Any]]:
    """Error of mu [%] for each offset of the panel and arc, or the sentence with which it is refused."""
    fan = 2 * math.asin(FIELD_MM / 2 / SOD_MM)
    found = []
    for arc in (math.pi + fan / 2, math.pi + 1.1 * fan, math.radians(240), math.radians(300), 2 * math.pi):
        # The short side of an offset of 49 % is less than a column of a small panel.
        for offset in (0.0, 0.1, 0.25, 0.4, 0.45 if size is SMALL else 0.49):
            # The far side of the panel reaches over the field's edge, whatever the offset.
            geometry = orbit(size.views, size.cols, 16, arc=arc, offset=-offset, width=1.1 / (1 + 2 * offset))
            case: dict[str, Any] = {"arc_deg": round(math.degrees(arc), 1), "offset": offset}
            try:
                case["error_percent"] = 100 * mean_mu_error(geometry, thin_grid(size.voxels))
            except GeometryError as error:
                case["refused"] = str(error)
            found.append(case)
    return found


def phantom_cases(size: Size) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """RMSE, SSIM and region means of Shepp-Logan's, FORBILD's head and thorax; middle slices to draw."""
    n = size.voxels
    grid = VolumeGrid((n // 4, n, n), (FIELD_MM / n,) * 3)
    geometry = orbit(size.views, size.cols, size.cols // 2)
    radius = FIELD_MM / 2
    shepp = shepp_logan_3d(0.95 * radius, scale=MU)
    scans = {"Shepp-Logan": (forward_project(shepp, geometry, supersample=2), sample(shepp, grid, supersample=3))}
    for name, reach_mm in (("head", 125.0), ("thorax", 255.0)):
        painted = forbild(name, scale=0.95 * radius / reach_mm, water_per_mm=MU)  # type: ignore[arg-type]
        scans[f"FORBILD {name}"] = (
            painted.line_integrals(geometry, supersample=2), painted.sample(grid, supersample=3)
        )  # fmt: skip
    found, pictures = {}, {}
    seen = measures.disc_mask((n, n), 0.98 * n / 2)[None] & np.ones((n // 4, 1, 1), dtype=np.bool_)
    for name, (projections, truth) in scans.items():
        volume = reconstruct(projections, geometry, grid, threads=THREADS)
        regions = measures.flat_regions(truth, seen)
        found[name] = {
            "rmse_of_water": measures.rmse(volume, truth, seen) / MU,
            "ssim": measures.ssim(volume, truth, seen),
            "regions": {
                f"{density / MU:.3f}": round(100 * float(volume[mask].mean() - density) / MU, 3)
                for density, mask in regions.items()
                if mask.sum() > n // 2
            },
        }
        pictures[name] = (truth[n // 8] / MU, volume[n // 8] / MU)
    return found, pictures


def defrise(size: Size) -> list[dict[str, float]]:
    """Contrast of discs on the axis against the cone angle under which the source sees them."""
    n = size.voxels
    thickness = FIELD_MM / 20
    discs = tuple(
        Cylinder((0.0, 0.0, z), (0.38 * FIELD_MM, 0.38 * FIELD_MM, thickness / 2), MU)
        for z in thickness * 2 * np.arange(-8, 9)
    )
    height = 34 * thickness
    grid = VolumeGrid((round(height * n / FIELD_MM), n, n), (FIELD_MM / n,) * 3)
    geometry = orbit(size.views, size.cols, math.ceil(2.4 * size.cols))
    volume = reconstruct(
        forward_project(Phantom(discs), geometry, supersample=2), geometry, grid, FdkParameters("hann"), threads=THREADS
    )
    z = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.voxel_pitch_mm[0]
    axis = volume[:, measures.disc_mask((n, n), 0.12 * n)].mean(axis=1)
    found = []
    for index in range(8):
        disc = axis[np.abs(np.abs(z) - 2 * thickness * index) < 0.3 * thickness].mean()
        gap = axis[np.abs(np.abs(z) - 2 * thickness * (index + 0.5)) < 0.3 * thickness].mean()
        angle = math.degrees(math.atan(2 * thickness * index / SOD_MM))
        found.append({"cone_angle_deg": angle, "disc_of_mu": float(disc / MU), "contrast": float((disc - gap) / MU)})
    return found


def noisy(projections: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Line integrals of Poisson counts."""
    counts = np.random.default_rng(seed).poisson(COUNTS * np.exp(-projections.astype(np.float64)))
    return np.asarray(-np.log(np.maximum(counts, 0.5) / COUNTS), dtype=np.float32)


def sharpness_and_noise(size: Size) -> dict[str, dict[str, Any]]:
    """MTF, contrast discrimination and noise power of a cylinder, by filter window."""
    n = size.voxels
    geometry, grid = orbit(size.views, size.cols, 24), thin_grid(n, slices=8)
    pitch = grid.voxel_pitch_mm[0]
    clean = forward_project(cylinder(), geometry, supersample=2)
    found = {}
    for window in ("ram-lak", "shepp-logan", "hann"):
        parameters = FdkParameters(window)
        sharp = reconstruct(clean, geometry, grid, parameters, threads=THREADS)
        frequencies, transfer = measures.edge_mtf(sharp, 0.4 * n)
        grainy = [
            reconstruct(noisy(clean, seed), geometry, grid, parameters, threads=THREADS) - sharp for seed in (1, 2)
        ]
        noise = np.concatenate(grainy)
        at, power = measures.noise_power(noise, int(0.5 * n), pitch)
        found[window] = {
            "mtf50_per_voxel": measures.frequency_at(frequencies, transfer, 0.5),
            "mtf10_per_voxel": measures.frequency_at(frequencies, transfer, 0.1),
            "noise_percent": 100 * float(noise[:, measures.disc_mask((n, n), 0.2 * n)].std() / MU),
            "sides": [1, 2, 3, 4, 6, 8],
            "contrast_percent": measures.contrast_discrimination(sharp + grainy[0], 0.4 * n, (1, 2, 3, 4, 6, 8)),
            "mtf": [frequencies.tolist(), transfer.tolist()],
            "noise_power": [at.tolist(), power.tolist()],
        }
    return found


def sameness(size: Size) -> dict[str, float]:
    """Largest differences, relative to the largest value: slabs, a second run, float16 rows, other back ends."""
    n = min(size.voxels, 96)
    grid = VolumeGrid((n // 2, n, n), (FIELD_MM / n,) * 3)
    geometry = orbit(120, n * 3 // 2, n)
    projections = forward_project(shepp_logan_3d(0.475 * FIELD_MM, scale=MU), geometry)
    whole = reconstruct(projections, geometry, grid, threads=THREADS)
    top = float(np.abs(whole).max())

    def off(other: NDArray[Any]) -> float:
        return float(np.abs(other - whole).max()) / top

    height = grid.shape[0]
    borders = [(0, 16), (16, height)]
    slabs = [reconstruct(projections, geometry, grid, slab=Slab(a, b), threads=1) for a, b in borders]
    backend = load_backend("numba")
    setup = prepare(geometry, grid, FdkParameters())
    views = np.arange(geometry.n_views)
    low, high = setup.band.row_start, setup.band.row_stop
    rows = backend.filter_rows(setup, np.ascontiguousarray(projections[:, low:high]), views, row_start=low)
    scale = np.abs(rows).max(axis=(0, 2), keepdims=True)
    halved = (rows / scale).astype(np.float16).astype(np.float32) * scale
    accumulator = backend.start(setup, threads=THREADS)
    step = geometry.n_views // 4
    for first in range(0, step, 8):
        batch = np.concatenate([np.arange(first, min(step, first + 8)) + j * step for j in range(4)])
        accumulator.add_filtered(halved[batch], batch)
    few = min(n, 48)
    coarse = VolumeGrid((4, few, few), (FIELD_MM / few,) * 3)
    reference = reconstruct(projections, geometry, coarse, backend="numpy_reference")
    ours = reconstruct(projections, geometry, coarse, threads=THREADS)
    return {
        "slabs": off(np.concatenate(slabs)),
        "second_run": off(reconstruct(projections, geometry, grid, threads=1)),
        "float16_rows": off(accumulator.read_slices(0, height)),
        "reference": float(np.abs(reference - ours).max()) / float(np.abs(reference).max()),
    }
