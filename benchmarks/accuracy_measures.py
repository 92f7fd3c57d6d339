# SPDX-License-Identifier: Apache-2.0
"""What the accuracy sheet measures in volumes: regions, RMSE, SSIM, MTF, contrast discrimination, noise power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

#: Width of a bin of the edge's profile, and how far the profile reaches from the edge [voxel].
EDGE_BIN, EDGE_REACH = 0.1, 8.0


def rmse(volume: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    """Root of the mean squared difference within a mask."""
    difference = volume[mask].astype(np.float64) - truth[mask]
    return float(np.sqrt(np.mean(difference**2)))


def ssim(volume: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_], *, sigma: float = 1.5) -> float:
    """Mean structural similarity within a mask (Wang, Bovik, Sheikh and Simoncelli 2004, Gaussian window)."""
    a, b = volume.astype(np.float64), truth.astype(np.float64)
    span = b[mask].max() - b[mask].min()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2

    def smooth(values: Float64Array) -> Float64Array:
        return np.asarray(ndimage.gaussian_filter(values, sigma, truncate=3.5))

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    values = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(values[mask].mean())


def flat_regions(truth: NDArray[Any], mask: NDArray[np.bool_], reach: int = 3) -> dict[float, NDArray[np.bool_]]:
    """Masks of the voxels whose neighbourhood of (2 reach + 1)^3 has one density alone, by density."""
    flat = mask & (ndimage.minimum_filter(truth, 2 * reach + 1) == ndimage.maximum_filter(truth, 2 * reach + 1))
    densities = np.unique(truth[flat])
    return {float(density): flat & (truth == density) for density in densities}


def disc_mask(shape: tuple[int, int], radius: float, *, inner: float = 0.0) -> NDArray[np.bool_]:
    """Voxels of a slice between two radii about its middle [voxel]."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    distance = np.hypot(y[:, None], x[None])
    return np.asarray((distance <= radius) & (distance >= inner))


def edge_mtf(slices: NDArray[Any], radius: float) -> tuple[Float64Array, Float64Array]:
    """Modulation transfer from the edge of a cylinder about the axis (after ASTM E1695).

    Parameters
    ----------
    slices : (z, y, x)
        Slices of the cylinder.
    radius : float
        The cylinder's radius [voxel].

    Returns
    -------
    frequencies : (n,) float64 [1/voxel]
    transfer : (n,) float64
        1 at frequency 0.
    """
    y, x = (np.arange(n) - (n - 1) / 2 for n in slices.shape[1:])
    from_edge = np.hypot(y[:, None], x[None]) - radius
    near = np.abs(from_edge) < EDGE_REACH
    count = round(2 * EDGE_REACH / EDGE_BIN)
    place = np.floor((from_edge[near] + EDGE_REACH) / EDGE_BIN).astype(int)
    number = np.bincount(place, minlength=count)[:count]
    total = np.bincount(place, weights=slices[:, near].mean(axis=0), minlength=count)[:count]
    at = (np.arange(count) + 0.5) * EDGE_BIN - EDGE_REACH
    edge = np.interp(at, at[number > 0], (total[number > 0] / number[number > 0]))
    line = -np.gradient(ndimage.uniform_filter1d(edge, 3), EDGE_BIN)
    line *= np.hanning(count)
    transfer = np.abs(np.fft.rfft(line))
    return np.fft.rfftfreq(count, EDGE_BIN), transfer / transfer[0]


def frequency_at(frequencies: Float64Array, transfer: Float64Array, level: float) -> float:
    """Lowest frequency at which the transfer falls below a level."""
    below = int(np.flatnonzero(transfer < level)[0])
    a, b = transfer[below - 1], transfer[below]
    return float(frequencies[below - 1] + (a - level) / (a - b) * (frequencies[below] - frequencies[below - 1]))


def contrast_discrimination(slices: NDArray[Any], radius: float, sides: tuple[int, ...]) -> list[float]:
    """Contrast that can be told from noise, for squares of each side: 3 standard deviations of their means over mu [%].

    After ASTM E1695: squares within a third of the cylinder's radius, which cupping leaves out.
    """
    ny, nx = slices.shape[1:]
    reach = int(radius / 3)
    part = slices[:, ny // 2 - reach : ny // 2 + reach, nx // 2 - reach : nx // 2 + reach].astype(np.float64)
    found = []
    for side in sides:
        n = 2 * reach // side
        squares = part[:, : n * side, : n * side].reshape(len(part), n, side, n, side).mean(axis=(2, 4))
        spread = (squares - squares.mean(axis=(1, 2), keepdims=True)).std()
        found.append(float(300 * spread / part.mean()))
    return found


def noise_power(noise: NDArray[Any], side: int, pitch_mm: float) -> tuple[Float64Array, Float64Array]:
    """Radial noise power spectrum in the plane of slices without signal.

    Returns
    -------
    frequencies : (n,) float64 [1/mm]
    power : (n,) float64 [mu^2 mm^2]
    """
    ny, nx = noise.shape[1:]
    y, x = (ny - side) // 2, (nx - side) // 2
    part = noise[:, y : y + side, x : x + side].astype(np.float64)
    part -= part.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(part)) ** 2).mean(axis=0) * (pitch_mm / side) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    place = np.round(frequency * side).astype(int)
    count = side // 2 + 1
    radial = (
        np.bincount(place.ravel(), power.ravel(), count)[:count] / np.bincount(place.ravel(), minlength=count)[:count]
    )
    return np.arange(count) / (side * pitch_mm), radial
