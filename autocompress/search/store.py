"""A study in its Optuna storage: the only state that a search has."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..config import SearchConfig
from ..errors import StudyError, suggest
from ..front import signs
from ..outcome import (
    Completed,
    Failed,
    Infeasible,
    Limit,
    Metrics,
    Outcome,
    Stopped,
    from_data,
    measured,
    remeasured,
    to_data,
)
from ..recipe import Recipe
from ..urls import shown, sqlite_file
from .facts_first import FactsFirst
from .files import work_folder
from .records import Record, Records
from .samplers import make_sampler
from .storage import LAST_MADE, open_storage, study_names
from .transactions import add_trial, end_trial

if TYPE_CHECKING:
    from .space import Space


class StudyStore:
    """Asks, tells and reads one study.

    Trials are read from the storage once, when first asked after; what others write later, a store opened later sees.
    """

    def __init__(self, study: optuna.Study, url: str) -> None:
        self._study, self._url = study, url
        self.name = study.study_name
        self._running: dict[int, FrozenTrial] = {}  # those that were begun here, as they were written
        self._random = make_sampler("random", 0, 0)

    @classmethod
    def create(cls, config: SearchConfig, objectives: Sequence[str], attributes: dict[str, Any]) -> "StudyStore":
        """Make a study, or one whose making was cut off; raise StudyError when its name is taken."""
        url, name = config.storage, config.study
        if name in study_names(url):
            raise StudyError(f"study {name!r} is in {shown(url)} already: choose another name")
        senses = signs(objectives, attributes.get("lower_is_better", ()))
        directions: list[Any] = ["minimize" if sign > 0 else "maximize" for sign in senses]
        storage: Any = open_storage(url, make=True)
        made = partial(optuna.create_study, storage=storage, directions=directions, load_if_exists=True)
        study = made(study_name=name)
        if [direction.name.lower() for direction in study.directions] != directions:  # cut off with another config
            optuna.delete_study(study_name=name, storage=storage)
            study = made(study_name=name)
        for key, value in {**attributes, LAST_MADE: list(objectives)}.items():
            study.set_user_attr(key, value)
        return cls(study, url)

    @classmethod
    def open(cls, url: str, name: str) -> "StudyStore":
        """The study of that name. Raises StudyError with the nearest names."""
        storage = open_storage(url)
        names = [] if storage is None else optuna.get_all_study_names(storage)
        if storage is None or name not in names:
            hint = suggest(name, names) if names else "it holds no studies; run `autocompress search` first"
            raise StudyError(f"no study {name!r} in {shown(url)}: {hint}")
        found = cls(optuna.load_study(study_name=name, storage=storage, sampler=make_sampler("random", 0, 0)), url)
        if found.get(LAST_MADE) is None:
            raise StudyError(f"no study {name!r} in {shown(url)} yet: it is being made: wait for its search")
        return found

    def anew(self) -> "StudyStore":
        """The same study as its storage has it by now; trials that had ended are not read once more."""
        study = optuna.load_study(
            study_name=self.name, storage=self._study._storage, sampler=make_sampler("random", 0, 0)
        )
        return StudyStore(study, self._url)

    @property
    def folder(self) -> Path:
        """Where the study's files are: beside a SQLite file, wherever that lies now, else where they were put."""
        return Path(self.get("folder", ".")) if sqlite_file(self._url) is None else work_folder(self._url)

    def get(self, key: str, default: Any = None) -> Any:
        """A value kept with the study."""
        return self._study.user_attrs.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study."""
        self._study.set_user_attr(key, value)

    @cached_property
    def objectives(self) -> list[str]:
        """The metrics that the study optimizes."""
        return list(self.get(LAST_MADE))

    @property
    def lower(self) -> list[str]:
        """The task's own metrics of which less is better."""
        return list(self.get("lower_is_better") or [])

    @property
    def asked(self) -> int:
        """How many trials were asked for so far."""
        return len(self._study.get_trials(deepcopy=False))

    def use_sampler(self, sampler: optuna.samplers.BaseSampler, seed: int = 0) -> None:
        """Ask by this sampler from now on; seed: of draws at random, where it repeats itself."""
        self._study.sampler, self._random = sampler, make_sampler("random", seed, self.asked)
        if isinstance(sampler, FactsFirst):
            for frozen in self._study.get_trials(deepcopy=False):
                sampler.take(frozen)

    def enqueue(self, parameters: dict[str, Any]) -> None:
        """Let a later trial use these parameters, unless one did or will."""
        self._study.enqueue_trial(parameters, skip_if_exists=True)

    def ask(self, space: "Space", at_random: bool = False) -> tuple[int, Recipe]:
        """A new trial and its recipe, drawn by the study's sampler or at random."""
        sampler = self._study.sampler
        if isinstance(sampler, FactsFirst):
            return self._add(sampler.random() if at_random else sampler.draw(), sampler.domains, space)
        if at_random:
            self._study.sampler = self._random
        try:
            trial = self._study.ask()
            recipe = self._sample(trial, space)
        finally:
            self._study.sampler = sampler
        self._begun(self.frozen(trial.number))
        return trial.number, recipe

    def _add(self, row: dict[str, Any], domains: dict[str, Any], space: "Space") -> tuple[int, Recipe]:
        """A running trial of the parameters that a row uses."""
        recipe, used = space.recipe(row), space.active(row)
        frozen = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params={name: value for name, value in row.items() if name in used},
            distributions={name: domain for name, domain in domains.items() if name in used},
            user_attrs={"recipe": recipe.to_data()},
        )
        add_trial(self._study, frozen)
        self._begun(frozen)
        return frozen.number, recipe

    def _begun(self, frozen: FrozenTrial) -> None:
        self._running[frozen.number] = frozen
        self._take(frozen)

    def _take(self, frozen: FrozenTrial) -> None:
        """Let records and sampler know what a trial is now."""
        self._records.take(frozen)
        if isinstance(self._study.sampler, FactsFirst):
            self._study.sampler.take(frozen)

    def _sample(self, trial: optuna.Trial, space: "Space") -> Recipe:
        with warnings.catch_warnings():
            # Start points may lie between the steps of a range; Optuna keeps them and says so.
            warnings.simplefilter("ignore", UserWarning)
            recipe = space.sample(trial)
        trial.set_user_attr("recipe", recipe.to_data())
        return recipe

    def adopt(self, number: int, space: "Space") -> Recipe:
        """Go on with a trial that an earlier search left running: same number, same parameters."""
        known = self._study.get_trials(deepcopy=False)[number]._trial_id
        recipe = self._sample(optuna.Trial(self._study, known), space)
        self._begun(self.frozen(number))
        return recipe

    def frozen(self, number: int) -> FrozenTrial:
        """A trial as Optuna has it; those that run are not read again."""
        if number in self._running:
            return self._running[number]
        storage = self._study._storage
        known = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return storage.get_trial(known)

    def count_loss(self, number: int) -> int:
        """One more attempt at a trial that ended its own worker; returns how many there were.

        Attempts that something else cut off are not counted: the death of the search, of a node or of the cluster.
        """
        frozen = self.frozen(number)
        losses = int(frozen.user_attrs.get("losses", 0)) + 1
        self._study._storage.set_trial_user_attr(frozen._trial_id, "losses", losses)
        frozen.user_attrs["losses"] = losses
        return losses

    def tell(self, number: int, outcome: Outcome, duplicate_of: int | None = None) -> None:
        """End a trial at once: a crash leaves it running, or ended with all that is known of it."""
        frozen = self.frozen(number)
        if duplicate_of is not None:
            frozen.user_attrs["duplicate_of"] = duplicate_of
        else:
            lost, losses = isinstance(outcome, Failed) and outcome.lost, int(frozen.user_attrs.get("losses", 0))
            frozen.user_attrs["attempts"] = losses + (not lost)
        frozen.user_attrs["outcome"] = to_data(outcome)
        self._finish(frozen, outcome)

    def _finish(self, frozen: FrozenTrial, outcome: Outcome) -> None:
        refused = isinstance(outcome, Failed) and outcome.refused
        past = (
            outcome.violations if isinstance(outcome, Completed | Infeasible) else {"refused": 1.0} if refused else {}
        )
        for label, value in past.items():
            if label not in frozen.constraints:
                frozen.set_constraint(label, value)
        state, values = self._ending(outcome)
        self._study.sampler.after_trial(self._study, frozen, state, values)
        frozen.state, frozen.values = state, values
        end_trial(self._study, frozen)
        self._running.pop(frozen.number, None)
        self._take(frozen)

    def _ending(self, outcome: Outcome) -> tuple[TrialState, list[float] | None]:
        """The state of a trial in Optuna, and its values."""
        metrics = measured(outcome)
        if metrics is not None:
            values = [float(metrics[name]) for name in self.objectives]
            # Optuna's samplers take numbers alone.
            return (TrialState.FAIL, None) if any(map(math.isnan, values)) else (TrialState.COMPLETE, values)
        if isinstance(outcome, Infeasible | Stopped) or (isinstance(outcome, Failed) and outcome.refused):
            # Not a failure: samplers learn from the violation that this part of the space is out of bounds.
            return TrialState.PRUNED, None
        return TrialState.FAIL, None

    def running(self) -> list[int]:
        """Trials that are not finished; those whose outcome was written before a crash are told now."""
        left = []
        for frozen in self._study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
            if "outcome" in frozen.user_attrs:
                self._finish(frozen, from_data(frozen.user_attrs["outcome"]))
            else:
                left.append(frozen.number)
        return left

    @cached_property
    def _records(self) -> Records:
        return Records(self._study.get_trials(deepcopy=False))

    def records(self) -> dict[int, Record]:
        """Every asked trial by number, duplicates included."""
        return dict(sorted(self._records.every.items()))

    def first_of(self, recipe: Recipe) -> int | None:
        """The first trial of a recipe that ended."""
        return self._records.first_of(recipe)

    def drawn(self) -> dict[int, FrozenTrial]:
        """Every trial as Optuna has it, by number: its parameters and where each was looked for."""
        return {frozen.number: frozen for frozen in self._study.get_trials(deepcopy=False)}

    def finished(self) -> dict[int, Record]:
        """The trials that ended, without duplicates, by their last measurements: what counts."""
        rows = dict(sorted(self._records.finished.items()))
        for key, metrics in self.confirmed.items():
            row = None if key == "baseline" else rows.get(int(key))
            if row is not None and row.outcome is not None:
                rows[row.number] = replace(row, outcome=remeasured(row.outcome, metrics, self.limits))
        return rows

    @cached_property
    def confirmed(self) -> dict[str, Metrics]:
        """What was measured again at the end of a search, by `baseline` or the trial's number."""
        return dict(self.get("confirmed") or {})

    def confirm(self, metrics: dict[str, Metrics]) -> None:
        """Keep what was measured again, in the place of earlier measurements of the same trials."""
        self.confirmed.update(metrics)
        self.set("confirmed", self.confirmed)

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The study's budget, as bounds."""
        return tuple(Limit(**row) for row in self.get("limits") or [])

    def outcomes(self) -> dict[int, Outcome]:
        """The outcome of every finished trial."""
        return {number: row.outcome for number, row in self.finished().items() if row.outcome is not None}
