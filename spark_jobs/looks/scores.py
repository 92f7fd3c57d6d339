# SPDX-License-Identifier: Apache-2.0
"""How good a slice looks, in one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_GREYS = 128


def field_of(slice_: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The inner 95 % of a slice's inscribed circle: its rim is no edge of the object."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in slice_.shape)
    return np.asarray(np.hypot(y[:, None], x[None]) <= 0.475 * min(slice_.shape))


def grey_range(slices: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Grey values that all slices of a sweep are looked at with: all but a two-hundredth at each end."""
    inside = field_of(slices[0])
    low, high = np.quantile(np.concatenate([s[inside] for s in slices]), (0.005, 0.995))
    return float(low), float(high if high > low else low + 1.0)


def entropy(slice_: NDArray[np.float32], low: float, high: float) -> float:
    """Entropy of the grey values [bit]; blur and doubled edges spread them, so less is better.

    After Donath, Beckmann and Schreyer 2006, who find the centre of rotation with it.
    """
    counts, _ = np.histogram(np.clip(slice_[field_of(slice_)], low, high), _GREYS, (low, high))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def sharpness(slice_: NDArray[np.float32], low: float, high: float) -> float:
    """Mean squared gradient in units of the grey range; more is sharper, and noisier."""
    dy, dx = np.gradient(slice_.astype(np.float64) / (high - low))
    squares: NDArray[np.float64] = np.asarray(dy**2 + dx**2, dtype=np.float64)
    return float(squares[field_of(slice_)].mean())
