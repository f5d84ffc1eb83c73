"""A study in its Optuna storage: the only state that a search has."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from ..config import SearchConfig
from ..errors import NO_PERMISSION, NO_ROOM, RESUMES, StorageAway, StudyError, suggest
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
from ..recipe import Recipe, digest
from ..urls import WAIT_SECONDS, checked_url, connect_arguments, is_server, owners, shown, sqlite_file
from .facts_first import FactsFirst
from .files import work_folder
from .records import ENDED, Record, Records
from .samplers import make_sampler
from .transactions import add_trial, end_trial

if TYPE_CHECKING:
    from .space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
DEFAULT_STORAGE = "sqlite:///autocompress.db"
# By the beginning of SQLite's names for its errors; others are defects, or tried again by Optuna.
SQLITE_RULES = {
    "SQLITE_BUSY": f"another process holds it: end that, or wait longer (?timeout=300 in the URL); {RESUMES}",
    "SQLITE_LOCKED": f"another process holds it: end that, or wait longer (?timeout=300 in the URL); {RESUMES}",
    "SQLITE_FULL": NO_ROOM,
    "SQLITE_IOERR": f"check the disk, its room and its quota; {RESUMES}",
    "SQLITE_READONLY": NO_PERMISSION,
    "SQLITE_PERM": NO_PERMISSION,
    "SQLITE_CANTOPEN": NO_PERMISSION,
    "SQLITE_NOTADB": "name a file of SQLite",
    "SQLITE_CORRUPT": "the file is damaged: put back a copy",
}
LAST_MADE = "objectives"  # the last of what is kept with a study when it is made
# What drivers of servers raise where there is no connection, or where it or the transaction was ended from afar.
AWAY = {"OperationalError", "InterfaceError"}
BACK = f"start its server, or check the URL and its password; {RESUMES}"
# The storages in databases of servers: all that a process reads and writes there shares one pool of connections.
_POOLS: dict[str, optuna.storages.RDBStorage] = {}


def open_storage(url: str, make: bool = False, wait: float = WAIT_SECONDS) -> optuna.storages.RDBStorage | None:
    """Connect to an Optuna storage; None where there is none yet, unless it is to be made.

    wait: seconds to wait while others hold a SQLite file locked, where the URL does not say. Raises StudyError when
    the database cannot be opened or is somebody else's, here and at every later use.
    """
    try:
        url = checked_url(url, "storage")
        if url in _POOLS:
            return _POOLS[url]
        found = owners(url, wait)
        if found and "Optuna" not in found:
            raise ValueError(_foreign(found))
        if not found and not make:
            return None
        arguments = {"connect_args": connect_arguments(url, wait), "pool_pre_ping": True}
        # Optuna fills in braces.
        template = url.replace("{", "{{").replace("}", "}}")
        storage = optuna.storages.RDBStorage(template, arguments, skip_table_creation="Optuna" in found)
    except Exception as error:
        raise _trouble(url, "opened", getattr(error, "orig", None) or error) from None
    event.listen(storage.engine, "handle_error", _teller(url), retval=True)
    if sqlite_file(url) is None:
        storage = _POOLS.setdefault(url, storage)
    return storage


def close_storages() -> None:
    """Give back the connections to servers that this process holds."""
    while _POOLS:
        _POOLS.popitem()[1].engine.dispose()


def check_tracking(uri: str, there: bool = False) -> None:
    """Raise StudyError when the database that MLflow is to use is somebody else's; there: or when none is there yet."""
    try:
        found = set() if is_server(uri) else owners(uri, wait=1.0)
    except ValueError as error:
        raise StudyError(str(error)) from None
    except (SQLAlchemyError, ImportError):
        return  # what keeps MLflow from using it is said, and waited for, when something is logged
    if found and "MLflow" not in found:
        whose = "the studies of Optuna" if "Optuna" in found else "tables of something else"
        raise StudyError(f"tracking store {shown(uri)}: holds {whose}: give MLflow a database of its own")
    if there and not found and not is_server(uri):
        raise StudyError(f"no tracking store at {shown(uri)}: run a search first, or give --uri")


def _foreign(found: set[str]) -> str:
    whose = "MLflow's" if "MLflow" in found else "something else's"
    return f"it holds {whose} tables and no studies: name another database, such as {DEFAULT_STORAGE}"


def _teller(url: str) -> Callable[[Any], Exception | None]:
    def tell(context: Any) -> Exception | None:
        """Every error of the database that people can act on, in words, wherever it comes up."""
        if context.is_pre_ping:
            return None  # a connection of the pool was lost: another one is opened in its place
        error = context.original_exception
        known = _sqlite_rule(error) is not None
        return _trouble(url, "used", error) if known or _away(url, error) or context.is_disconnect else None

    return tell


def _sqlite_rule(error: BaseException) -> str | None:
    """What people can do about an error of SQLite; None for other errors."""
    name = getattr(error, "sqlite_errorname", "")  # such as SQLITE_IOERR_WRITE
    return next((rule for code, rule in SQLITE_RULES.items() if name.startswith(code)), None)


def _away(url: str, error: BaseException) -> bool:
    """Whether an error means that the server of a database is away."""
    return any(kind.__name__ in AWAY for kind in type(error).__mro__) and sqlite_file(url) is None


def _trouble(url: str, what: str, error: BaseException) -> StudyError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    rule = _sqlite_rule(error)
    if _away(url, error):
        return StorageAway(f"storage {shown(url)}: cannot be {what}: {first}: {BACK}")
    return StudyError(f"storage {shown(url)}: cannot be {what}: {first}" + (f": {rule}" if rule else ""))


def study_names(url: str, wait: float = WAIT_SECONDS) -> list[str]:
    """The names of the studies in a storage that were made to the end; none where there is no storage yet."""
    storage = open_storage(url, wait=wait)
    studies = [] if storage is None else storage.get_all_studies()
    return sorted(study.study_name for study in studies if LAST_MADE in study.user_attrs)


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
        storage = open_storage(url, make=True)
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
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

    @functools.cached_property
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

    @functools.cached_property
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

    def state(self) -> tuple[int, str]:
        """What is another whenever somebody writes of the study: how many trials ended, and what is kept with it."""
        return self._study._storage.get_n_trials(self._study._study_id, ENDED), digest(self._study.user_attrs)

    def finished(self) -> dict[int, Record]:
        """The trials that ended, without duplicates, by their last measurements: what counts."""
        rows = dict(sorted(self._records.finished.items()))
        for key, metrics in self.confirmed.items():
            row = None if key == "baseline" else rows.get(int(key))
            if row is not None and row.outcome is not None:
                rows[row.number] = replace(row, outcome=remeasured(row.outcome, metrics, self.limits))
        return rows

    @functools.cached_property
    def confirmed(self) -> dict[str, Metrics]:
        """What was measured again at the end of a search, by `baseline` or the trial's number."""
        return dict(self.get("confirmed") or {})

    def confirm(self, metrics: dict[str, Metrics]) -> None:
        """Keep what was measured again, in the place of earlier measurements of the same trials."""
        self.confirmed.update(metrics)
        self.set("confirmed", self.confirmed)

    @functools.cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The study's budget, as bounds."""
        return tuple(Limit(**row) for row in self.get("limits") or [])

    def outcomes(self) -> dict[int, Outcome]:
        """The outcome of every finished trial."""
        return {number: row.outcome for number, row in self.finished().items() if row.outcome is not None}
