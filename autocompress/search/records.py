"""Trials as a search reads them, by number and by recipe."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..outcome import Outcome, from_data
from ..recipe import Recipe, fingerprint

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Record:
    """One trial as the storage holds it; outcome is None while it runs."""

    number: int
    recipe_data: dict[str, Any]
    outcome: Outcome | None
    attempts: int
    duplicate_of: int | None
    started_ms: int
    ended_ms: int

    @property
    def recipe(self) -> Recipe:
        """The recipe as a value; reading it imports the techniques, and torch with them."""
        from ..techniques import recipe_from_data

        return recipe_from_data(self.recipe_data)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The recipe's fingerprint."""
        return fingerprint(self.recipe_data)


def record_of(frozen: FrozenTrial) -> Record:
    """A trial of Optuna's, which has a recipe, as a record."""
    attributes = frozen.user_attrs
    return Record(
        frozen.number,
        attributes["recipe"],
        from_data(attributes["outcome"]) if "outcome" in attributes else None,
        int(attributes.get("attempts", 0)),
        attributes.get("duplicate_of"),
        _milliseconds(frozen.datetime_start),
        _milliseconds(frozen.datetime_complete),
    )


def _milliseconds(moment: datetime | None) -> int:
    return int((moment or datetime.now()).timestamp() * 1000)


class Records:
    """Trials by number: all of them, and those that ended and are no duplicates."""

    def __init__(self, trials: Iterable[FrozenTrial] = ()) -> None:
        self.every: dict[int, Record] = {}
        self.finished: dict[int, Record] = {}
        self._first: dict[str, int] = {}
        for frozen in trials:
            self.take(frozen)

    def take(self, frozen: FrozenTrial) -> None:
        """A trial as it is now; one that was not sampled yet is none."""
        if "recipe" not in frozen.user_attrs:
            return
        record = record_of(frozen)
        self.every[record.number] = record
        if record.outcome is not None and record.duplicate_of is None:
            self.finished[record.number] = record
            first = self._first.get(record.fingerprint, record.number)
            self._first[record.fingerprint] = min(first, record.number)

    def first_of(self, recipe: Recipe) -> int | None:
        """The first finished trial of a recipe."""
        return self._first.get(recipe.fingerprint)
