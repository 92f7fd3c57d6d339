# SPDX-License-Identifier: Apache-2.0
"""The inner step of the back-projection, emitted as LLVM vector code.

Numba does not vectorise ``out[z] += interpolate(column, v0 + z * step)``: the store might alias
the indirect load.  These intrinsics emit the step for a run of voxels along z.  Two neighbouring
detector columns are blended in registers; as v is linear in z, the samples of a run lie within two
vectors of consecutive rows, and a permutation picks them:

- ``avx512``: 16 voxels, two loads and ``vpermi2ps`` for each neighbour;
- ``avx2``: 8 voxels, ``vpermps`` on both vectors and a select;
- ``portable``: 8 voxels, scalar loads from a spilled copy; no instruction set assumed.

All need a step of less than two rows a voxel (`MAX_STEP_ROWS`): beyond that the samples of a run
would not lie within two vectors, and the caller must take the scalar kernel.

The instruction set is chosen by the *type* of the first argument, a tuple of as many integers as
`ISA_TAGS` says: so one kernel source serves all, and the compiled code is cached on disk.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

MAX_STEP_ROWS = 1.99
ISA_TAGS: dict[str, tuple[int, ...]] = {"avx512": (0,), "avx2": (0, 0), "portable": (0, 0, 0)}
LANES: dict[str, int] = {"avx512": 16, "avx2": 8, "portable": 8}
_ISA_OF_TAG_LENGTH = {len(tag): name for name, tag in ISA_TAGS.items()}
FAST_FLAGS = ("fast",)
#: For what must come out the same in every variant of a step: nothing is reordered, and only `_Emitter.fma` fuses.
_ORDERED = ()
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def host_features() -> dict[str, bool]:
    """Which of the paths this processor can run."""
    features = binding.get_host_cpu_features()
    return {
        "avx512": bool(features.get("avx512f")),
        "avx2": bool(features.get("avx2")) and bool(features.get("fma")),
        "portable": True,
    }


class _Emitter:
    """Writes the vector code of one instruction set into a function under construction."""

    def __init__(self, builder: Any, isa: str) -> None:
        self.b, self.isa, self.lanes = builder, isa, LANES[isa]
        self.vf, self.vi = ir.VectorType(_F32, self.lanes), ir.VectorType(_I32, self.lanes)

    def splat(self, scalar: Any) -> Any:
        first = self.b.insert_element(ir.Constant(self.vf, ir.Undefined), scalar, ir.Constant(_I32, 0))
        mask = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(first, ir.Constant(self.vf, ir.Undefined), mask)

    def splat_whole(self, scalar: Any) -> Any:
        first = self.b.insert_element(ir.Constant(self.vi, ir.Undefined), scalar, ir.Constant(_I32, 0))
        mask = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(first, ir.Constant(self.vi, ir.Undefined), mask)

    def load(self, address: Any, offset: int = 0) -> Any:
        where = self.b.add(address, ir.Constant(_I64, 4 * offset)) if offset else address
        return self.b.load(self.b.inttoptr(where, self.vf.as_pointer()), align=4)

    def load_scalar(self, address: Any, offset: int) -> Any:
        where = self.b.add(address, ir.Constant(_I64, 4 * offset))
        return self.b.load(self.b.inttoptr(where, _F32.as_pointer()))

    def store(self, address: Any, value: Any, offset: int = 0) -> None:
        where = self.b.add(address, ir.Constant(_I64, 4 * offset)) if offset else address
        self.b.store(value, self.b.inttoptr(where, self.vf.as_pointer()), align=4)

    def add_to(self, address: Any, value: Any) -> None:
        pointer = self.b.inttoptr(address, self.vf.as_pointer())
        self.b.store(self.b.fadd(self.b.load(pointer, align=4), value, flags=_ORDERED), pointer, align=4)

    def between(self, low: Any, high: Any) -> Any:
        """Which lanes are in ``low <= lane < high``."""
        lane = ir.Constant(self.vi, list(range(self.lanes)))
        above = self.b.icmp_signed(">=", lane, self.splat_whole(low))
        return self.b.and_(above, self.b.icmp_signed("<", lane, self.splat_whole(high)))

    def kept(self, lanes: Any, value: Any) -> Any:
        """The value in the given lanes (None: all), 0 in the rest."""
        if lanes is None:
            return value
        return self.b.select(lanes, value, ir.Constant(self.vf, [0.0] * self.lanes))

    def ramp(self, fraction: Any, step: Any) -> tuple[Any, Any]:
        """Whole and fractional rows of the run: fraction + lane * step."""
        return self.whole_and_part(self.line(fraction, step))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """``x y + z``, rounded once where the instruction set can."""
        if self.isa == "portable":
            return self.b.fadd(self.b.fmul(x, y, flags=_ORDERED), z, flags=_ORDERED)
        kind = ir.FunctionType(self.vf, [self.vf] * 3)
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"llvm.fma.v{self.lanes}f32"), [x, y, z])

    def blend(self, column: Any, next_column: Any, w0: Any, w1: Any, offset: int) -> Any:
        """Weighted sum of the same rows of two detector columns."""
        other = self.b.fmul(w1, self.load(next_column, offset), flags=_ORDERED)
        return self.fma(w0, self.load(column, offset), other)

    def pick_neighbours(self, low: Any, high: Any, whole: Any) -> tuple[Any, Any]:
        """Elements `whole` and `whole + 1` of the 2 x lanes rows in (low, high)."""
        one = ir.Constant(self.vi, [1] * self.lanes)
        following = self.b.add(whole, one)
        if self.isa == "portable":
            return self._pick_spilled(low, high, whole)
        pick = self._permute_512 if self.isa == "avx512" else self._permute_256
        return pick(low, high, whole), pick(low, high, following)

    def _permute_512(self, low: Any, high: Any, index: Any) -> Any:
        kind = ir.FunctionType(self.vf, [self.vf, self.vi, self.vf])
        permute = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx512.vpermi2var.ps.512")
        return self.b.call(permute, [low, index, high])

    def _permute_256(self, low: Any, high: Any, index: Any) -> Any:
        kind = ir.FunctionType(self.vf, [self.vf, self.vi])
        permute = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx2.permps")
        in_high = self.b.icmp_signed(">=", index, ir.Constant(self.vi, [8] * 8))
        return self.b.select(in_high, self.b.call(permute, [high, index]), self.b.call(permute, [low, index]))

    def _pick_spilled(self, low: Any, high: Any, whole: Any) -> tuple[Any, Any]:
        pair = ir.ArrayType(self.vf, 2)
        spill = cgutils.alloca_once(self.b, pair)
        for k, part in enumerate((low, high)):
            self.b.store(part, self.b.gep(spill, [ir.Constant(_I32, 0), ir.Constant(_I32, k)]), align=4)
        base = self.b.bitcast(spill, _F32.as_pointer())
        here, following = ir.Constant(self.vf, ir.Undefined), ir.Constant(self.vf, ir.Undefined)
        for k in range(self.lanes):
            lane = ir.Constant(_I32, k)
            index = self.b.extract_element(whole, lane)
            after = self.b.add(index, ir.Constant(_I32, 1))
            here = self.b.insert_element(here, self.b.load(self.b.gep(base, [index])), lane)
            following = self.b.insert_element(following, self.b.load(self.b.gep(base, [after])), lane)
        return here, following

    def gather_pairs(self, address: Any, index: Any) -> tuple[Any, Any]:
        """Elements `index` and `index + 1` of the floats from `address` on: one 64-bit load fetches both."""
        if self.isa == "portable":
            following = self.b.add(index, ir.Constant(self.vi, [1] * self.lanes))
            return self._gather_scalar(address, index), self._gather_scalar(address, following)
        half = self.lanes // 2
        parts = [self._gather_doubles(address, self._half(index, first)) for first in (0, half)]
        low, high = (self.b.bitcast(part, self.vf) for part in parts)
        picks = [ir.Constant(self.vi, [2 * k + odd for k in range(self.lanes)]) for odd in (0, 1)]
        return self.b.shuffle_vector(low, high, picks[0]), self.b.shuffle_vector(low, high, picks[1])

    def _half(self, index: Any, first: int) -> Any:
        lanes = range(first, first + self.lanes // 2)
        mask = ir.Constant(ir.VectorType(_I32, self.lanes // 2), list(lanes))
        return self.b.shuffle_vector(index, ir.Constant(self.vi, ir.Undefined), mask)

    def _gather_doubles(self, address: Any, index: Any) -> Any:
        half = self.lanes // 2
        double = ir.DoubleType()
        wide, byte_pointer = ir.VectorType(double, half), ir.IntType(8).as_pointer()
        base, zero = self.b.inttoptr(address, byte_pointer), ir.Constant(wide, [0.0] * half)
        if self.isa == "avx512":
            bits = ir.VectorType(ir.IntType(1), half)
            kind = ir.FunctionType(wide, [wide, byte_pointer, index.type, bits, _I32])
            fetch = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx512.mask.gather.dpd.512")
            return self.b.call(fetch, [zero, base, index, ir.Constant(bits, [1] * half), ir.Constant(_I32, 4)])
        kind = ir.FunctionType(wide, [wide, byte_pointer, index.type, wide, ir.IntType(8)])
        fetch = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx2.gather.d.pd.256")
        ones = self.b.bitcast(ir.Constant(ir.VectorType(_I64, half), [-1] * half), wide)
        return self.b.call(fetch, [zero, base, index, ones, ir.Constant(ir.IntType(8), 4)])

    def _gather_scalar(self, address: Any, index: Any) -> Any:
        base = self.b.inttoptr(address, _F32.as_pointer())
        found = ir.Constant(self.vf, ir.Undefined)
        for k in range(self.lanes):
            lane = ir.Constant(_I32, k)
            value = self.b.load(self.b.gep(base, [self.b.extract_element(index, lane)]))
            found = self.b.insert_element(found, value, lane)
        return found

    def floor_and_part(self, values: Any) -> tuple[Any, Any]:
        """Integer floor and fractional part of any values."""
        kind = ir.FunctionType(self.vf, [self.vf])
        floor = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.floor.v{self.lanes}f32")
        below = self.b.call(floor, [values])
        return self.b.fptosi(below, self.vi), self.b.fsub(values, below, flags=FAST_FLAGS)

    def line(self, first: Any, step: Any) -> Any:
        """The values first + lane * step."""
        lane = ir.Constant(self.vf, [float(k) for k in range(self.lanes)])
        return self.fma(self.splat(step), lane, self.splat(first))

    def whole_and_part(self, values: Any) -> tuple[Any, Any]:
        """Integer and fractional parts of values of at least 0."""
        whole = self.b.fptosi(values, self.vi)
        return whole, self.b.fsub(values, self.b.sitofp(whole, self.vf), flags=_ORDERED)

    def mix(self, here: Any, there: Any, share: Any) -> Any:
        """Linear interpolation."""
        return self.fma(share, self.b.fsub(there, here, flags=_ORDERED), here)

    def weighted_sum(self, weights: Any, values: Any) -> Any:
        """Sum of products."""
        total = None
        for weight, value in zip(weights, values, strict=True):
            term = self.b.fmul(weight, value, flags=FAST_FLAGS)
            total = term if total is None else self.b.fadd(total, term, flags=FAST_FLAGS)
        return total

    def cubic_taps(self, t: Any) -> list[Any]:
        """Weights of the four neighbours of points t behind the second (Keys 1981, a = -1/2)."""
        found = []
        cubics = ((-0.5, 1.0, -0.5, 0.0), (1.5, -2.5, 0.0, 1.0), (-1.5, 2.0, 0.5, 0.0), (0.5, -0.5, 0.0, 0.0))
        for coefficients in cubics:
            total = ir.Constant(self.vf, [coefficients[0]] * self.lanes)
            for c in coefficients[1:]:
                term = ir.Constant(self.vf, [c] * self.lanes)
                total = self.b.fadd(self.b.fmul(total, t, flags=FAST_FLAGS), term, flags=FAST_FLAGS)
            found.append(total)
        return found

    def sample(self, column: Any, column_bytes: Any, w0: Any, w1: Any, whole: Any, fraction: Any) -> Any:
        """Bilinear samples of one view along the run."""
        next_column = self.b.add(column, column_bytes)
        low = self.blend(column, next_column, w0, w1, 0)
        high = self.blend(column, next_column, w0, w1, self.lanes)
        here, following = self.pick_neighbours(low, high, whole)
        return self.mix(here, following, fraction)


def emitter_of(builder: Any, tag: Any) -> _Emitter:
    """What writes the code of the tagged instruction set."""
    return _Emitter(builder, _ISA_OF_TAG_LENGTH[tag.count])


@intrinsic
def add_four_turned(typingctx, isa_tag, masked_tag, columns, column_bytes, outs, fraction, step, w0, w1, inside):
    """Add 4 views, 90 degrees apart, to 4 turned voxel runs: one set of indices and weights for all.

    With a masked tag of two only the voxels ``inside[0] <= lane < inside[1]`` get something.
    """
    del typingctx
    four = types.UniTuple(types.uintp, 4)
    f32 = types.float32
    span = types.UniTuple(types.int32, 2)
    signature = types.void(isa_tag, masked_tag, four, types.uintp, four, f32, f32, f32, f32, span)
    masked = masked_tag.count == 2

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        whole, part = emit.ramp(args[5], args[6])
        weight0, weight1 = emit.splat(args[7]), emit.splat(args[8])
        lanes = emit.between(*(builder.extract_value(args[9], k) for k in (0, 1))) if masked else None
        for j in range(4):
            column, out = builder.extract_value(args[2], j), builder.extract_value(args[4], j)
            emit.add_to(out, emit.kept(lanes, emit.sample(column, args[3], weight0, weight1, whole, part)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_views(
    typingctx, isa_tag, weighted_tag, masked_tag, columns, column_bytes, out, fractions, steps, w0s, w1s, factors, lows,
    highs,
):  # fmt: skip
    """Add several views to one voxel run: one load and one store of the run for all.

    With a weighted tag of two each view is multiplied by the run of float32 at its address in `factors`; with a masked
    tag of two only the voxels ``low <= lane < high`` of a view get something.  Both sum in the same order, so that a
    voxel's bits do not depend on the variant.
    """
    del typingctx
    n = columns.count
    floats, counts = types.UniTuple(types.float32, n), types.UniTuple(types.int32, n)
    addresses = types.UniTuple(types.uintp, n)
    signature = types.void(
        isa_tag, weighted_tag, masked_tag, addresses, types.uintp, types.uintp, floats, floats, floats, floats,
        addresses, counts, counts,
    )  # fmt: skip
    weighted, masked = weighted_tag.count == 2, masked_tag.count == 2

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        total = None
        for j in range(n):
            column, fraction, step, w0, w1, factor, low, high = (
                builder.extract_value(args[k], j) for k in (3, 6, 7, 8, 9, 10, 11, 12)
            )
            whole, part = emit.ramp(fraction, step)
            term = emit.sample(column, args[4], emit.splat(w0), emit.splat(w1), whole, part)
            term = emit.kept(emit.between(low, high) if masked else None, term)
            if weighted:
                # The product fuses with the sum in either variant.
                share = emit.load(factor)
                total = builder.fmul(term, share, flags=_ORDERED) if total is None else emit.fma(term, share, total)
            else:
                total = term if total is None else builder.fadd(total, term, flags=_ORDERED)
        emit.add_to(args[5], total)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_any_pose(typingctx, isa_tag, weighted_tag, pixels, n_rows, out, col, row, depth, scale, factors):
    """Add one view of any pose to one voxel run.

    ``col``, ``row`` and ``depth`` are (value at the run's first voxel, step a voxel) of the numerators of column and
    row, counted from the pixel at address `pixels`, and of the common denominator; all float32.  ``n_rows`` (int32)
    is the length of a pixel column.  The weight is ``scale / depth^2``, with a weighted tag of two times the run of
    float32 at address `factors`.
    """
    del typingctx
    pair = types.UniTuple(types.float32, 2)
    signature = types.void(
        isa_tag, weighted_tag, types.uintp, types.int32, types.uintp, pair, pair, pair, types.float32, types.uintp
    )
    weighted = weighted_tag.count == 2

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        b = builder
        lines = [emit.line(b.extract_value(args[k], 0), b.extract_value(args[k], 1)) for k in (5, 6, 7)]
        inverse = b.fdiv(ir.Constant(emit.vf, [1.0] * emit.lanes), lines[2], flags=FAST_FLAGS)
        cols, u = emit.floor_and_part(b.fmul(lines[0], inverse, flags=FAST_FLAGS))
        rows, v = emit.floor_and_part(b.fmul(lines[1], inverse, flags=FAST_FLAGS))
        height = emit.splat_whole(args[3])
        here = b.add(b.mul(cols, height), rows)
        low, high = emit.gather_pairs(args[2], here)
        low_next, high_next = emit.gather_pairs(args[2], b.add(here, height))
        value = emit.mix(emit.mix(low, low_next, u), emit.mix(high, high_next, u), v)
        weight = b.fmul(emit.splat(args[8]), b.fmul(inverse, inverse, flags=FAST_FLAGS), flags=FAST_FLAGS)
        if weighted:
            weight = b.fmul(weight, emit.load(args[9]), flags=FAST_FLAGS)
        emit.add_to(args[4], b.fmul(weight, value, flags=FAST_FLAGS))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def cubic_run(typingctx, isa_tag, pixels, stride, out, col, row, depth):
    """Write a run of cubic interpolations (Keys 1981, a = -1/2) of an image with rows of `stride` (int32) floats.

    ``col``, ``row`` and ``depth`` are (value at the run's first pixel, step a pixel) of numerators and denominator,
    counted from the image's pixel at address `pixels`; all 16 neighbours of each must exist.
    """
    del typingctx
    pair = types.UniTuple(types.float32, 2)
    signature = types.void(isa_tag, types.uintp, types.int32, types.uintp, pair, pair, pair)

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        b = builder
        lines = [emit.line(b.extract_value(args[k], 0), b.extract_value(args[k], 1)) for k in (4, 5, 6)]
        inverse = b.fdiv(ir.Constant(emit.vf, [1.0] * emit.lanes), lines[2], flags=FAST_FLAGS)
        cols, u = emit.floor_and_part(b.fmul(lines[0], inverse, flags=FAST_FLAGS))
        rows, v = emit.floor_and_part(b.fmul(lines[1], inverse, flags=FAST_FLAGS))
        width = emit.splat_whole(args[2])
        taps_u, taps_v = emit.cubic_taps(u), emit.cubic_taps(v)
        two = ir.Constant(emit.vi, [2] * emit.lanes)
        # From the neighbour one row below and one column to the left on.
        place = b.sub(b.sub(b.add(b.mul(rows, width), cols), width), ir.Constant(emit.vi, [1] * emit.lanes))
        total = None
        for j in range(4):
            values = (*emit.gather_pairs(args[1], place), *emit.gather_pairs(args[1], b.add(place, two)))
            line = emit.weighted_sum(taps_u, values)
            term = b.fmul(taps_v[j], line, flags=FAST_FLAGS)
            total = term if total is None else b.fadd(total, term, flags=FAST_FLAGS)
            place = b.add(place, width)
        emit.store(args[3], total)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def load_column(typingctx, isa_tag, source, row_bytes, count, weights, target):
    """Write one column of a lane's worth of rows, times as many weights: target[lane] = source[lane row] weights[lane].

    Lanes from `count` on (int64, at least 1) repeat the last row.
    """
    del typingctx
    address = types.uintp
    signature = types.void(isa_tag, address, address, types.int64, address, address)

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        last = builder.sub(args[3], ir.Constant(_I64, 1))
        column = ir.Constant(emit.vf, ir.Undefined)
        for k in range(emit.lanes):
            lane = ir.Constant(_I64, k)
            row = builder.select(builder.icmp_signed("<", lane, last), lane, last)
            value = emit.load_scalar(builder.add(args[1], builder.mul(row, args[2])), 0)
            column = builder.insert_element(column, value, ir.Constant(_I32, k))
        emit.store(args[5], builder.fmul(column, emit.load(args[4]), flags=_ORDERED))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_scaled(typingctx, isa_tag, source, target, scale):
    """Copy a vector times a factor."""
    del typingctx
    signature = types.void(isa_tag, types.uintp, types.uintp, types.float32)

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        emit.store(args[2], builder.fmul(emit.load(args[1]), emit.splat(args[3]), flags=_ORDERED))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def lanes_of(typingctx, isa_tag):
    """Voxels in one run of the tagged instruction set."""
    del typingctx
    lanes = LANES[_ISA_OF_TAG_LENGTH[isa_tag.count]]

    def codegen(context, builder, signature, args):
        del context, builder, signature, args
        return ir.Constant(_I64, lanes)

    return types.int64(isa_tag), codegen
