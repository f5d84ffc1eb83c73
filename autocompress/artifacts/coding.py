"""Prefix codes whose bits are stored level by level, so that all symbols are decoded at once by whole-array operators.

The first bits of all symbols come first, then the second bits of those that have one, and so on. Codes are canonical:
shorter ones first, and those of a length in a row. Then a symbol is known by its number in that order as soon as the
number is below that of all complete codes.
"""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """A row of symbols as bits.

    bits: one that means nothing, then the levels one after another, packed into bytes. complete: how many codes are
    shorter than or as long as 0, 1, 2, ... bits, once for each level. order: the symbols in the order of their codes.
    """

    bits: Array
    complete: list[int]
    order: Array


def code_lengths(counts: Array, limit: int) -> Array:
    """The lengths of the best prefix code of at most `limit` bits (Larmore and Hirschberg, 1990: package-merge).

    counts: how often each symbol occurs, all above 0, at most 2**limit of them.
    """
    if len(counts) == 1:
        return np.ones(1, np.int64)
    single = [(int(count), (symbol,)) for symbol, count in enumerate(counts)]
    merged: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(limit):
        pairs = zip(merged[0::2], merged[1::2], strict=False)
        merged = list(heapq.merge(sorted(single), [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]))
    lengths = np.zeros(len(counts), np.int64)
    for _, symbols in merged[: 2 * len(counts) - 2]:
        np.add.at(lengths, list(symbols), 1)
    return lengths


def distinct(values: Array) -> tuple[Array, Array]:
    """The different numbers in order, and which of them each number is; bytes are counted, others sorted."""
    if values.dtype != np.uint8:
        known, numbers = np.unique(values, return_inverse=True)
        return known, numbers
    there = np.bincount(values, minlength=256) > 0
    return np.flatnonzero(there).astype(np.uint8), (np.cumsum(there) - 1)[values]


def encode(symbols: Array, limit: int) -> Coded:
    """Whole numbers from 0, of which every one occurs, coded by how often."""
    lengths = code_lengths(np.bincount(symbols), limit)
    by_code = lengths.argsort(kind="stable")
    codes = np.zeros(len(lengths), np.int64)
    code, length = -1, 0
    for symbol in by_code:
        code = (code + 1) << int(lengths[symbol] - length)
        length = int(lengths[symbol])
        codes[symbol] = code
    levels = [np.zeros(1, np.uint8)]
    for level in range(length):
        # Of the symbols that are left, those whose codes are longer; what a level holds is looked up by symbol.
        symbols = symbols[(lengths > level)[symbols]]
        levels.append(((codes >> np.maximum(lengths - 1 - level, 0)) & 1).astype(np.uint8)[symbols])
    complete = [int((lengths <= level).sum()) for level in range(length)]
    return Coded(np.packbits(np.concatenate(levels)), complete, by_code)
