# SPDX-License-Identifier: Apache-2.0
"""Simulated photon-counting scans: polychromatic, noisy, seeded, view by view.

Expected counts of a pixel are ``N0 * sum_E w_bin(E) exp(-sum_m mu_m(E) L_m)`` with the exact path lengths L_m through
each material.  Each view draws its noise from a generator seeded by (seed, view), so that a scan comes out the same
whatever views are made together, and in which order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.errors import ParameterError
from reconstruction.materials import ALUMINIUM, BONE, CADMIUM_TELLURIDE, IODINE, MATERIALS, WATER, Material, solution
from reconstruction.phantom import Cylinder, Ellipsoid, Phantom, sample
from reconstruction.projector import project_pose
from reconstruction.spectrum import BinResponse, bin_response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

    Float64Array = NDArray[np.float64]
    Float32Array = NDArray[np.float32]
    Counts = NDArray[np.uint16]

#: A counter stops here instead of starting over.
FULL_COUNTER = 65535
# Second word of the seeds, so that no two draws share a generator.
_STREAM_VIEW, _STREAM_FLAT, _STREAM_DARK, _STREAM_PANEL = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class MaterialPhantom:
    """What is where: for each material a phantom whose density is the share of the material (1 = solid).

    An insert takes the place of its surroundings by an equal shape of density -1 in their phantom.
    """

    parts: tuple[tuple[Material, Phantom], ...]

    def path_lengths_mm(self, pose: Float64Array, n_rows: int, n_cols: int, *, supersample: int = 1) -> Float64Array:
        """Return (material, row, col) float64: millimetres of each solid material in the ray of each pixel."""
        return np.array([project_pose(p, pose, n_rows, n_cols, supersample=supersample) for _, p in self.parts])

    def sample_bins(
        self, grid: VolumeGrid, mu_per_mm: Mapping[str, Float64Array], *, supersample: int = 1
    ) -> Float32Array:
        """Return (bin, z, y, x) float32 [1/mm]: what each bin sees in each voxel.

        Parameters
        ----------
        grid : VolumeGrid
        mu_per_mm : material name -> (bin,) float64
            For example `SimulatedScan.mu_per_mm`.
        supersample : int
            As in `reconstruction.phantom.sample`.
        """
        n_bins = len(next(iter(mu_per_mm.values())))
        volume = np.zeros((n_bins, *grid.shape), dtype=np.float32)
        for material, part in self.parts:
            share = sample(part, grid, supersample=supersample)
            for b, mu in enumerate(mu_per_mm[material.name]):
                volume[b] += np.float32(mu) * share
        return volume


@dataclass(frozen=True)
class PhotonCountingSettings:
    """Tube, detector and faults of a simulated scan.

    Attributes
    ----------
    kvp : float
        Tube voltage [kV].
    filters : pairs of material and thickness [mm]
    thresholds_kev : (bin,) float
    kind : {"difference", "counter"}
    sensor : material and thickness [mm], or None for one that absorbs everything
    resolution_kev : float
        Standard deviation of the measured energy.
    white_counts : float
        Mean counts of an unattenuated, ideal pixel above the lowest threshold.
    gain_sigma : float
        Relative standard deviation of the pixels' sensitivities (fixed pattern).
    dark_counts : float
        Mean counts of a pixel in each bin without beam.
    n_flats, n_darks : int
    focal_spot_mm : float
        Side of a square focal spot, facing the panel; 0 for a point.
    focal_spot_samples : int
        Sub-sources along each side of the spot.
    supersample : int
        Rays along each side of a pixel, whose path lengths are averaged.
    dead_share, hot_share : float
        Shares of pixels that never count, and that count without beam.
    noise : bool
        Poisson noise; without it counts are the rounded expectation.
    step_kev : float
        Step of the spectrum's energies.
    seed : int
    """

    kvp: float = 120.0
    filters: tuple[tuple[Material, float], ...] = ((ALUMINIUM, 2.0),)
    thresholds_kev: tuple[float, ...] = (30.0, 60.0)
    kind: Literal["difference", "counter"] = "difference"
    sensor: tuple[Material, float] | None = (CADMIUM_TELLURIDE, 2.0)
    resolution_kev: float = 2.0
    white_counts: float = 8000.0
    gain_sigma: float = 0.03
    dark_counts: float = 0.0
    n_flats: int = 16
    n_darks: int = 4
    focal_spot_mm: float = 0.0
    focal_spot_samples: int = 1
    supersample: int = 1
    dead_share: float = 0.0
    hot_share: float = 0.0
    noise: bool = True
    step_kev: float = 2.0
    seed: int = 1

    def __post_init__(self) -> None:
        positive = {"white_counts": self.white_counts}
        not_negative = {
            "gain_sigma": self.gain_sigma, "dark_counts": self.dark_counts, "focal_spot_mm": self.focal_spot_mm,
            "dead_share": self.dead_share, "hot_share": self.hot_share, "n_darks": self.n_darks, "seed": self.seed,
        }  # fmt: skip
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ParameterError(f"{name} must be positive, got {value}")
        for name, value in not_negative.items():
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name} must not be negative, got {value}")
        if self.dead_share + self.hot_share > 0.5:
            raise ParameterError(f"at most half of the pixels can be bad, got {self.dead_share + self.hot_share:g}")
        if min(self.n_flats, self.focal_spot_samples, self.supersample) < 1:
            raise ParameterError("n_flats, focal_spot_samples and supersample must be at least 1")
        _ = self.response  # refuses voltage and thresholds that do not go together

    @cached_property
    def response(self) -> BinResponse:
        """Counts per bin and photon energy."""
        return bin_response(
            self.kvp, self.thresholds_kev, filters=self.filters, sensor=self.sensor,
            resolution_kev=self.resolution_kev, kind=self.kind, step_kev=self.step_kev,
        )  # fmt: skip

    @property
    def n_bins(self) -> int:
        """Number of energy bins or counters."""
        return len(self.thresholds_kev)


@dataclass(frozen=True, slots=True)
class Panel:
    """The detector's fixed pattern: sensitivity (row, col) float64, dead and hot pixels (row, col) bool."""

    gain: Float64Array
    dead: NDArray[np.bool_]
    hot: NDArray[np.bool_]

    @property
    def bad_pixels(self) -> NDArray[np.bool_]:
        """(row, col) bool: dead or hot."""
        return self.dead | self.hot


@dataclass(frozen=True, slots=True)
class SimulatedScan:
    """A whole simulated scan in memory.

    Attributes
    ----------
    counts : (bin, view, row, col) uint16
    flats, darks : (bin, frame, row, col) uint16
    bad_pixels : (row, col) bool
        The truth, which a correction has to find.
    low_kev, high_kev : (bin,) float
        The bins' edges.
    mu_per_mm : material name -> (bin,) float64
        What each bin sees of a thin layer of the material.
    """

    counts: Counts
    flats: Counts
    darks: Counts
    bad_pixels: NDArray[np.bool_]
    low_kev: tuple[float, ...]
    high_kev: tuple[float, ...]
    mu_per_mm: Mapping[str, Float64Array] = field(default_factory=dict)


def marker_specimen(radius_mm: float) -> MaterialPhantom:
    """Make the asymmetric specimen: a water cylinder with bone, iodine and an air bubble, each at its own place.

    A bone ball at +x, a ball of iodine solution (20 mg/ml) at +y, an upright bone rod in (-y, +z), and an empty ball in
    the (+x, +y, +z) octant.  All of it lies within `radius_mm` of the origin.
    """
    if not (math.isfinite(radius_mm) and radius_mm > 0):
        raise ParameterError(f"radius_mm must be a positive length, got {radius_mm}")
    r = radius_mm
    contrast = solution("iodine solution", IODINE, 20.0)
    bone_ball = Ellipsoid((0.50 * r, 0.0, -0.1 * r), (0.17 * r,) * 3, 1.0, name="bone ball")
    iodine_ball = Ellipsoid((0.0, 0.40 * r, -0.05 * r), (0.2 * r,) * 3, 1.0, name="iodine ball")
    bone_rod = Cylinder((-0.1 * r, -0.4 * r, 0.28 * r), (0.08 * r, 0.08 * r, 0.15 * r), 1.0, name="bone rod")
    empty = (0.36 * r, 0.36 * r, 0.28 * r), (0.14 * r,) * 3
    body = Cylinder((0.0, 0.0, 0.0), (0.8 * r, 0.8 * r, 0.5 * r), 1.0, name="body")
    holes = tuple(type(s)(s.center_mm, s.half_axes_mm, -1.0, name=s.name) for s in (bone_ball, iodine_ball, bone_rod))
    water = Phantom((body, *holes, Ellipsoid(*empty, -1.0, name="empty ball")))
    return MaterialPhantom(
        ((WATER, water), (BONE, Phantom((bone_ball, bone_rod))), (contrast, Phantom((iodine_ball,))))
    )


def make_panel(settings: PhotonCountingSettings, n_rows: int, n_cols: int) -> Panel:
    """Draw the detector's fixed pattern and bad pixels from the settings' seed."""
    rng = np.random.default_rng([settings.seed, _STREAM_PANEL])
    gain = np.maximum(1.0 + settings.gain_sigma * rng.standard_normal((n_rows, n_cols)), 0.2)
    order = rng.permutation(n_rows * n_cols)
    n_dead, n_hot = (round(share * order.size) for share in (settings.dead_share, settings.hot_share))
    masks = []
    for chosen in (order[:n_dead], order[n_dead : n_dead + n_hot]):
        mask = np.zeros(n_rows * n_cols, dtype=np.bool_)
        mask[chosen] = True
        masks.append(mask.reshape(n_rows, n_cols))
    return Panel(gain, masks[0], masks[1])


def expected_counts(
    phantom: MaterialPhantom, geometry: ConeBeamGeometry, settings: PhotonCountingSettings, view_index: int
) -> Float64Array:
    """Return the mean counts of ideal pixels for one view: no noise, no faults, no darks.

    Returns
    -------
    (bin, row, col) float64
    """
    shape = (geometry.n_rows, geometry.n_cols)
    total = np.zeros((settings.n_bins, *shape))
    poses = _sub_sources(geometry.poses[view_index], settings)
    for pose in poses:
        paths = phantom.path_lengths_mm(pose, *shape, supersample=settings.supersample)
        total += _transmitted([m for m, _ in phantom.parts], paths, settings.response)
    return total * (settings.white_counts / len(poses))


def simulate_views(
    phantom: MaterialPhantom,
    geometry: ConeBeamGeometry,
    settings: PhotonCountingSettings,
    view_indices: Sequence[int] | None = None,
) -> Iterator[tuple[int, Counts]]:
    """Make a scan view by view: yields the view's index and its counts (bin, row, col) uint16."""
    panel = make_panel(settings, geometry.n_rows, geometry.n_cols)
    for view in range(geometry.n_views) if view_indices is None else view_indices:
        mean = expected_counts(phantom, geometry, settings, view)
        yield view, _draw(mean, panel, settings, _STREAM_VIEW, view)


def simulate_fields(settings: PhotonCountingSettings, n_rows: int, n_cols: int) -> tuple[Counts, Counts]:
    """Make the flat and dark frames, each (bin, frame, row, col) uint16."""
    panel = make_panel(settings, n_rows, n_cols)
    white = settings.response.weights.sum(axis=1) * settings.white_counts
    frames = []
    for stream, count, level in ((_STREAM_FLAT, settings.n_flats, white), (_STREAM_DARK, settings.n_darks, 0 * white)):
        mean = np.broadcast_to(level[:, None, None], (settings.n_bins, n_rows, n_cols))
        drawn = np.empty((settings.n_bins, count, n_rows, n_cols), dtype=np.uint16)
        for index in range(count):
            drawn[:, index] = _draw(mean, panel, settings, stream, index)
        frames.append(drawn)
    return frames[0], frames[1]


def simulate_scan(
    phantom: MaterialPhantom, geometry: ConeBeamGeometry, settings: PhotonCountingSettings
) -> SimulatedScan:
    """Make a whole scan in memory; `simulate_views` makes the same one view by view."""
    shape = (settings.n_bins, geometry.n_views, geometry.n_rows, geometry.n_cols)
    counts = np.empty(shape, dtype=np.uint16)
    for view, frame in simulate_views(phantom, geometry, settings):
        counts[:, view] = frame
    flats, darks = simulate_fields(settings, geometry.n_rows, geometry.n_cols)
    materials = {**MATERIALS, **{m.name: m for m, _ in phantom.parts}}
    return SimulatedScan(
        counts=counts,
        flats=flats,
        darks=darks,
        bad_pixels=make_panel(settings, geometry.n_rows, geometry.n_cols).bad_pixels,
        low_kev=settings.response.low_kev,
        high_kev=settings.response.high_kev,
        mu_per_mm={name: settings.response.effective_mu_per_mm(m) for name, m in materials.items()},
    )


def _sub_sources(pose: Float64Array, settings: PhotonCountingSettings) -> list[Float64Array]:
    """Poses whose sources cover the focal spot, along the panel's directions."""
    n = settings.focal_spot_samples
    if settings.focal_spot_mm == 0.0 or n == 1:
        return [pose]
    steps = ((np.arange(n) + 0.5) / n - 0.5) * settings.focal_spot_mm
    along_u, along_v = (pose[k : k + 3] / np.linalg.norm(pose[k : k + 3]) for k in (6, 9))
    return [np.concatenate([pose[:3] + du * along_u + dv * along_v, pose[3:]]) for dv in steps for du in steps]


def _transmitted(materials: Sequence[Material], paths: Float64Array, response: BinResponse) -> Float64Array:
    """Share of the white counts that arrives, (bin, row, col); energy by energy, only where something is hit."""
    out = np.empty((response.weights.shape[0], *paths.shape[1:]))
    out[:] = response.weights.sum(axis=1)[:, None, None]
    hit = (paths != 0.0).any(axis=0)
    lengths = paths[:, hit]
    mu = np.array([m.mu_per_mm(response.energies_kev) for m in materials])
    arrived = np.zeros((response.weights.shape[0], lengths.shape[1]))
    for index in np.flatnonzero(response.weights.max(axis=0) > 1e-9):
        depth = np.zeros(lengths.shape[1])
        for m in range(len(materials)):
            depth -= mu[m, index] * lengths[m]
        np.exp(depth, out=depth)
        for b in range(arrived.shape[0]):
            arrived[b] += response.weights[b, index] * depth
    out[:, hit] = arrived
    return out


def _draw(mean: Float64Array, panel: Panel, settings: PhotonCountingSettings, stream: int, index: int) -> Counts:
    """Turn the mean counts of ideal pixels into what the panel reads."""
    rng = np.random.default_rng([settings.seed, stream, index])
    rate = mean * panel.gain + settings.dark_counts
    if panel.hot.any():
        # A hot pixel counts by itself, at a rate that wanders from frame to frame.
        own = settings.white_counts * rng.lognormal(-0.5, 0.5, size=int(panel.hot.sum()))
        rate[:, panel.hot] += own
    rate[:, panel.dead] = 0.0
    if settings.kind == "counter" and settings.noise:
        # Counters count the same photons: draw between the thresholds, then add from the top down.
        between = rate.copy()
        between[:-1] -= rate[1:]
        counts = rng.poisson(np.maximum(between, 0.0))[::-1].cumsum(axis=0)[::-1]
    else:
        counts = rng.poisson(rate) if settings.noise else np.rint(rate)
    return np.asarray(np.minimum(counts, FULL_COUNTER), dtype=np.uint16)
