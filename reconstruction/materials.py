# SPDX-License-Identifier: Apache-2.0
"""Materials and how much they attenuate at which energy.

The table holds mass attenuation coefficients (total, with coherent scattering) of the elements, from J. H. Hubbell and
S. M. Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NIST Standard Reference Database 126 (2004).
Between its energies a cubic runs through the four nearest points of log mu over log energy, never across an
absorption edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Float64Array = NDArray[np.float64]

#: Energies of the table [keV]; edges have entries of their own.
_ENERGIES_KEV = (10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0)

# Mass attenuation coefficients [cm^2/g] at the energies above.
_ELEMENTS: dict[str, tuple[float, ...]] = {
    "H": (0.3854, 0.3764, 0.3695, 0.357, 0.3458, 0.3355, 0.326, 0.3091, 0.2944, 0.2651, 0.2429),
    "C": (2.373, 0.8071, 0.442, 0.2562, 0.2076, 0.1871, 0.1753, 0.161, 0.1514, 0.1347, 0.1229),
    "N": (3.879, 1.236, 0.6178, 0.3066, 0.2288, 0.198, 0.1817, 0.1639, 0.1529, 0.1353, 0.1233),
    "O": (5.952, 1.836, 0.8651, 0.3779, 0.2585, 0.2132, 0.1907, 0.1678, 0.1551, 0.1361, 0.1237),
    "Na": (15.57, 4.694, 2.057, 0.7197, 0.3969, 0.2804, 0.2268, 0.1796, 0.1585, 0.1335, 0.1199),
    "Mg": (21.05, 6.358, 2.763, 0.9306, 0.4881, 0.3292, 0.257, 0.1951, 0.1686, 0.1394, 0.1245),
    "Al": (26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378, 0.1223),
    "Si": (33.89, 10.34, 4.464, 1.436, 0.7012, 0.4385, 0.3207, 0.2228, 0.1835, 0.1448, 0.1275),
    "P": (40.35, 12.39, 5.352, 1.7, 0.8096, 0.4916, 0.3494, 0.2324, 0.1865, 0.1432, 0.125),
    "S": (50.12, 15.5, 6.708, 2.113, 0.9872, 0.5849, 0.4053, 0.2585, 0.202, 0.1506, 0.1302),
    "Ar": (63.16, 19.83, 8.629, 2.697, 1.228, 0.7012, 0.4664, 0.276, 0.2043, 0.1427, 0.1205),
    "Ca": (93.41, 29.79, 13.06, 4.08, 1.83, 1.019, 0.6578, 0.3656, 0.2571, 0.1674, 0.1376),
    "Cu": (215.9, 74.05, 33.79, 10.92, 4.862, 2.613, 1.593, 0.763, 0.4584, 0.2217, 0.1559),
    "Cd": (124.4, 41.78, 19.2, 37.65, 17.78, 9.779, 5.975, 2.751, 1.524, 0.5593, 0.3038),
    "Te": (150.1, 50.78, 23.41, 7.878, 20.64, 11.45, 7.041, 3.255, 1.801, 0.6492, 0.3429),
    "I": (162.6, 55.12, 25.43, 8.561, 22.1, 12.32, 7.579, 3.51, 1.942, 0.6978, 0.3663),
    "Gd": (269.3, 93.35, 43.63, 14.84, 6.92, 3.859, 11.75, 5.573, 3.109, 1.1, 0.5534),
}
# K edges within the table: energy [keV], coefficient below and above [cm^2/g].
_K_EDGES: dict[str, tuple[float, float, float]] = {
    "Cd": (26.71, 8.809, 50.65),
    "Te": (31.81, 6.738, 37.19),
    "I": (33.17, 6.553, 35.82),
    "Gd": (50.24, 3.812, 18.64),
}


@dataclass(frozen=True, slots=True)
class Material:
    """A mixture of elements.

    Attributes
    ----------
    name : str
    density_g_cm3 : float
    mass_fractions : element symbol -> share of the mass; the shares add up to one within a percent.
    """

    name: str
    density_g_cm3: float
    mass_fractions: Mapping[str, float]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.density_g_cm3) and self.density_g_cm3 > 0):
            raise ParameterError(f"material '{self.name}' needs a positive density, got {self.density_g_cm3}")
        unknown = sorted(set(self.mass_fractions) - set(_ELEMENTS))
        if unknown:
            known = ", ".join(_ELEMENTS)
            raise ParameterError(f"material '{self.name}' has elements without a table: {unknown}; known are {known}")
        total = sum(self.mass_fractions.values())
        if min(self.mass_fractions.values(), default=-1.0) < 0 or abs(total - 1) > 0.01:
            raise ParameterError(f"the mass fractions of material '{self.name}' must add up to 1, got {total}")

    def mu_per_mm(self, energies_kev: ArrayLike) -> Float64Array:
        """Return the linear attenuation coefficient [1/mm] at each energy, float64 of the same shape.

        Raises
        ------
        ParameterError
            If an energy lies outside of the table (10 to 200 keV).
        """
        energies = np.asarray(energies_kev, dtype=np.float64)
        mass = np.zeros(energies.shape)
        for element, share in self.mass_fractions.items():
            mass += share * mass_attenuation_cm2_g(element, energies)
        return mass * (self.density_g_cm3 / 10.0)


def mass_attenuation_cm2_g(element: str, energies_kev: ArrayLike) -> Float64Array:
    """Return an element's mass attenuation coefficient [cm^2/g] at each energy, float64 of the same shape.

    At an edge itself the value above it.

    Raises
    ------
    ParameterError
        If the element has no table or an energy lies outside of it (10 to 200 keV).
    """
    if element not in _ELEMENTS:
        raise ParameterError(f"no attenuation table for element '{element}': known are {', '.join(_ELEMENTS)}")
    energies = np.asarray(energies_kev, dtype=np.float64)
    low, high = _ENERGIES_KEV[0], _ENERGIES_KEV[-1]
    if not np.logical_and(energies >= low, energies <= high).all():
        raise ParameterError(f"attenuation is tabulated from {low:g} to {high:g} keV, got {np.ravel(energies)}")
    points = list(zip(_ENERGIES_KEV, _ELEMENTS[element], strict=True))
    if element not in _K_EDGES:
        return _log_cubic(points, energies)
    edge, below, above = _K_EDGES[element]
    lower = [p for p in points if p[0] < edge] + [(edge, below)]
    upper = [(edge, above)] + [p for p in points if p[0] > edge]
    return np.where(
        energies < edge,
        _log_cubic(lower, np.minimum(energies, edge)),
        _log_cubic(upper, np.maximum(energies, edge)),
    )


def _log_cubic(points: list[tuple[float, float]], energies: Float64Array) -> Float64Array:
    """Lagrange's cubic through the four points around each energy, in logarithms of both axes."""
    x, y = np.log(np.array(points)).T
    at = np.log(energies)
    order = min(4, x.size)
    first = np.clip(np.searchsorted(x, at, side="right") - order // 2, 0, x.size - order)
    value = np.zeros(at.shape)
    for i in range(order):
        term = y[first + i]
        for j in range(order):
            if j != i:
                term = term * (at - x[first + j]) / (x[first + i] - x[first + j])
        value += term
    return np.exp(value)


def solution(name: str, solute: Material, concentration_mg_ml: float) -> Material:
    """Return water that holds a solute; the water's own density is kept (a thin solution).

    Parameters
    ----------
    name : str
    solute : Material
    concentration_mg_ml : float
        Mass of the solute in a volume of the solution.
    """
    if not (math.isfinite(concentration_mg_ml) and concentration_mg_ml > 0):
        raise ParameterError(f"a solution needs a positive concentration [mg/ml], got {concentration_mg_ml}")
    added = concentration_mg_ml / 1000.0
    density = WATER.density_g_cm3 + added
    shares = {element: share * WATER.density_g_cm3 / density for element, share in WATER.mass_fractions.items()}
    for element, share in solute.mass_fractions.items():
        shares[element] = shares.get(element, 0.0) + share * added / density
    return Material(name, density, shares)


WATER = Material("water", 1.0, {"H": 0.1119, "O": 0.8881})
AIR = Material("air", 0.001205, {"C": 0.0001, "N": 0.7553, "O": 0.2318, "Ar": 0.0128})
ALUMINIUM = Material("aluminium", 2.699, {"Al": 1.0})
COPPER = Material("copper", 8.96, {"Cu": 1.0})
IODINE = Material("iodine", 4.93, {"I": 1.0})
CADMIUM_TELLURIDE = Material("cadmium telluride", 5.85, {"Cd": 0.4684, "Te": 0.5316})
SILICON = Material("silicon", 2.33, {"Si": 1.0})
HYDROXYAPATITE = Material("calcium hydroxyapatite", 3.16, {"H": 0.002, "O": 0.4141, "P": 0.185, "Ca": 0.3989})
#: Cortical bone of ICRU report 44.
BONE = Material(
    "bone",
    1.92,
    {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225},
)
#: Every material above by its name.
MATERIALS: Mapping[str, Material] = {
    m.name: m for m in (WATER, AIR, ALUMINIUM, COPPER, IODINE, CADMIUM_TELLURIDE, SILICON, HYDROXYAPATITE, BONE)
}
