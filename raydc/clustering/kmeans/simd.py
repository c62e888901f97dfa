"""Vectors of 16 float32 as values in numba, for what compilers do not find in a loop by themselves.

LLVM splits them where the processor's own are shorter. Arrays are indexed flat, without checks.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from raydc.core.compat import array_data, nothing, steps, variable

LANES = 16
ROWS = 16
"""Rows of a product's block with one vector of columns, 8 with more: with three they fill the registers."""
AHEAD = 1 << 11
"""Numbers ahead that rows are asked for: what memory gives in time (benchmarks/kmeans.py)."""

FLOATS = ir.VectorType(ir.FloatType(), LANES)
DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
WORDS = ir.VectorType(ir.IntType(32), LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)
WHOLE = ir.IntType(64)


class Vector(types.Type):
    def __init__(self) -> None:
        super().__init__("Vector")


VECTOR = Vector()


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, FLOATS)


def _read(builder: Any, data: Any, index: Any, kind: ir.VectorType) -> Any:
    """The vector that begins at an index of what `data` points to, on any address."""
    return builder.load(builder.bitcast(builder.gep(data, [index]), kind.as_pointer()), align=1)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(WORDS, [0] * LANES))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    name = f"llvm.fma.v{LANES}{'f64' if a.type == DOUBLES else 'f32'}"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(builder.module.declare_intrinsic(name, (), kind), [a, b, c])


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _fetch(builder: Any, pointer: Any) -> None:
    """Ask for the line of memory at a pointer, which may lie behind the end of everything."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    builder.call(function, [builder.bitcast(pointer, byte), number(0), number(3), number(1)])


def _sum(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b)


def _fold(builder: Any, operation: Any, vector: Any) -> Any:
    """All lanes as one, the upper half onto the lower until one is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        moved = ir.Constant(WORDS, [(lane + lanes) % LANES for lane in range(LANES)])
        vector = operation(builder, vector, builder.shuffle_vector(vector, vector, moved))
    return builder.extract_element(vector, ir.IntType(32)(0))


@intrinsic
def splat(typing: Any, value: types.Type) -> Any:
    """`value` in all lanes."""
    return VECTOR(types.float32), lambda context, builder, signature, arguments: _splat(builder, arguments[0])


@intrinsic
def load(typing: Any, array: types.Array, index: types.Type) -> Any:
    """16 elements of a float32 array from a flat index on; of a uint16 array, as the bits of bfloat16."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, array, arguments[0])
        if array.dtype == types.float32:
            return _read(builder, data, arguments[1], FLOATS)
        wide = builder.zext(_read(builder, data, arguments[1], HALVES), WORDS)
        return builder.bitcast(builder.shl(wide, ir.Constant(WORDS, [16] * LANES)), FLOATS)

    return VECTOR(array, types.intp), emit


@intrinsic
def store(typing: Any, array: types.Array, index: types.Type, vector: Vector) -> Any:
    """Write 16 elements of a float32 array from a flat index on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = builder.gep(array_data(context, builder, array, arguments[0]), [arguments[1]])
        builder.store(arguments[2], builder.bitcast(at, FLOATS.as_pointer()), align=1)
        return nothing(context)

    return types.void(array, types.intp, VECTOR), emit


@intrinsic
def fma(typing: Any, a: Vector, b: Vector, c: Vector) -> Any:
    """a * b + c, rounded once."""
    return VECTOR(VECTOR, VECTOR, VECTOR), lambda context, builder, signature, arguments: _fma(builder, *arguments)


@intrinsic
def minus(typing: Any, a: Vector, b: Vector) -> Any:
    return VECTOR(VECTOR, VECTOR), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def smaller(typing: Any, a: Vector, b: Vector) -> Any:
    """The smaller of each lane."""
    return VECTOR(VECTOR, VECTOR), lambda context, builder, signature, arguments: _smaller(builder, *arguments)


@intrinsic
def larger(typing: Any, a: Vector, b: Vector) -> Any:
    """The larger of each lane."""
    return VECTOR(VECTOR, VECTOR), lambda context, builder, signature, arguments: _larger(builder, *arguments)


@intrinsic
def smallest(typing: Any, vector: Vector) -> Any:
    """The smallest lane."""
    return types.float32(VECTOR), lambda context, builder, signature, arguments: _fold(builder, _smaller, arguments[0])


@intrinsic
def total(typing: Any, vector: Vector) -> Any:
    """The sum of the lanes."""
    return types.float32(VECTOR), lambda context, builder, signature, arguments: _fold(builder, _sum, arguments[0])


@intrinsic
def within(typing: Any, a: Vector, b: Vector) -> Any:
    """Bits of the lanes where a <= b."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(builder.fcmp_ordered("<=", *arguments), ir.IntType(LANES)), WHOLE)

    return types.int64(VECTOR, VECTOR), emit


@intrinsic
def first(typing: Any, bits: types.Type) -> Any:
    """Position of the lowest bit that is set; 64 if none is."""
    one = ir.IntType(1)(0)
    return types.int64(types.int64), lambda context, builder, signature, arguments: builder.cttz(arguments[0], one)


@intrinsic
def dot(typing: Any, x: types.Array, i: types.Type, y: types.Array, j: types.Type, dim: types.Type) -> Any:
    """float64 product of `dim` float32 from flat index i of x and j of y: the same bits on every processor.

    float64 holds each product exactly. 16 running sums are folded; what dim leaves over 16 is added one by one.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, i, _, j, dim = arguments
        a = builder.gep(array_data(context, builder, x, arguments[0]), [i])
        b = builder.gep(array_data(context, builder, y, arguments[2]), [j])
        sums = variable(builder, ir.Constant(DOUBLES, [0.0] * LANES))
        whole = builder.and_(dim, WHOLE(-LANES))
        with steps(builder, WHOLE(0), whole, WHOLE(LANES)) as (d, _):
            left, right = (builder.fpext(_read(builder, data, d, FLOATS), DOUBLES) for data in (a, b))
            builder.store(_fma(builder, left, right, builder.load(sums)), sums)
        answer = variable(builder, _fold(builder, _sum, builder.load(sums)))
        with steps(builder, whole, dim, WHOLE(1)) as (d, _):
            left, right = (builder.fpext(builder.load(builder.gep(data, [d])), ir.DoubleType()) for data in (a, b))
            builder.store(builder.fadd(builder.load(answer), builder.fmul(left, right)), answer)
        return builder.load(answer)

    return types.float64(x, types.intp, y, types.intp, types.intp), emit


@intrinsic
def add(typing: Any, x: types.Array, i: types.Type, sums: types.Array, j: types.Type, dim: types.Type) -> Any:
    """Add `dim` float32 from flat index i of x to the float64 from j of sums."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, i, _, j, dim = arguments
        a = builder.gep(array_data(context, builder, x, arguments[0]), [i])
        b = builder.gep(array_data(context, builder, sums, arguments[2]), [j])
        whole = builder.and_(dim, WHOLE(-LANES))
        with steps(builder, WHOLE(0), whole, WHOLE(LANES)) as (d, _):
            more = builder.fpext(_read(builder, a, d, FLOATS), DOUBLES)
            at = builder.bitcast(builder.gep(b, [d]), DOUBLES.as_pointer())
            builder.store(builder.fadd(builder.load(at, align=1), more), at, align=1)
        with steps(builder, whole, dim, WHOLE(1)) as (d, _):
            more = builder.fpext(builder.load(builder.gep(a, [d])), ir.DoubleType())
            at = builder.gep(b, [d])
            builder.store(builder.fadd(builder.load(at), more), at)
        return nothing(context)

    return types.void(x, types.intp, sums, types.intp, types.intp), emit


def _product(many: int, columns: int, unroll: int = 4) -> Any:
    """An intrinsic: a block of `many` rows by a panel of `columns` vectors of columns, in registers all the way."""

    @intrinsic
    def product(
        typing: Any,
        x: types.Array, i: types.Type, panels: types.Array, p: types.Type, dim: types.Type,
        out: types.Array, o: types.Type, stride: types.Type,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, i, _, p, dim, _, o, stride = arguments
            a = builder.gep(array_data(context, builder, x, arguments[0]), [i])
            b = builder.gep(array_data(context, builder, panels, arguments[2]), [p])
            c = builder.gep(array_data(context, builder, out, arguments[5]), [o])
            rows = [builder.gep(a, [builder.mul(dim, WHOLE(r))]) for r in range(many)]
            none = ir.Constant(FLOATS, [0.0] * LANES)
            sums = [[variable(builder, none) for _ in range(columns)] for _ in range(many)]

            def step(d: Any) -> None:
                at = builder.mul(d, WHOLE(columns * LANES))
                across = [_read(builder, b, builder.add(at, WHOLE(v * LANES)), FLOATS) for v in range(columns)]
                for row, own in zip(rows, sums, strict=True):
                    value = _splat(builder, builder.load(builder.gep(row, [d])))
                    for each, so_far in zip(across, own, strict=True):
                        builder.store(_fma(builder, value, each, builder.load(so_far)), so_far)

            whole = builder.sub(dim, builder.urem(dim, WHOLE(unroll)))
            later = builder.gep(a, [WHOLE(AHEAD)])
            with steps(builder, WHOLE(0), whole, WHOLE(unroll)) as (d, _):
                for line in range(0, unroll * many, LANES):
                    _fetch(builder, builder.gep(later, [builder.add(builder.mul(d, WHOLE(many)), WHOLE(line))]))
                for u in range(unroll):
                    step(builder.add(d, WHOLE(u)))
            with steps(builder, whole, dim, WHOLE(1)) as (d, _):
                step(d)
            for r, own in enumerate(sums):
                for v, so_far in enumerate(own):
                    at = builder.add(builder.mul(stride, WHOLE(r)), WHOLE(v * LANES))
                    builder.store(builder.load(so_far), builder.bitcast(builder.gep(c, [at]), FLOATS.as_pointer()), 1)
            return nothing(context)

        index = types.intp
        return types.void(x, index, panels, index, index, out, index, index), emit

    return product


product1, product2, product3 = _product(ROWS, 1), _product(8, 2), _product(8, 3)
"""Rows [16 or 8, dim] from flat index i of x, times a panel [dim, 16 columns] from p, written from o of out on."""
