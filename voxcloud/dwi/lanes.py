"""Eight float64 numbers side by side in compiled code, one voxel in each.

Loops over eight lanes are unrolled before LLVM looks for vectors, and what it then finds is scalar code: a fifth of the
speed, measured. So lanes are a type of their own here, which compiles to a vector of LLVM; processors with shorter
vectors take two or four instructions for one of ours. To be called from compiled functions only; arrays are contiguous
float64 (..., LANES), and a place in them counts lanes, not numbers: nothing is checked against their bounds.
"""

from __future__ import annotations

from typing import Any

from numba import extending, types
from numba.core import cgutils

LANES = 8
ir: Any = cgutils.ir  # type: ignore[attr-defined]  # llvmlite, the version that numba was built for
VECTOR = ir.VectorType(ir.DoubleType(), LANES)
ALIGNMENT = 8
# What it makes is called from compiled functions with fewer arguments than it is declared with.
intrinsic: Any = extending.intrinsic


class LanesType(types.Type):
    """Eight numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


lanes = LanesType()


@extending.register_model(LanesType)
class LanesModel(extending.models.PrimitiveModel):
    """How they lie in registers."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    first = builder.mul(arguments[1], ir.Constant(arguments[1].type, LANES))
    return builder.bitcast(builder.gep(array.data, [first]), VECTOR.as_pointer())


@intrinsic
def load(typing_context, array, at):  # type: ignore[no-untyped-def]
    """Return the lanes at place ``at``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = builder.load(_pointer(context, builder, signature, arguments))
        found.align = ALIGNMENT
        return found

    return lanes(array, types.int64), generate


@intrinsic
def store(typing_context, array, at, values):  # type: ignore[no-untyped-def]
    """Put lanes at place ``at``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, signature, arguments)).align = ALIGNMENT
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


@intrinsic
def spread(typing_context, value):  # type: ignore[no-untyped-def]
    """Return the same float64 number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(VECTOR, ir.Undefined)
        one = builder.insert_element(empty, arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    return lanes(types.float64), generate


def _called(builder: Any, name: str, arguments: Any) -> Any:
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64"), arguments)


@intrinsic
def fma(typing_context, a, b, c):  # type: ignore[no-untyped-def]
    """Return ``a b + c``, rounded once where the processor can."""
    return lanes(lanes, lanes, lanes), lambda context, builder, signature, values: _called(builder, "fmuladd", values)


@intrinsic
def root(typing_context, a):  # type: ignore[no-untyped-def]
    """Return square roots."""
    return lanes(lanes), lambda context, builder, signature, values: _called(builder, "sqrt", values)


@intrinsic
def negative(typing_context, a):  # type: ignore[no-untyped-def]
    """Return ``-a``."""
    return lanes(lanes), lambda context, builder, signature, values: builder.fneg(values[0])


@intrinsic
def add(typing_context, a, b):  # type: ignore[no-untyped-def]
    """Return ``a + b``."""
    return lanes(lanes, lanes), lambda context, builder, signature, values: builder.fadd(*values)


@intrinsic
def subtract(typing_context, a, b):  # type: ignore[no-untyped-def]
    """Return ``a - b``."""
    return lanes(lanes, lanes), lambda context, builder, signature, values: builder.fsub(*values)


@intrinsic
def multiply(typing_context, a, b):  # type: ignore[no-untyped-def]
    """Return ``a b``."""
    return lanes(lanes, lanes), lambda context, builder, signature, values: builder.fmul(*values)


@intrinsic
def divide(typing_context, a, b):  # type: ignore[no-untyped-def]
    """Return ``a / b``."""
    return lanes(lanes, lanes), lambda context, builder, signature, values: builder.fdiv(*values)


@intrinsic
def where_positive(typing_context, test, a, b):  # type: ignore[no-untyped-def]
    """Return a where ``test > 0``, else b (also where it is NaN)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[1], arguments[2])

    return lanes(lanes, lanes, lanes), generate
