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
_FAST = ("fast",)
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def host_features() -> dict[str, bool]:
    """Which of the paths this processor can run."""
    features = binding.get_host_cpu_features()
    return {
        "avx512": bool(features.get("avx512f")),
        "avx2": bool(features.get("avx2")),
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

    def load(self, address: Any, offset: int = 0) -> Any:
        where = self.b.add(address, ir.Constant(_I64, 4 * offset)) if offset else address
        return self.b.load(self.b.inttoptr(where, self.vf.as_pointer()), align=4)

    def add_to(self, address: Any, value: Any) -> None:
        pointer = self.b.inttoptr(address, self.vf.as_pointer())
        self.b.store(self.b.fadd(self.b.load(pointer, align=4), value, flags=_FAST), pointer, align=4)

    def ramp(self, fraction: Any, step: Any) -> tuple[Any, Any]:
        """Whole and fractional rows of the run: fraction + lane * step."""
        return self.whole_and_part(self.line(fraction, step))

    def blend(self, column: Any, next_column: Any, w0: Any, w1: Any, offset: int) -> Any:
        """Weighted sum of the same rows of two detector columns."""
        return self.b.fadd(
            self.b.fmul(w0, self.load(column, offset), flags=_FAST),
            self.b.fmul(w1, self.load(next_column, offset), flags=_FAST),
            flags=_FAST,
        )

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

    def gather(self, address: Any, index: Any) -> Any:
        """Elements `index` of the floats from `address` on."""
        if self.isa == "portable":
            return self._gather_scalar(address, index)
        byte_pointer = ir.IntType(8).as_pointer()
        base = self.b.inttoptr(address, byte_pointer)
        zero = ir.Constant(self.vf, [0.0] * self.lanes)
        if self.isa == "avx512":
            bits = ir.VectorType(ir.IntType(1), self.lanes)
            kind = ir.FunctionType(self.vf, [self.vf, byte_pointer, self.vi, bits, _I32])
            fetch = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx512.mask.gather.dps.512")
            return self.b.call(fetch, [zero, base, index, ir.Constant(bits, [1] * self.lanes), ir.Constant(_I32, 4)])
        kind = ir.FunctionType(self.vf, [self.vf, byte_pointer, self.vi, self.vf, ir.IntType(8)])
        fetch = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx2.gather.d.ps.256")
        ones = self.b.bitcast(ir.Constant(self.vi, [-1] * self.lanes), self.vf)
        return self.b.call(fetch, [zero, base, index, ones, ir.Constant(ir.IntType(8), 4)])

    def _gather_scalar(self, address: Any, index: Any) -> Any:
        base = self.b.inttoptr(address, _F32.as_pointer())
        found = ir.Constant(self.vf, ir.Undefined)
        for k in range(self.lanes):
            lane = ir.Constant(_I32, k)
            found = self.b.insert_element(
                found, self.b.load(self.b.gep(base, [self.b.extract_element(index, lane)])), lane
            )
        return found

    def line(self, first: Any, step: Any) -> Any:
        """The values first + lane * step."""
        lane = ir.Constant(self.vf, [float(k) for k in range(self.lanes)])
        return self.b.fadd(self.splat(first), self.b.fmul(self.splat(step), lane, flags=_FAST), flags=_FAST)

    def whole_and_part(self, values: Any) -> tuple[Any, Any]:
        """Integer and fractional parts of values of at least 0."""
        whole = self.b.fptosi(values, self.vi)
        return whole, self.b.fsub(values, self.b.sitofp(whole, self.vf), flags=_FAST)

    def mix(self, here: Any, there: Any, share: Any) -> Any:
        """Linear interpolation."""
        return self.b.fadd(here, self.b.fmul(share, self.b.fsub(there, here, flags=_FAST), flags=_FAST), flags=_FAST)

    def sample(self, column: Any, column_bytes: Any, w0: Any, w1: Any, whole: Any, fraction: Any) -> Any:
        """Bilinear samples of one view along the run."""
        next_column = self.b.add(column, column_bytes)
        low = self.blend(column, next_column, w0, w1, 0)
        high = self.blend(column, next_column, w0, w1, self.lanes)
        here, following = self.pick_neighbours(low, high, whole)
        return self.mix(here, following, fraction)


def _emitter(builder: Any, tag: Any) -> _Emitter:
    return _Emitter(builder, _ISA_OF_TAG_LENGTH[tag.count])


@intrinsic
def add_four_turned(typingctx, isa_tag, columns, column_bytes, outs, fraction, step, w0, w1):
    """Add 4 views, 90 degrees apart, to 4 turned voxel runs: one set of indices and weights for all."""
    del typingctx
    four = types.UniTuple(types.uintp, 4)
    f32 = types.float32
    signature = types.void(isa_tag, four, types.uintp, four, f32, f32, f32, f32)

    def codegen(context, builder, signature, args):
        emit = _emitter(builder, signature.args[0])
        whole, part = emit.ramp(args[4], args[5])
        weight0, weight1 = emit.splat(args[6]), emit.splat(args[7])
        for j in range(4):
            column, out = builder.extract_value(args[1], j), builder.extract_value(args[3], j)
            emit.add_to(out, emit.sample(column, args[2], weight0, weight1, whole, part))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_views(typingctx, isa_tag, columns, column_bytes, out, fractions, steps, w0s, w1s):
    """Add several views to one voxel run: one load and one store of the run for all."""
    del typingctx
    n = columns.count
    floats = types.UniTuple(types.float32, n)
    addresses = types.UniTuple(types.uintp, n)
    signature = types.void(isa_tag, addresses, types.uintp, types.uintp, floats, floats, floats, floats)

    def codegen(context, builder, signature, args):
        emit = _emitter(builder, signature.args[0])
        total = None
        for j in range(n):
            column, fraction, step, w0, w1 = (builder.extract_value(args[k], j) for k in (1, 4, 5, 6, 7))
            whole, part = emit.ramp(fraction, step)
            term = emit.sample(column, args[2], emit.splat(w0), emit.splat(w1), whole, part)
            total = term if total is None else builder.fadd(total, term, flags=_FAST)
        emit.add_to(args[3], total)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_any_pose(typingctx, isa_tag, pixels, n_rows, out, col, row, depth, scale):
    """Add one view of any pose to one voxel run.

    ``col``, ``row`` and ``depth`` are (value at the run's first voxel, step a voxel) of the numerators of column and
    row, counted from the pixel at address `pixels`, and of the common denominator; all float32.  ``n_rows`` (int32)
    is the length of a pixel column.  The weight is ``scale / depth^2``.
    """
    del typingctx
    pair = types.UniTuple(types.float32, 2)
    signature = types.void(isa_tag, types.uintp, types.int32, types.uintp, pair, pair, pair, types.float32)

    def codegen(context, builder, signature, args):
        emit = _emitter(builder, signature.args[0])
        b = builder
        lines = [emit.line(b.extract_value(args[k], 0), b.extract_value(args[k], 1)) for k in (4, 5, 6)]
        inverse = b.fdiv(ir.Constant(emit.vf, [1.0] * emit.lanes), lines[2], flags=_FAST)
        cols, u = emit.whole_and_part(b.fmul(lines[0], inverse, flags=_FAST))
        rows, v = emit.whole_and_part(b.fmul(lines[1], inverse, flags=_FAST))
        height = b.insert_element(ir.Constant(emit.vi, ir.Undefined), args[2], ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, emit.lanes), [0] * emit.lanes)
        height = b.shuffle_vector(height, ir.Constant(emit.vi, ir.Undefined), zeros)
        here = b.add(b.mul(cols, height), rows)
        after = b.add(here, height)
        four = ir.Constant(_I64, 4)
        lower = emit.mix(emit.gather(args[1], here), emit.gather(args[1], after), u)
        above = b.add(args[1], four)
        upper = emit.mix(emit.gather(above, here), emit.gather(above, after), u)
        weight = b.fmul(emit.splat(args[7]), b.fmul(inverse, inverse, flags=_FAST), flags=_FAST)
        emit.add_to(args[3], b.fmul(weight, emit.mix(lower, upper, v), flags=_FAST))
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
