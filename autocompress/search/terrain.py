"""The terrain of a search: what rows of parameters may say, and how they lie to one another."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = dict[str, Any]
GRID = 9  # values of a setting among which the one is looked for that just fits
# Numbers that say nothing of size and speed, or change what others say.
IDLE = (".position", ".times", ".epochs", ".learning_rate", ".temperature", ".alpha")
REMEMBERED = 20_000  # rows, and combinations of choices
ANYWHERE, NEAR = 0.2, 0.15  # how often a number is drawn anew, and else how far it moves, as a share of its domain


class Terrain:
    """What rows may say: the domain of each parameter, which of them a row uses, and which follow its last training.

    orders: the positions of steps that are in order among themselves, for each such group.
    """

    def __init__(
        self,
        domains: Mapping[str, Any],
        active: Callable[[Row], set[str]],
        leaves: Callable[[Row], set[str]],
        orders: Sequence[Sequence[str]] = (),
    ) -> None:
        self._orders = [list(names) for names in orders]
        self.domains, self.leaves, self._find_active = dict(domains), leaves, active
        # What a row uses hangs on its choices and counts alone.
        self._deciding = [name for name, domain in self.domains.items() if _decides(name, domain)]
        self._active: dict[tuple[Any, ...], frozenset[str]] = {}
        columns, groups = 0, list[int]()
        self._places: dict[str, tuple[int, int]] = {}
        self.grids = {name: _grid(domain) for name, domain in self.domains.items()}
        self.ends = {name: [grid[0], grid[-1]] for name, grid in self.grids.items()}
        self._kept: dict[int, tuple[Row, Array]] = {}
        for name, domain in self.domains.items():
            width = _width(domain)
            self._places[name] = (columns, width)
            # A length scale for each number, one for all choices.
            groups += [max(groups, default=0) + 1 if _numeric(domain) else 0] * width
            columns += width
        self.groups = np.array(groups, dtype=np.int64)

    def active(self, row: Row) -> frozenset[str]:
        """The parameters that a row uses."""
        key = tuple([row[name] for name in self._deciding])
        if key not in self._active:
            if len(self._active) > REMEMBERED:
                self._active.clear()
            self._active[key] = frozenset(self._find_active(row))
        return self._active[key]

    def random(self, generator: np.random.Generator) -> Row:
        """A row drawn evenly from the domains."""
        return {name: _draw(domain, generator) for name, domain in self.domains.items()}

    def mutant(self, row: Row, generator: np.random.Generator, count: int, only: Set[str] | None = None) -> Row:
        """A row with some of the parameters that it uses changed, numbers by a little or at random."""
        names = sorted((only if only is not None else self.active(row)) & self.domains.keys())
        changed = dict(row)
        if names:
            for name in generator.choice(names, size=min(count, len(names)), replace=False):
                changed[str(name)] = _nudged(self.domains[str(name)], row[str(name)], self.grids[str(name)], generator)
        return changed

    def key(self, row: Row) -> tuple[Any, ...]:
        """What a row comes to: equal for rows that differ in what they do not use, or in positions of one order."""
        active = self.active(row)
        order = self._ranks(row, active)
        return tuple((name, order.get(name, row[name])) for name in self.domains if name in active)

    def encode(self, rows: Sequence[Row]) -> Array:
        """Rows as (rows, columns): numbers in -1 to 1, choices a column each; what a row does not use is 0."""
        found = np.zeros((len(rows), len(self.groups)))
        for line, row in zip(found, rows, strict=True):
            active = self.active(row)
            order = self._ranks(row, active)
            for name in active:
                start, width = self._places[name]
                domain, value = self.domains[name], order.get(name, row[name])
                if width > 1:
                    line[start + domain.choices.index(value)] = 1.0
                else:
                    line[start] = _scaled(domain, value)
        return found

    def _ranks(self, row: Row, active: Set[str]) -> dict[str, float]:
        """Positions by their order among those of a group that a row uses, evenly spaced; equal ones by their names."""
        found = {}
        for group in self._orders:
            names = sorted((name for name in group if name in active), key=lambda name: (row[name], name))
            found.update({name: (index + 0.5) / len(names) for index, name in enumerate(names)})
        return found

    def encode_kept(self, rows: Sequence[Row]) -> Array:
        """The same for rows that are asked for again and again: the very objects, which nobody changes."""
        if len(self._kept) > REMEMBERED:
            self._kept.clear()
        for row in rows:
            if id(row) not in self._kept:
                self._kept[id(row)] = row, self.encode([row])[0]
        return np.array([self._kept[id(row)][1] for row in rows]).reshape(len(rows), len(self.groups))

    def encode_line(self, row: Row, name: str, values: Sequence[Any]) -> Array:
        """One row with each of these values of a number that it uses: (values, columns)."""
        found = np.repeat(self.encode([row]), len(values), axis=0)
        found[:, self._places[name][0]] = [_scaled(self.domains[name], value) for value in values]
        return found

    def moved(self, row: Row, name: str) -> Row:
        """A row with a number half way to the farther of its ends."""
        share = (_scaled(self.domains[name], row[name]) + 1) / 2
        return {**row, name: value_at(self.domains[name], share / 2 if share > 0.5 else (1 + share) / 2)}

    def knobs(self, row: Row) -> list[str]:
        """The numeric settings that a row uses, of which one may be solved for."""
        active = self.active(row)
        return [
            name
            for name, domain in self.domains.items()
            if name in active and _numeric(domain) and not name.endswith(IDLE)
        ]


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


def value_at(domain: Any, share: float) -> Any:
    """The value at a share of a numeric domain, as the domain rounds it."""
    if hasattr(domain, "choices"):
        return domain.choices[min(int(share * len(domain.choices)), len(domain.choices) - 1)]
    low, high = float(domain.low), float(domain.high)
    value = math.exp(math.log(low) + share * math.log(high / low)) if domain.log else low + share * (high - low)
    if domain.step:
        value = low + round((value - low) / domain.step) * domain.step
    value = min(max(value, low), high)
    return round(value) if isinstance(domain.low, int) else round(value, 12)


def _grid(domain: Any) -> list[Any]:
    return list(dict.fromkeys(value_at(domain, share) for share in np.linspace(0, 1, GRID)))


def _draw(domain: Any, generator: np.random.Generator) -> Any:
    if hasattr(domain, "choices"):
        return domain.choices[int(generator.integers(len(domain.choices)))]
    return value_at(domain, float(generator.random()))


def _nudged(domain: Any, value: Any, grid: list[Any], generator: np.random.Generator) -> Any:
    """Another value: a number near, mostly, or any other."""
    if not _numeric(domain):
        others = [choice for choice in domain.choices if choice != value]
        return others[int(generator.integers(len(others)))] if others else value
    share: float = (_scaled(domain, value) + 1) / 2
    if generator.random() < ANYWHERE:
        return _draw(domain, generator)
    moved = min(max(share + generator.normal() * NEAR, 0.0), 1.0)
    found = value_at(domain, moved)
    if found == value:  # a coarse step: the next one
        at = int(np.argmin([abs(_scaled(domain, one) - _scaled(domain, value)) for one in grid]))
        found = grid[min(max(at + (1 if moved >= share else -1), 0), len(grid) - 1)]
    return found
