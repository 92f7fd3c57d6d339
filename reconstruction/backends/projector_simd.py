# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
"""The inner step of the transposed projector, emitted as LLVM vector code (see `simd` for the projector's own).

A column of rays on an upright panel crosses a plane of voxels at heights that are linear in the row.  The projector
interpolates there; its transpose gives each voxel the rows that lie less than one voxel from it, each by the share
``1 - |height of the row - height of the voxel|``.  So a run of voxels gathers, and no two lanes write the same number.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from reconstruction.backends.simd import emitter_of

#: Rows that one call looks at for each voxel, counted in pairs, by the length of its tag.
PAIRS_OF_A_CALL = (1, 2)


def _share(emit: Any, offset: Any, fraction: Any, slope: Any) -> Any:
    """``max(0, 1 - slope |offset - fraction|)``."""
    b = emit.b
    kind = ir.FunctionType(emit.vf, [emit.vf])
    size = cgutils.get_or_insert_function(b.module, kind, f"llvm.fabs.v{emit.lanes}f32")
    distance = b.call(size, [b.fsub(offset, fraction)])
    one, zero = (ir.Constant(emit.vf, [value] * emit.lanes) for value in (1.0, 0.0))
    share = emit.fma(b.fneg(slope), distance, one)
    return b.select(b.fcmp_ordered(">", share, zero), share, zero)


@intrinsic
def spread_rows(typingctx, isa_tag, pairs_tag, gathered_tag, rows, outs, weights, fraction, spacing, slope, first):
    """Add the rows near a run of voxels to two lines of voxels.

    The row at address `rows` lies ``fraction`` rows below the lower end of the first voxel's reach, and voxels are
    `spacing` rows apart; `slope` is 1 / spacing.  Of each voxel's rows those from `first` (float32, a whole number)
    on count, two for each entry of `pairs_tag`.  With a gathered tag of two any spacing is taken; else the rows of the
    run must lie within two vectors.  All but the addresses are float32.
    """
    del typingctx
    address, f32 = types.uintp, types.float32
    two, both = types.UniTuple(address, 2), types.UniTuple(f32, 2)
    signature = types.void(isa_tag, pairs_tag, gathered_tag, address, two, both, f32, f32, f32, f32)
    n_pairs, gathered = pairs_tag.count, gathered_tag.count == 2

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        b = builder
        whole, part = emit.ramp(args[6], args[7])
        steep, reach = emit.splat(args[8]), b.fsub(emit.splat(args[9]), emit.splat(args[7]))
        start = b.fptosi(emit.splat(args[9]), emit.vi)
        whole = b.add(whole, start)
        low, high = (None, None) if gathered else (emit.load(args[3]), emit.load(args[3], emit.lanes))
        total = None
        for pair in range(n_pairs):
            index = b.add(whole, ir.Constant(emit.vi, [2 * pair] * emit.lanes))
            found = emit.gather_pairs(args[3], index) if gathered else emit.pick_neighbours(low, high, index)
            for k, row in enumerate(found):
                offset = b.fadd(reach, ir.Constant(emit.vf, [float(2 * pair + k)] * emit.lanes))
                share = _share(emit, offset, part, steep)
                total = b.fmul(share, row) if total is None else emit.fma(share, row, total)
        for k in range(2):
            out = builder.extract_value(args[4], k)
            weight = emit.splat(builder.extract_value(args[5], k))
            emit.store(out, emit.fma(weight, total, emit.load(out)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def scale_rows(typingctx, isa_tag, lines, out, first, step, square):
    """Write a run of rows, times ``sqrt(square + height^2)`` with a height that is linear in the row: the path lengths.

    ``out[lane] = lines[lane] sqrt(square + (first + lane step)^2)``; all float32.
    """
    del typingctx
    address, f32 = types.uintp, types.float32
    signature = types.void(isa_tag, address, address, f32, f32, f32)

    def codegen(context, builder, signature, args):
        emit = emitter_of(builder, signature.args[0])
        height = emit.line(args[3], args[4])
        kind = ir.FunctionType(emit.vf, [emit.vf])
        root = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{emit.lanes}f32")
        length = builder.call(root, [emit.fma(height, height, emit.splat(args[5]))])
        emit.store(args[2], builder.fmul(emit.load(args[1]), length))
        return context.get_dummy_value()

    return signature, codegen
