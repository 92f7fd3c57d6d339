# SPDX-License-Identifier: Apache-2.0
"""Tube spectra, and what a photon-counting detector makes of them.

The model is plain on purpose: Kramers' bremsstrahlung ``N(E) ~ (E0 - E) / E`` of a thick target (H. A. Kramers, Phil.
Mag. 46, 836, 1923), filters by Beer and Lambert, absorption in the sensor, a Gaussian energy resolution, and ideal
thresholds.  It has no characteristic lines, no charge sharing, no fluorescence and no pulse pile-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.materials import Material

    Float64Array = NDArray[np.float64]

#: Softest photons of a spectrum [keV]: where the attenuation tables begin.
LOWEST_KEV = 10.0


@dataclass(frozen=True, slots=True)
class BinResponse:
    """Mean counts in each energy bin per photon energy, for one unattenuated pixel.

    Attributes
    ----------
    energies_kev : (energy,) float64
        Middles of equal steps.
    weights : (bin, energy) float64
        What lies above the lowest threshold adds up to one (all bins together, or the first counter).
    low_kev, high_kev : (bin,) float
        The bins' edges; the last bin ends at the tube voltage.
    """

    energies_kev: Float64Array
    weights: Float64Array
    low_kev: tuple[float, ...]
    high_kev: tuple[float, ...]

    def effective_mu_per_mm(
        self, material: Material, *, path_mm: float = 0.0, behind: tuple[tuple[Material, float], ...] = ()
    ) -> Float64Array:
        """Return what each bin sees of a material, ``-ln(I / I0) / path``; (bin,) float64 [1/mm].

        Parameters
        ----------
        material : Material
        path_mm : float
            Thickness of the material; 0 gives the limit of a thin layer.  A thicker one hardens the beam and looks
            thinner than it is.
        behind : pairs of material and path [mm]
            What else lies in the beam, in front or behind.
        """
        weights = self.weights.copy()
        for other, thickness in behind:
            weights *= np.exp(-other.mu_per_mm(self.energies_kev) * thickness)
        mu = material.mu_per_mm(self.energies_kev)
        white = weights.sum(axis=1)
        if path_mm == 0.0:
            return np.asarray((weights * mu).sum(axis=1) / white)
        return np.asarray(-np.log((weights * np.exp(-mu * path_mm)).sum(axis=1) / white) / path_mm)


def kramers_spectrum(
    kvp: float, filters: tuple[tuple[Material, float], ...], *, step_kev: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """Return a filtered bremsstrahlung spectrum, photons per step of energy, adding up to one.

    Parameters
    ----------
    kvp : float
        Tube voltage [kV].
    filters : pairs of material and thickness [mm]
    step_kev : float

    Returns
    -------
    energies_kev, photons : (energy,) float64

    Raises
    ------
    ParameterError
        If the voltage is not within 20 to 200 kV or the step is not positive.
    """
    if not 20.0 <= kvp <= 200.0:
        raise ParameterError(f"the spectrum model holds from 20 to 200 kV, got {kvp}")
    if not 0.0 < step_kev <= 10.0:
        raise ParameterError(f"the step of a spectrum must lie in (0, 10] keV, got {step_kev}")
    count = max(1, round((kvp - LOWEST_KEV) / step_kev))
    energies = np.asarray(LOWEST_KEV + (np.arange(count) + 0.5) * ((kvp - LOWEST_KEV) / count), dtype=np.float64)
    photons = (kvp - energies) / energies
    for material, thickness_mm in filters:
        photons = photons * np.exp(-material.mu_per_mm(energies) * thickness_mm)
    return energies, np.asarray(photons / photons.sum(), dtype=np.float64)


def bin_response(
    kvp: float,
    thresholds_kev: tuple[float, ...],
    *,
    filters: tuple[tuple[Material, float], ...] = (),
    sensor: tuple[Material, float] | None = None,
    resolution_kev: float = 0.0,
    kind: Literal["difference", "counter"] = "difference",
    step_kev: float = 1.0,
) -> BinResponse:
    """Combine a tube spectrum with a sensor, its resolution and thresholds.

    Parameters
    ----------
    kvp : float
        Tube voltage [kV].
    thresholds_kev : (bin,) float
        Rising; the first is the lowest energy that counts at all.
    filters : pairs of material and thickness [mm]
    sensor : material and thickness [mm], optional
        Absorbs ``1 - exp(-mu d)`` of the photons; all of them if left out.
    resolution_kev : float
        Standard deviation of the measured energy.
    kind : {"difference", "counter"}
        Bins between neighbouring thresholds, or everything above each.
    step_kev : float
        Step of the energies.

    Raises
    ------
    ParameterError
        If the thresholds do not rise below the tube voltage.
    """
    edges = np.array([*thresholds_kev, kvp], dtype=np.float64)
    if edges.size < 2 or not np.isfinite(edges).all() or edges[0] <= 0 or (np.diff(edges) <= 0).any():
        raise ParameterError(f"thresholds must rise and lie below the tube voltage {kvp:g} kV, got {thresholds_kev}")
    if not (math.isfinite(resolution_kev) and resolution_kev >= 0):
        raise ParameterError(f"the energy resolution must not be negative, got {resolution_kev}")
    energies, photons = kramers_spectrum(kvp, filters, step_kev=step_kev)
    if sensor is not None:
        photons = photons * -np.expm1(-sensor[0].mu_per_mm(energies) * sensor[1])
    step = float(energies[1] - energies[0])
    above = np.array([_share_above(t, energies, resolution_kev, step) for t in thresholds_kev])
    lowest = (above[0] * photons).sum()
    if lowest <= 0:
        raise ParameterError(f"no photon of a {kvp:g} kV spectrum passes the threshold {thresholds_kev[0]:g} keV")
    if kind == "difference":
        above[:-1] -= above[1:]
    ends = edges[1:] if kind == "difference" else np.full(len(thresholds_kev), kvp)
    return BinResponse(
        energies_kev=energies,
        weights=above * photons / lowest,
        low_kev=tuple(float(t) for t in thresholds_kev),
        high_kev=tuple(float(e) for e in ends),
    )


def _share_above(threshold_kev: float, energies: Float64Array, resolution_kev: float, step_kev: float) -> Float64Array:
    """Share of the photons of each energy step that is measured above a threshold."""
    if resolution_kev == 0.0:
        return np.clip((energies - threshold_kev) / step_kev + 0.5, 0.0, 1.0)
    scale = resolution_kev * math.sqrt(2.0)
    return np.array([0.5 * math.erfc((threshold_kev - e) / scale) for e in energies])
