# SPDX-License-Identifier: Apache-2.0
"""What a user chooses about an iterative reconstruction, with defaults that need no tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from reconstruction.errors import ParameterError

Method = Literal["sirt", "os-sart", "tv"]
Start = Literal["zero", "fdk"]

#: Changes whenever the arithmetic of an iteration does; goes into the identity of what is made.
ITERATIVE_VERSION = 2
#: Passes over all views where nothing else is asked for.
DEFAULT_ITERATIONS: dict[str, int] = {"sirt": 50, "os-sart": 10, "tv": 20}
DEFAULT_RELAXATION: dict[str, float] = {"sirt": 1.9, "os-sart": 1.0, "tv": 1.0}
#: Views of a subset where nothing else is asked for.
VIEWS_OF_A_SUBSET = 6
#: Slices beside a slab whose rays are whole too: after these, slabs equal the whole within 1e-4 of the maximum.
GUARD_SLICES: dict[str, int] = {"sirt": 10, "os-sart": 10, "tv": 16}
#: Passes for which that was measured; one guard slice more for each further so many.
_MEASURED_PASSES = 50
_PASSES_OF_A_GUARD_SLICE = 20
MOST_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class IterativeParameters:
    """Method and its settings; None is decided by the method and the scan.

    Attributes
    ----------
    method : str
        ``sirt``: all views at once; ``os-sart``: ordered subsets of views; ``tv``: ordered subsets, and total
        variation kept low after each pass.
    iterations : int or None
        Passes over all views.
    subsets : int or None
        Parts of the views that are used one after the other; 1 for ``sirt``.
    relaxation : float or None
        Factor on every update, in (0, 2); 1.9 for ``sirt``, else 1.
    nonnegative : bool
        Keep mu at 0 or above.
    tv_strength : float
        Factor on the weight of total variation that follows from the noise and range of the line integrals; 0 is none.
    start : str
        ``zero``, or ``fdk``: iterate from an FDK volume.
    """

    method: Method = "os-sart"
    iterations: int | None = None
    subsets: int | None = None
    relaxation: float | None = None
    nonnegative: bool = True
    tv_strength: float = 1.0
    start: Start = "zero"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ParameterError(f"unknown method '{self.method}': expected one of {', '.join(get_args(Method))}")
        if self.start not in get_args(Start):
            raise ParameterError(f"unknown start '{self.start}': expected one of {', '.join(get_args(Start))}")
        if self.iterations is not None and not 1 <= self.iterations <= MOST_ITERATIONS:
            raise ParameterError(f"iterations must be 1 to {MOST_ITERATIONS}, got {self.iterations}")
        if self.subsets is not None and self.subsets < 1:
            raise ParameterError(f"subsets must be at least 1, got {self.subsets}")
        if self.method == "sirt" and self.subsets not in (None, 1):
            raise ParameterError(f"sirt uses all views at once, got {self.subsets} subsets: take the method os-sart")
        if self.relaxation is not None and not 0 < self.relaxation < 2:
            raise ParameterError(f"the relaxation must lie between 0 and 2, got {self.relaxation}")
        if not (math.isfinite(self.tv_strength) and self.tv_strength >= 0):
            raise ParameterError(f"the strength of total variation must be 0 or more, got {self.tv_strength}")

    @property
    def passes(self) -> int:
        """Passes over all views."""
        return self.iterations if self.iterations is not None else DEFAULT_ITERATIONS[self.method]

    @property
    def step(self) -> float:
        """Factor on every update."""
        return self.relaxation if self.relaxation is not None else DEFAULT_RELAXATION[self.method]

    @property
    def guard_slices(self) -> int:
        """Slices beside a slab whose rays are whole too."""
        more = max(0, math.ceil((self.passes - _MEASURED_PASSES) / _PASSES_OF_A_GUARD_SLICE))
        return GUARD_SLICES[self.method] + more

    def subset_count(self, n_views: int) -> int:
        """Return the subsets of so many views."""
        if self.method == "sirt":
            return 1
        wanted = self.subsets if self.subsets is not None else round(n_views / VIEWS_OF_A_SUBSET)
        return max(1, min(n_views, wanted))


def iterative_parameters(
    method: str, iterations: int | None = None, subsets: int | None = None, tv_strength: float | None = None
) -> IterativeParameters | None:
    """Make parameters of what was asked for by name; None for ``fdk``.

    Raises
    ------
    ParameterError
        If the method is unknown, or a value does not go with it.
    """
    given = {"iterations": iterations, "subsets": subsets, "tv_strength": tv_strength}
    known = {name: value for name, value in given.items() if value is not None}
    if method == "fdk":
        if known:
            raise ParameterError(
                f"{' and '.join(known)} do not go with the method fdk: take one of {', '.join(get_args(Method))}"
            )
        return None
    if method not in get_args(Method):
        raise ParameterError(f"unknown method '{method}': expected one of fdk, {', '.join(get_args(Method))}")
    if tv_strength is not None and method != "tv":
        raise ParameterError(f"tv_strength goes with the method tv, got the method {method}")
    return IterativeParameters(cast("Method", method), **cast("dict[str, Any]", known))


def method_values(parameters: IterativeParameters | None) -> dict[str, Any]:
    """Return what `iterative_parameters` makes these of, by its names; of an iterative method only what was given."""
    if parameters is None:
        return {"method": "fdk", "iterations": None, "subsets": None, "tv_strength": None}
    strength = parameters.tv_strength if parameters.method == "tv" else None
    return {
        "method": parameters.method,
        "iterations": parameters.iterations,
        "subsets": parameters.subsets,
        "tv_strength": strength,
    }
