"""The functions of ONNX operators that decode packed weights; ONNX Runtime inlines and folds them at load.

Each is written to a file once, for all tensors that use it. Positions come from cumulative sums, since NonZero is
never folded.
"""

import functools
import itertools
import string
from collections.abc import Set

import onnx
from onnx import parser

DOMAIN = "p"

# Bits of a column of bytes, the highest first.
_BITS = """
x (bytes) => (bits) {
    powers = Constant <value = uint8[8] {128, 64, 32, 16, 8, 4, 2, 1}> ()
    flat = Constant <value_ints = [-1]> ()
    each = BitwiseAnd (bytes, powers)
    signs = Sign (each)
    row = Reshape (signs, flat)
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
# all in the order of their codes; those up to `complete` have no further bits. end: where the level before it ended.
_LEVEL = """
l (bits, symbols, complete, end) => (next, last) {
    axis = Constant <value_int = 0> ()
    open = GreaterOrEqual (symbols, complete)
    live = Cast <to = 6> (open)
    rank = CumSum (live, axis)
    at = Add (rank, end)
    last = ReduceMax (at)
    bit = Gather (bits, at)
    past = Sub (symbols, complete)
    more = Add (past, bit)
    step = Mul (more, live)
    next = Add (symbols, step)
}
"""
# No code is complete at the first level, so that the table starts with the zero that numbers and places start from.
_PREFIX = """
%s (bytes, table, shape) => (s%d) {
    bits = p.x (bytes)
    %s = Split <num_outputs = %d> (table)
    count = ReduceProd (shape)
    s0 = Expand (c0, count)
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
# How far each value lies from the one before it; 0 is an escape, which moves on without a value: it leaves a zero where
# it lands, which the next value lies beyond.
_GAPS = """
g (gaps, escape, values, shape) => (out) {
    first = Constant <value_ints = [0]> ()
    one = Div (escape, escape)
    axis = Sub (one, one)
    steps = Cast <to = 6> (gaps)
    some = Cast <to = 9> (gaps)
    moves = Where (some, steps, escape)
    ends = CumSum (moves, axis)
    places = Sub (ends, one)
    holds = Sign (steps)
    rank = CumSum (holds, axis)
    place = Mul (rank, holds)
    nothing = CastLike (first, values)
    table = Concat <axis = 0> (nothing, values)
    found = Gather (table, place)
    count = ReduceProd (shape)
    empty = Expand (nothing, count)
    dense = ScatterElements (empty, places, found)
    out = Reshape (dense, shape)
}
"""
_SIMPLE = {"x": _BITS, "f": _FIXED, "l": _LEVEL, "b": _BOOK, "m": _MASK, "g": _GAPS}
_PREFIXES = "cdehijknopqr"  # functions for codes of 1, 2, 3, ... bits
DEEPEST = len(_PREFIXES)
# The decoders that a file may use, any beside that of books. One for prefix codes does for all that are no longer.
FAMILIES = tuple(
    frozenset(f"b{fixed}{_PREFIXES[:count]}")
    for fixed in ("", "m", "g", "f", "mg", "mf", "gf", "mgf")
    for count in range(DEEPEST + 1)
)


def prefix_name(depth: int) -> str:
    """The function that decodes a prefix code of this depth; a deeper one than needed would do as well."""
    return _PREFIXES[depth - 1]


def levels_of(name: str) -> int:
    """How many levels a function for prefix codes decodes; 0 for one that decodes others."""
    return _PREFIXES.find(name) + 1


def _text(name: str) -> str:
    if name in _SIMPLE:
        return _SIMPLE[name]
    depth = levels_of(name)
    ends = ", ".join(f"c{level}" for level in range(depth))
    rows = [f"    s{i + 1}, e{i + 1} = p.l (bits, s{i}, c{i}, {f'e{i}' if i else 'c0'})" for i in range(depth)]
    return _PREFIX % (name, depth, ends, depth, "\n".join(rows))


def needed(names: Set[str]) -> list[str]:
    """These functions and those that they call, each before the ones that call it."""
    found = set(names)
    if names & set(_PREFIXES):
        found.add("l")
    if names & {"f", "m", *_PREFIXES}:
        found.add("x")
    return [name for name in (*_SIMPLE, *_PREFIXES) if name in found]


@functools.cache
def size_bytes(names: frozenset[str]) -> int:
    """What these functions and those that they call take in a file."""
    return sum(function(name).ByteSize() + 3 for name in needed(names))


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
