"""The terrain of a search: what rows of parameters may say, and how they lie to one another."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = dict[str, Any]
GRID = 9  # values of a setting among which the one is looked for that just fits
# Numbers that say nothing of size and speed, or change what others say.
IDLE = (".position", ".times", ".epochs", ".learning_rate", ".temperature", ".alpha", ".beta")
REMEMBERED = 20_000  # rows, and combinations of choices
ANYWHERE, NEAR = 0.2, 0.15  # how often a number is drawn anew, and else how far it moves, as a share of its domain


@dataclass(frozen=True, eq=False)
class Use:
    """What hangs on nothing but which parameters a row uses.

    listed: these in the order of the domains; by_name: in that of the alphabet; mask: of all parameters; orders: the
    positions among them that are in order among themselves; knobs: the numeric settings, which may be solved for.
    """

    names: frozenset[str]
    listed: tuple[str, ...]
    by_name: tuple[str, ...]
    mask: NDArray[np.bool_]
    orders: tuple[tuple[str, ...], ...]
    knobs: tuple[str, ...]


class Terrain:
    """What rows may say: the domain of each parameter, which of them a row uses, and which follow its last training.

    orders: the positions of steps that are in order among themselves, for each such group. switches: the parameters
    on which it hangs what a row uses; all choices and counts where they are not told.
    """

    def __init__(
        self,
        domains: Mapping[str, Any],
        active: Callable[[Row], set[str]],
        leaves: Callable[[Row], set[str]],
        orders: Sequence[Sequence[str]] = (),
        switches: Sequence[str] = (),
    ) -> None:
        self._orders = [list(names) for names in orders]
        self.domains, self.leaves, self._find_active = dict(domains), leaves, active
        self._switches = switches or [name for name, domain in self.domains.items() if _decides(name, domain)]
        self._uses: dict[tuple[Any, ...], Use] = {}
        self._known_uses: dict[frozenset[str], Use] = {}
        columns, groups = 0, list[int]()
        self._places: dict[str, tuple[int, int]] = {}
        self.grids = {name: _grid(domain) for name, domain in self.domains.items()}
        self.codes = {
            name: np.array([_scaled(self.domains[name], value) for value in grid]) for name, grid in self.grids.items()
        }
        self.ends = {name: codes[[0, -1]] for name, codes in self.codes.items()}
        for name, domain in self.domains.items():
            width = _width(domain)
            self._places[name] = (columns, width)
            # A length scale for each number, one for all choices.
            groups += [max(groups, default=0) + 1 if _numeric(domain) else 0] * width
            columns += width
        self.groups = np.array(groups, dtype=np.int64)

    def active(self, row: Row) -> frozenset[str]:
        """The parameters that a row uses."""
        return self._use(row).names

    def _use(self, row: Row) -> Use:
        switched = tuple([row[name] for name in self._switches])
        found = self._uses.get(switched)
        if found is None:
            if len(self._uses) > REMEMBERED:
                self._uses.clear()
                self._known_uses.clear()
            names = frozenset(self._find_active(row))
            found = self._known_uses.get(names) or self._make_use(names)
            self._uses[switched] = self._known_uses[names] = found
        return found

    def _make_use(self, names: frozenset[str]) -> Use:
        orders = [tuple(name for name in group if name in names) for group in self._orders]
        knobs = [
            name
            for name, domain in self.domains.items()
            if name in names and _numeric(domain) and not name.endswith(IDLE)
        ]
        mask = np.array([name in names for name in self.domains])
        listed = tuple(name for name in self.domains if name in names)
        return Use(names, listed, tuple(sorted(listed)), mask, tuple(order for order in orders if order), tuple(knobs))

    def random(self, generator: np.random.Generator) -> Row:
        """A row drawn evenly from the domains."""
        return self.randoms(generator, 1)[0]

    def randoms(self, generator: np.random.Generator, count: int) -> list[Row]:
        """So many rows drawn evenly from the domains."""
        shares = generator.random((len(self.domains), count))
        columns = [values_at(domain, some) for domain, some in zip(self.domains.values(), shares, strict=True)]
        rows = zip(*columns, strict=True) if columns else [()] * count  # a space of one recipe has no parameters
        return [dict(zip(self.domains, values, strict=True)) for values in rows]

    def mutant(self, row: Row, generator: np.random.Generator, count: int, only: Set[str] | None = None) -> Row:
        """A row with some of the parameters that it uses changed, numbers by a little or at random."""
        names = sorted(only & self.domains.keys()) if only is not None else self._use(row).by_name
        changed = dict(row)
        if names:
            for index in generator.choice(len(names), size=min(count, len(names)), replace=False):
                name = names[int(index)]
                changed[name] = _nudged(self.domains[name], row[name], self.grids[name], self.codes[name], generator)
        return changed

    def key(self, row: Row) -> tuple[Any, ...]:
        """What a row comes to: equal for rows that differ in what they do not use, or in positions of one order."""
        use = self._use(row)
        row = _ranked(row, use.orders)
        return use.names, *[row[name] for name in use.listed]

    def encode(self, rows: Sequence[Row]) -> Array:
        """Rows as (rows, columns): numbers in -1 to 1, choices a column each; what a row does not use is 0."""
        found = np.zeros((len(rows), len(self.groups)))
        if not rows:
            return found
        uses = [self._use(row) for row in rows]
        used = np.array([use.mask for use in uses])
        rows = [_ranked(row, use.orders) for row, use in zip(rows, uses, strict=True)]
        for index, (name, domain) in enumerate(self.domains.items()):
            (lines,) = np.nonzero(used[:, index])
            values = [rows[line][name] for line in lines]
            start, width = self._places[name]
            if width > 1:
                found[lines, start + np.array([domain.choices.index(value) for value in values], dtype=np.int64)] = 1.0
            elif values:
                found[lines, start] = _all_scaled(domain, values)
        return found

    def along(self, encoded: Array, names: Sequence[Sequence[str]], codes: Mapping[str, Array]) -> Array:
        """For each of (rows, columns) and each of its names, the row with each code of that number, which it uses."""
        flat = [name for some in names for name in some]
        found = np.repeat(encoded, [sum(len(codes[name]) for name in some) for some in names], axis=0)
        if flat:
            columns = np.repeat([self._places[name][0] for name in flat], [len(codes[name]) for name in flat])
            found[np.arange(len(found)), columns] = np.concatenate([codes[name] for name in flat])
        return found

    def moved(self, row: Row, name: str) -> Row:
        """A row with a number half way to the farther of its ends."""
        share = (_scaled(self.domains[name], row[name]) + 1) / 2
        return {**row, name: value_at(self.domains[name], share / 2 if share > 0.5 else (1 + share) / 2)}

    def knobs(self, row: Row) -> tuple[str, ...]:
        """The numeric settings that a row uses, of which one may be solved for."""
        return self._use(row).knobs


def _ranked(row: Row, orders: Sequence[Sequence[str]]) -> Row:
    """A row with positions by their order among those of a group, evenly spaced; equal ones by their names."""
    if not orders:
        return row
    found = dict(row)
    for group in orders:
        names = sorted(group, key=lambda name: (row[name], name))
        found.update({name: (index + 0.5) / len(names) for index, name in enumerate(names)})
    return found


def _decides(name: str, domain: Any) -> bool:
    return hasattr(domain, "choices") or name.endswith(".times")


def _numeric(domain: Any) -> bool:
    if hasattr(domain, "choices"):
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.choices)
    return True


def _width(domain: Any) -> int:
    """Columns of a parameter: one for numbers and for yes or no, else one for each choice."""
    return 1 if _numeric(domain) or len(domain.choices) <= 2 else len(domain.choices)


def _scaled(domain: Any, value: Any) -> float:
    """A value in -1 to 1."""
    if hasattr(domain, "choices"):
        return 2.0 * int(domain.choices.index(value)) / max(len(domain.choices) - 1, 1) - 1
    low, high = float(domain.low), float(domain.high)
    if high <= low:
        return 0.0
    if domain.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float(2 * (float(value) - low) / (high - low) - 1)


def _all_scaled(domain: Any, values: Sequence[Any]) -> Array:
    """Values in -1 to 1, together."""
    if hasattr(domain, "choices") or domain.log or domain.high <= domain.low:
        known = {value: _scaled(domain, value) for value in set(values)}
        return np.array([known[value] for value in values])
    low, high = float(domain.low), float(domain.high)
    return np.asarray(2 * (np.array(values, dtype=float) - low) / (high - low) - 1)


def value_at(domain: Any, share: float) -> Any:
    """The value at a share of a domain, as the domain rounds it."""
    if hasattr(domain, "choices"):
        return domain.choices[min(int(share * len(domain.choices)), len(domain.choices) - 1)]
    low, high = float(domain.low), float(domain.high)
    value = math.exp(math.log(low) + share * math.log(high / low)) if domain.log else low + share * (high - low)
    if domain.step:
        value = low + round((value - low) / domain.step) * domain.step
    value = min(max(value, low), high)
    return round(value) if isinstance(domain.low, int) else round(value, 12)


def values_at(domain: Any, shares: Array) -> list[Any]:
    """The values at many shares of a domain, as value_at gives each."""
    if hasattr(domain, "choices"):
        last = len(domain.choices) - 1
        return [domain.choices[place] for place in np.minimum((shares * (last + 1)).astype(np.int64), last).tolist()]
    low, high = float(domain.low), float(domain.high)
    values = np.exp(math.log(low) + shares * math.log(high / low)) if domain.log else low + shares * (high - low)
    if domain.step:
        values = low + np.round((values - low) / domain.step) * domain.step
    values = np.clip(values, low, high)
    return [round(value) if isinstance(domain.low, int) else round(value, 12) for value in values.tolist()]


def _grid(domain: Any) -> list[Any]:
    return list(dict.fromkeys(values_at(domain, np.linspace(0, 1, GRID))))


def _draw(domain: Any, generator: np.random.Generator) -> Any:
    if hasattr(domain, "choices"):
        return domain.choices[int(generator.integers(len(domain.choices)))]
    return value_at(domain, float(generator.random()))


def _nudged(domain: Any, value: Any, grid: list[Any], codes: Array, generator: np.random.Generator) -> Any:
    """Another value: a number near, mostly, or any other; codes: those of the grid."""
    if not _numeric(domain):
        others = [choice for choice in domain.choices if choice != value]
        return others[int(generator.integers(len(others)))] if others else value
    share: float = (_scaled(domain, value) + 1) / 2
    if generator.random() < ANYWHERE:
        return _draw(domain, generator)
    moved = min(max(share + generator.normal() * NEAR, 0.0), 1.0)
    found = value_at(domain, moved)
    if found == value:  # a coarse step: the next one
        at = int(np.abs(codes - _scaled(domain, value)).argmin())
        found = grid[min(max(at + (1 if moved >= share else -1), 0), len(grid) - 1)]
    return found
