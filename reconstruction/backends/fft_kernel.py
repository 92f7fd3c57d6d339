# SPDX-License-Identifier: Apache-2.0
"""Convolution of detector rows by FFT, one row in each SIMD lane.

A buffer holds one row a lane: value n of all rows is one vector, so that every step of the FFT is a plain vertical
vector operation, rows never mix (a row's bits do not depend on its neighbours), and what comes out lies as the
back-projection wants it: rows fastest.

A real row of length N is taken as N/2 complex numbers (even columns real, odd ones imaginary).  The forward transform
decimates in frequency and leaves its output in digit-reversed order; the inverse one decimates in time and takes it so:
no reordering.  Between the two each pair of frequencies (k, N/2 - k) is split into the spectra E and O of even and odd
columns, these are joined to the row's spectrum at k and at k + N/2, multiplied by the real and even response H, and
taken apart again::

    A, B = H[k] (E + w O), H[N/2 - k] (E - w O),   Z'[k] = (A + B) / 2 + i conj(w) (A - B) / 2,   w = exp(-2 pi i k / N)

The products stand before the sums: so what a ramp suppresses, the low frequencies where a row has most, leaves no
rounding.

(Cooley and Tukey 1965; Sorensen, Jones, Heideman and Burrus 1987 for the packing of real rows.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from reconstruction.backends.simd import FAST_FLAGS, emitter_of, lanes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"simd": "748d07dd8ff0"}
_F32, _I64 = ir.FloatType(), ir.IntType(64)
#: Radices of the FFT's passes; their order and sizes are the plan's.
RADICES = (8, 4, 2, 3, 5)
_R2, _R3, _R4, _R5, _R8 = ((0,) * n for n in (2, 3, 4, 5, 8))
_PLAIN, _TURNED = (0,), (0, 0)
_FAST = {"fastmath": True, "nogil": True, "error_model": "numpy", "boundscheck": False, "cache": True}


@dataclass(frozen=True, slots=True)
class RowFft:
    """The tables of one convolution of real rows of even length `n_fft`.

    Attributes
    ----------
    n_fft : int
        Length of the periodic rows, real values.
    radices : (pass,) int64
        Of the forward transform, in order.
    twiddles : (value,) float32
        Complex factors of all passes as (re, im), pass after pass, as the kernel reads them.
    pairs : (pair, 2) int64
        Where the frequencies k and n_fft / 2 - k lie after the forward transform.
    factors : (pair, 4) float32
        H[k] and H[n_fft / 2 - k] over 2 n_fft, re w, im w of each pair.
    """

    n_fft: int
    radices: NDArray[np.int64]
    twiddles: NDArray[np.float32]
    pairs: NDArray[np.int64]
    factors: NDArray[np.float32]


def plan_rows(n_fft: int, response: NDArray[np.float64]) -> RowFft:
    """Make the tables for rows of even, 2-3-5-smooth length and a real response of n_fft // 2 + 1 values."""
    half = n_fft // 2
    radices = _radices(half)
    twiddles, length = [], half
    for radix in radices:
        part = length // radix
        powers = np.outer(np.arange(part), np.arange(1, radix))
        twiddles.append(np.exp(-2j * np.pi * powers / length).ravel())
        length = part
    place = np.zeros(1, dtype=np.int64)
    # Frequency k = q + radix k' lies in block q of its pass, there at the place of k' among the rest.
    for radix, rest in zip(radices[::-1], np.cumprod([1, *radices[::-1]])[:-1], strict=True):
        place = (place[:, None] + np.arange(radix)[None] * rest).ravel()
    k = np.arange(half // 2 + 1)
    mirror = (half - k) % half
    turn = np.exp(-2j * np.pi * k / n_fft)
    here, there = response[k] / (2 * n_fft), response[half - k] / (2 * n_fft)
    flat = np.concatenate(twiddles) if twiddles else np.zeros(0, dtype=complex)
    return RowFft(
        n_fft=n_fft,
        radices=np.array(radices, dtype=np.int64),
        twiddles=np.column_stack([flat.real, flat.imag]).astype(np.float32).ravel(),
        pairs=np.column_stack([place[k], place[mirror]]),
        factors=np.column_stack([here, there, turn.real, turn.imag]).astype(np.float32),
    )


def _radices(length: int) -> list[int]:
    """Passes for a length: eights first, and what is left as a four and twos, threes, fives."""
    found = []
    for radix in RADICES:
        while length % radix == 0 and length > 1:
            found.append(radix)
            length //= radix
    if length != 1:
        raise ValueError(f"rows of an FFT need a length of factors 2, 3 and 5, got a factor {length}")
    return found


class _Complex:
    """A pair of vectors under construction."""

    def __init__(self, builder: Any, re: Any, im: Any) -> None:
        self.b, self.re, self.im = builder, re, im

    def __add__(self, other: _Complex) -> _Complex:
        return _Complex(
            self.b, self.b.fadd(self.re, other.re, flags=FAST_FLAGS), self.b.fadd(self.im, other.im, flags=FAST_FLAGS)
        )

    def __sub__(self, other: _Complex) -> _Complex:
        return _Complex(
            self.b, self.b.fsub(self.re, other.re, flags=FAST_FLAGS), self.b.fsub(self.im, other.im, flags=FAST_FLAGS)
        )

    def turned(self, sign: int) -> _Complex:
        """Times i or -i."""
        minus = ir.Constant(self.re.type, [-0.0] * self.re.type.count)
        if sign > 0:
            return _Complex(self.b, self.b.fsub(minus, self.im, flags=FAST_FLAGS), self.re)
        return _Complex(self.b, self.im, self.b.fsub(minus, self.re, flags=FAST_FLAGS))

    def times(self, re: Any, im: Any) -> _Complex:
        """Times a complex factor of vectors."""
        b = self.b

        def product(x: Any, y: Any) -> Any:
            return b.fmul(x, y, flags=FAST_FLAGS)

        return _Complex(
            b,
            b.fsub(product(self.re, re), product(self.im, im), flags=FAST_FLAGS),
            b.fadd(product(self.re, im), product(self.im, re), flags=FAST_FLAGS),
        )

    def weighted(self, weight: Any) -> _Complex:
        """Times a real vector."""
        re, im = (self.b.fmul(part, weight, flags=FAST_FLAGS) for part in (self.re, self.im))
        return _Complex(self.b, re, im)

    def scaled(self, factor: float) -> _Complex:
        """Times a real constant."""
        return self.weighted(ir.Constant(self.re.type, [factor] * self.re.type.count))


def _dft(values: list[_Complex], sign: int) -> list[_Complex]:
    """DFT of 2, 3, 4, 5 or 8 values, exponents of the given sign."""
    n = len(values)
    if n == 2:
        return [values[0] + values[1], values[0] - values[1]]
    if n in (4, 8):
        even, odd = _dft(values[0::2], sign), _dft(values[1::2], sign)
        if n == 4:
            odd = [odd[0], odd[1].turned(sign)]
        else:
            root = math.sqrt(0.5)
            one, three = odd[1], odd[3]
            odd = [
                odd[0],
                (one + one.turned(sign)).scaled(root),
                odd[2].turned(sign),
                (three.turned(sign) - three).scaled(root),
            ]
        return [a + b for a, b in zip(even, odd, strict=True)] + [a - b for a, b in zip(even, odd, strict=True)]
    # Odd lengths: sums and differences of the values at p and n - p.
    half = range(1, n // 2 + 1)
    sums, gaps = [values[p] + values[n - p] for p in half], [(values[p] - values[n - p]).turned(sign) for p in half]
    first = values[0]
    for term in sums:
        first = first + term
    found: list[Any] = [first] + [None] * (n - 1)
    for q in half:
        real, imaginary = values[0], None
        for p, (plus, minus) in enumerate(zip(sums, gaps, strict=True), start=1):
            angle = 2 * math.pi * p * q / n
            real = real + plus.scaled(math.cos(angle))
            term = minus.scaled(math.sin(angle))
            imaginary = term if imaginary is None else imaginary + term
        assert imaginary is not None
        found[q], found[n - q] = real + imaginary, real - imaginary
    return found


def _vectors_at(emit: Any, address: Any) -> _Complex:
    return _Complex(emit.b, emit.load(address), emit.load(address, emit.lanes))


def _store_at(emit: Any, address: Any, value: _Complex) -> None:
    emit.store(address, value.re)
    emit.store(address, value.im, emit.lanes)


@intrinsic
def butterfly(typingctx, isa_tag, radix_tag, turn_tag, inverse_tag, address, stride, twiddles):
    """One DFT of as many values as the radix tag is long, `stride` bytes apart, in place.

    With a turn tag of two the values 1.. are multiplied by the complex float32 at `twiddles` (forward: after the DFT;
    inverse: before it, by their conjugates).  An inverse tag of two takes the inverse.
    """
    del typingctx
    signature = types.void(isa_tag, radix_tag, turn_tag, inverse_tag, types.uintp, types.uintp, types.uintp)
    radix, turned, inverse = radix_tag.count, turn_tag.count == 2, inverse_tag.count == 2

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        address, stride, twiddles = args[4:]
        places = [address]
        for _ in range(radix - 1):
            places.append(builder.add(places[-1], stride))
        values = [_vectors_at(emit, place) for place in places]

        def turn(values: list[_Complex]) -> list[_Complex]:
            out = values[:1]
            for q, value in enumerate(values[1:]):
                re, im = (emit.splat(emit.load_scalar(twiddles, 2 * q + part)) for part in (0, 1))
                out.append(value.times(re, builder.fneg(im) if inverse else im))
            return out

        if turned and inverse:
            values = turn(values)
        values = _dft(values, 1 if inverse else -1)
        if turned and not inverse:
            values = turn(values)
        for place, value in zip(places, values, strict=True):
            _store_at(emit, place, value)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def filter_pair(typingctx, isa_tag, here, there, factors):
    """Multiply the frequencies k (at `here`) and N/2 - k (at `there`) by the response: four float32 at `factors`."""
    del typingctx
    signature = types.void(isa_tag, types.uintp, types.uintp, types.uintp)

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        low, high, re, im = (emit.splat(emit.load_scalar(args[3], k)) for k in range(4))
        z, mirror = _vectors_at(emit, args[1]), _vectors_at(emit, args[2])
        conjugate = _Complex(builder, mirror.re, builder.fneg(mirror.im))
        even, odd = z + conjugate, (z - conjugate).turned(-1).times(re, im)
        upper, lower = (even + odd).weighted(low), (even - odd).weighted(high)
        even, odd = upper + lower, (upper - lower).times(re, builder.fneg(im)).turned(1)
        new, other = even + odd, even - odd
        new_mirror = _Complex(builder, other.re, builder.fneg(other.im))
        _store_at(emit, args[1], new)
        _store_at(emit, args[2], new_mirror)
        return context.get_dummy_value()

    return signature, codegen


@nb.njit(inline="always")
def _pass(isa_tag, radix_tag, inverse_tag, base, half, length, table):
    """One pass over all blocks of `length` complex values."""
    step = np.uintp(8 * lanes_of(isa_tag))
    radix = len(radix_tag)
    part = length // radix
    stride = np.uintp(part) * step
    if part == 1:
        for block in range(0, half, length):
            butterfly(isa_tag, radix_tag, _PLAIN, inverse_tag, base + np.uintp(block) * step, stride, table)
        return
    row = np.uintp(8 * (radix - 1))
    for block in range(0, half, length):
        first = base + np.uintp(block) * step
        for j in range(part):
            butterfly(
                isa_tag, radix_tag, _TURNED, inverse_tag, first + np.uintp(j) * step, stride, table + np.uintp(j) * row
            )


@nb.njit(**_FAST)
def _run_pass(isa_tag, inverse_tag, base, half, length, radix, table):
    if radix == 8:
        _pass(isa_tag, _R8, inverse_tag, base, half, length, table)
    elif radix == 4:
        _pass(isa_tag, _R4, inverse_tag, base, half, length, table)
    elif radix == 2:
        _pass(isa_tag, _R2, inverse_tag, base, half, length, table)
    elif radix == 3:
        _pass(isa_tag, _R3, inverse_tag, base, half, length, table)
    else:
        _pass(isa_tag, _R5, inverse_tag, base, half, length, table)


@nb.njit(**_FAST)
def convolve_rows(isa_tag, buffer, n_fft, radices, twiddles, pairs, factors):
    """Convolve the rows of a buffer (n_fft x lanes float32, lanes fastest) in place; the tables are a `RowFft`'s."""
    half = n_fft // 2
    base, table = np.uintp(buffer.ctypes.data), np.uintp(twiddles.ctypes.data)
    step = np.uintp(8 * lanes_of(isa_tag))
    length = half
    for index in range(len(radices)):
        radix = radices[index]
        _run_pass(isa_tag, _PLAIN, base, half, length, radix, table)
        length //= radix
        table += np.uintp(8 * (radix - 1) * length)
    coefficients = np.uintp(factors.ctypes.data)
    for pair in range(len(pairs)):
        here, there = base + np.uintp(pairs[pair, 0]) * step, base + np.uintp(pairs[pair, 1]) * step
        filter_pair(isa_tag, here, there, coefficients + np.uintp(16 * pair))
    for index in range(len(radices) - 1, -1, -1):
        radix = radices[index]
        table -= np.uintp(8 * (radix - 1) * length)
        length *= radix
        _run_pass(isa_tag, _TURNED, base, half, length, radix, table)
