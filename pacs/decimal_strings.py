# SPDX-License-Identifier: Apache-2.0
"""Numbers as DICOM Decimal Strings (DS, at most 16 characters, PS3.5 6.2), and rescale values that survive it."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

from pacs.errors import EncodingError

#: Longest text of a DS value.
DS_LENGTH = 16
#: Range of a signed 16-bit stored value.
STORED_MIN, STORED_MAX = -32768, 32767
#: Digits of a slope: with five more for the stored value of zero, the intercept still fits a DS.
_SLOPE_DIGITS = 5
#: Slopes of these sizes keep the intercept's text within 16 characters.
_SLOPE_MIN, _SLOPE_MAX = 1e-60, 1e60


def ds_text(value: float) -> str:
    """Return the most exact text of a number that a DS can hold.

    The shortest text that reads back as exactly `value` where that fits 16 characters, else as many digits as fit.

    Raises
    ------
    EncodingError
        If the number is not finite.
    """
    number = float(value)
    if not math.isfinite(number):
        raise EncodingError(f"a decimal string needs a finite number, got {number}")
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    text = repr(number)
    digits = 17
    while len(text) > DS_LENGTH:
        digits -= 1
        text = f"{number:.{digits}g}"
    return text


def rescale_for_range(low: float, high: float) -> tuple[float, float]:
    """Choose slope and intercept that map signed 16-bit stored values onto a range of output values.

    Both are exact as DS, and the output value 0 is exactly a stored value if it lies in the range
    (air keeps its value).

    Parameters
    ----------
    low, high : float
        The range that has to be stored without clipping, e.g. mu [1/mm] or HU.

    Returns
    -------
    slope, intercept : float
        ``output = slope * stored + intercept`` (PS3.3 C.11.1).

    Raises
    ------
    EncodingError
        If the range is empty or not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise EncodingError(f"a rescale needs a finite range low < high, got {low} to {high}")
    # Two steps are kept back: one for rounding the slope, one for rounding the place of zero.
    wanted = (high - low) / (STORED_MAX - STORED_MIN - 2)
    if not _SLOPE_MIN <= wanted <= _SLOPE_MAX or max(abs(low), abs(high)) > 1e4 * (high - low):
        raise EncodingError(
            f"the range {low} to {high} cannot be rescaled: too narrow or too wide for a decimal string"
        )
    slope = Context(prec=_SLOPE_DIGITS, rounding=ROUND_CEILING).create_decimal(Decimal(wanted))
    steps = math.floor(Decimal(low) / slope) - STORED_MIN
    intercept = slope * steps
    return _exact(slope), _exact(intercept)


def _exact(value: Decimal) -> float:
    """Return the float of a decimal; its DS text reads back as the same float."""
    number = float(value)
    if float(ds_text(number)) != number:
        raise EncodingError(f"{value} does not fit a decimal string of {DS_LENGTH} characters")
    return number
