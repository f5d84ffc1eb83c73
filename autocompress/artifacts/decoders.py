"""The functions of ONNX operators that decode packed weights; ONNX Runtime inlines and folds them at load.

Each is written to a file once, for all tensors that use it. Positions come from cumulative sums, since NonZero is
never folded.
"""

import itertools
import string

import onnx
from onnx import parser

DOMAIN = "p"

# Bits of bytes, the highest first.
_BITS = """
x (bytes) => (bits) {
    one = Constant <value = uint8[1] {1}> ()
    places = Constant <value = uint8[8] {7, 6, 5, 4, 3, 2, 1, 0}> ()
    axis = Constant <value_ints = [1]> ()
    flat = Constant <value_ints = [-1]> ()
    column = Unsqueeze (bytes, axis)
    shifted = BitShift <direction = "RIGHT"> (column, places)
    each = BitwiseAnd (shifted, one)
    row = Reshape (each, flat)
    bits = Cast <to = 6> (row)
}
"""
# Symbols of a fixed width. powers: the value of each bit of a symbol; how many symbols there are is the shape's.
_FIXED = """
f (bytes, powers, shape) => (symbols) {
    first = Constant <value_ints = [0]> ()
    many = Constant <value_ints = [-1]> ()
    bits = p.x (bytes)
    width = Shape (powers)
    form = Concat <axis = 0> (many, width)
    rows = Reshape (bits, form)
    numbers = MatMul (rows, powers)
    count = ReduceProd (shape)
    symbols = Slice (numbers, first, count)
}
"""
# One level of a prefix code: the next bit of all symbols that are not complete. A symbol is kept as its number among
# all in the order of their codes; those up to `complete` have no further bits.
_LEVEL = """
l (bits, symbols, complete, end) => (next, last) {
    axis = Constant <value_int = 0> ()
    open = GreaterOrEqual (symbols, complete)
    live = Cast <to = 6> (open)
    rank = CumSum (live, axis)
    at = Add (rank, end)
    last = ReduceMax <keepdims = 0> (at)
    bit = Gather (bits, at)
    past = Sub (symbols, complete)
    more = Add (past, bit)
    step = Mul (more, live)
    next = Add (symbols, step)
}
"""
_PREFIX = """
%s (bytes, table, shape) => (s%d) {
    before = Constant <value = int32 {-1}> ()
    nil = Constant <value = int32[1] {0}> ()
    bits = p.x (bytes)
    %s = Split <num_outputs = %d> (table)
    count = ReduceProd (shape)
    s0 = Expand (nil, count)
    e0 = Identity (before)
%s
}
"""
# Values by number, in the shape of the weight.
_BOOK = """
b (symbols, book, shape) => (out) {
    numbers = Cast <to = 6> (symbols)
    found = Gather (book, numbers)
    out = Reshape (found, shape)
}
"""
_MASK = """
m (bytes, values, shape) => (out) {
    axis = Constant <value_int = 0> ()
    first = Constant <value_ints = [0]> ()
    bits = p.x (bytes)
    count = ReduceProd (shape)
    used = Slice (bits, first, count)
    rank = CumSum (used, axis)
    place = Mul (rank, used)
    nothing = CastLike (first, values)
    table = Concat <axis = 0> (nothing, values)
    dense = Gather (table, place)
    out = Reshape (dense, shape)
}
"""
# How many numbers lie between each value and the one before it. An escape moves on without a value: it leaves a zero
# where it lands, which the next value lies beyond.
_GAPS = """
g (gaps, escape, values, shape) => (out) {
    one = Constant <value = int32 {1}> ()
    axis = Constant <value_int = 0> ()
    first = Constant <value_ints = [0]> ()
    steps = Cast <to = 6> (gaps)
    long = Equal (steps, escape)
    after = Add (steps, one)
    moves = Where (long, escape, after)
    ends = CumSum (moves, axis)
    places = Sub (ends, one)
    skips = Cast <to = 6> (long)
    holds = Sub (one, skips)
    rank = CumSum (holds, axis)
    place = Mul (rank, holds)
    nothing = CastLike (first, values)
    table = Concat <axis = 0> (nothing, values)
    found = Gather (table, place)
    count = ReduceProd (shape)
    empty = Expand (nothing, count)
    dense = ScatterElements <axis = 0> (empty, places, found)
    out = Reshape (dense, shape)
}
"""
_SIMPLE = {"x": _BITS, "f": _FIXED, "l": _LEVEL, "b": _BOOK, "m": _MASK, "g": _GAPS}
_PREFIXES = "uvwyz"  # functions for codes of different depth
STEP = 3  # one function for every three depths
DEEPEST = STEP * len(_PREFIXES)
# From few functions to all: small files are best off with few, which take room themselves.
FAMILIES = (frozenset("bmg"), frozenset("bmgf"), frozenset(f"bmgf{_PREFIXES}"))


def prefix_name(depth: int) -> str:
    """The function that decodes a prefix code of this depth; a deeper one than needed would do as well."""
    return _PREFIXES[(depth - 1) // STEP]


def levels_of(name: str) -> int:
    """How many levels a function for prefix codes decodes."""
    return STEP * (_PREFIXES.index(name) + 1)


def _text(name: str) -> str:
    if name in _SIMPLE:
        return _SIMPLE[name]
    depth = levels_of(name)
    ends = ", ".join(f"c{level}" for level in range(depth))
    rows = [f"    s{i + 1}, e{i + 1} = p.l (bits, s{i}, c{i}, e{i})" for i in range(depth)]
    return _PREFIX % (name, depth, ends, depth, "\n".join(rows))


def needed(names: set[str]) -> list[str]:
    """These functions and those that they call, each before the ones that call it."""
    found = set(names)
    if names & set(_PREFIXES):
        found.add("l")
    if names & {"f", "m", *_PREFIXES}:
        found.add("x")
    return [name for name in (*_SIMPLE, *_PREFIXES) if name in found]


def function(name: str) -> onnx.FunctionProto:
    """A decoder as ONNX has it, with short names inside."""
    calls = f', "{DOMAIN}" : 1' if "p." in _text(name) else ""
    found = parser.parse_function(f'<opset_import: ["" : 21{calls}], domain: "{DOMAIN}">{_text(name)}')
    short: dict[str, str] = {}
    fresh = ("".join(parts) for size in (1, 2) for parts in itertools.product(string.ascii_letters, repeat=size))
    for row in (found.input, *(node.output for node in found.node)):
        short |= {value: next(fresh) for value in row}
    for row in (found.input, found.output, *(part for node in found.node for part in (node.input, node.output))):
        row[:] = [short[value] for value in row]
    return found
