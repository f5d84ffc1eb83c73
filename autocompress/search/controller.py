"""The one brain: asks, submits, takes, tells and tries again."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from optuna.samplers import BaseSampler
from threadpoolctl import threadpool_limits

from ..errors import WriteError
from ..executors import Executor, Finished
from ..front import find_front, grown_front
from ..outcome import Candidate, Completed, Facts, Failed, Outcome, Stopped, measured
from ..recipe import Recipe
from .ahead import Ahead
from .earlier import earlier_rows
from .ending import reason_to_end
from .facts_first import FactsFirst
from .interrupts import Interrupts
from .lessons import Lessons
from .plan import Plan
from .portfolio import load_portfolio, portfolio_rows
from .samplers import make_sampler
from .state import Listener, State
from .store import StudyStore
from .terrain import Row
from .waiting import Turns

POLL_SECONDS, REPEATS = 0.25, 60
CUT_OFF = 4  # how often a trial is tried again after its node was lost, by one search
GRACE, LEAST_GRACE = 0.1, 60.0  # of a search's time, and seconds: how long trials that run then may go on


class Controller:
    """Runs one study on an executor. Its state is the store; everything else can be lost.

    listeners are told whenever something changed; note, of what is worth a line.
    """

    def __init__(
        self,
        plan: Plan,
        store: StudyStore,
        executor: Executor,
        interrupts: Interrupts,
        listeners: Sequence[Listener],
        note: Callable[[str], None],
    ) -> None:
        self._plan, self._setup, self._limits, self._goal = plan, plan.setup, plan.limits, plan.goal
        self._search = plan.setup.config.search
        self._store, self._executor, self._interrupts = store, executor, interrupts
        self._listeners, self._note = listeners, note
        self._cut_off: Counter[int] = Counter()
        self._lessons, self._turns = Lessons(plan.objectives, plan.lower), Turns()
        self._state = State(
            store.name,
            self._search.trials,
            plan.objectives,
            plan.setup.quality,
            plan.baseline,
            plan.limits,
            find_front({}, plan.objectives),
            plan.lower,
        )

    def run(self) -> State:
        """Search until trials, time or the user say stop; returns where that leaves it."""
        if self._search.timeout is not None:
            self._state.deadline = time.monotonic() + self._search.timeout
        self._executor.share(self._state.baseline)
        with threadpool_limits(1, "blas"):  # cores are for workers, and matrices of surrogates too small for more
            self._begin()
            self._loop()
        return self._state

    def _begin(self) -> None:
        """Take up what an earlier search of this study left: its records, its running trials, its start points."""
        space = self._setup.space
        first = self._first() if self._search.sampler == "auto" else []
        sampler = sampler_of(self._plan, self._store.asked, first)
        self._store.use_sampler(sampler, self._search.seed)
        self._ahead = Ahead(self._plan, self._store, sampler)
        if not isinstance(sampler, FactsFirst) and not self._store.records():
            for parameters in space.start:
                self._store.enqueue(parameters)
        self._state.waiting = {number: self._store.adopt(number, space) for number in self._store.running()}
        self._state.begun_with = len(self._store.finished())
        if self._ahead.left:
            self._note(
                f"finding the sizes that {self._ahead.left} recipes come to before any training, to choose by them"
            )
        self._refresh()
        ended = self._state.records.values()
        self._turns.known(row.recipe for row in ended if row.outcome is not None and measured(row.outcome))

    def _first(self) -> list[Row]:
        """The rows to begin with, which stay the same whatever is found in the storage later."""
        kept: list[Row] | None = self._store.get("first")
        if kept is None:
            space, url = self._setup.space, self._setup.config.storage
            earlier = [] if self._search.cold else earlier_rows(self._plan, self._store, url, self._note)
            kept = [*space.start, *earlier, *portfolio_rows(space, load_portfolio(note=self._note))]
            self._store.set("first", kept)
        return kept

    def _loop(self) -> None:
        while True:
            self._fill()
            if not self._busy:
                self._leave_waiting()
                return
            for finished in self._executor.finished(POLL_SECONDS):
                self._take(finished)
            if self._interrupts.level > 1:
                self._executor.cancel()
                return
            if self._interrupts.level == 1 and not self._state.draining:
                self._state.draining = True
                self._note("stopping: waiting for the running trials; press Ctrl-C again to stop at once")
            if self._time_left < -max(LEAST_GRACE, GRACE * (self._search.timeout or 0.0)):
                self._cut_short()
                return
            self._tell_listeners()

    @property
    def _time_left(self) -> float:
        """Seconds until nothing more is begun."""
        deadline = self._state.deadline
        return math.inf if deadline is None else deadline - time.monotonic()

    def _cut_short(self) -> None:
        """End the trials that still run long after the time was up; what they trained to the end is kept."""
        running = self._state.running
        if running:
            self._note(f"the time is up: trials that still run are stopped: {', '.join(map(str, sorted(running)))}")
        self._executor.cancel()
        for number in list(running):
            running.pop(number)
            self._store.tell(number, Stopped("the search's time was up while it ran"))
        self._refresh()
        self._leave_waiting()

    def _fill(self) -> None:
        """Keep every worker busy while there are trials and time left."""
        while self._interrupts.level == 0 and self._busy < self._search.workers:
            if self._over() or self._time_left <= 0:
                return
            found = self._its_turn()
            ahead = None if found or self._enough else self._ahead.next()
            if ahead is not None:
                self._executor.submit(ahead)
                continue
            found = found or self._new()
            if found is None:
                return
            self._submit(*found)
            self._tell_listeners()

    @property
    def _enough(self) -> bool:
        """Whether nothing more is asked for."""
        state = self._state
        return state.used_up or len(state.records) + len(state.running) + len(state.waiting) >= self._search.trials

    def _its_turn(self) -> tuple[int, Recipe] | None:
        """A trial that waited, and whose training nobody else is at now."""
        for number, recipe in self._state.waiting.items():
            if not self._turns.blocked(recipe):
                return number, self._state.waiting.pop(number)
        return None

    def _new(self) -> tuple[int, Recipe] | None:
        """A new trial that can begin; those that begin with what another trains are put aside until it is there."""
        waiting = self._state.waiting
        while not self._enough and len(waiting) < self._search.workers:
            asked = self._ask()
            if asked is None:
                break
            if not self._turns.blocked(asked[1]):
                return asked
            waiting[asked[0]] = asked[1]
        return None

    def _leave_waiting(self) -> None:
        """Tell those that still wait at the end of a search; one that is broken off leaves them to the next."""
        if self._interrupts.level == 0:
            for number in list(self._state.waiting):
                self._state.waiting.pop(number)
                self._store.tell(number, Stopped("the search ended before its turn"))
            self._refresh()

    @property
    def _busy(self) -> int:
        """How many workers have something to do."""
        return len(self._state.running) + self._ahead.running

    def _over(self) -> bool:
        """Whether the search ends before trials and time are used up, which is said once."""
        reason = reason_to_end(self._state, self._goal)
        if reason and not self._state.ended:
            self._note(reason)
        self._state.ended = reason
        return bool(reason)

    def _ask(self) -> tuple[int, Recipe] | None:
        """A recipe that was not tried yet; repeats are told at once with what is known of them."""
        space = self._setup.space
        for repeat in range(REPEATS):
            state = self._state
            if len(state.records) + len(state.running) + len(state.waiting) >= space.count():
                break
            # A sampler that repeats itself has converged: what is left is found by chance.
            number, recipe = self._store.ask(space, at_random=repeat > 5)
            known = self._known(recipe)
            if known is None:
                return number, recipe
            first, outcome = known
            self._store.tell(number, outcome, duplicate_of=first)
        self._state.used_up = True
        self._note("the search space is used up: every recipe that it suggests was tried")
        return None

    def _known(self, recipe: Recipe) -> tuple[int, Outcome] | None:
        first = self._store.first_of(recipe)
        outcome = None if first is None else self._state.records[first].outcome
        if first is not None and outcome is not None:
            return first, outcome
        for number, running in {**self._state.running, **self._state.waiting}.items():
            if running.fingerprint == recipe.fingerprint:
                return number, Stopped("the same recipe is running")
        return None

    def _submit(self, number: int, recipe: Recipe) -> None:
        self._state.running[number] = recipe
        self._turns.begin(number, recipe)
        spec = self._setup.trial(number, recipe, self._limits, self._lessons.tolerance())
        if self._search.rungs:
            spec = replace(spec, peers=self._lessons.peers(self._state.front, self._state.records))
        self._executor.submit(spec)

    def _take(self, finished: Finished) -> None:
        """Tell one trial, or try it again when it was lost."""
        outcome = finished.outcome
        if isinstance(outcome, Facts) or finished.number < 0:
            self._ahead.take(finished.number, outcome)
            return
        recipe = self._state.running.pop(finished.number)
        self._turns.end(finished.number, not isinstance(outcome, Failed) and measured(outcome) is not None)
        if isinstance(outcome, Failed) and outcome.lost:
            again, attempts = self._lost(finished)
            if again:
                self._try_again(finished.number, recipe, outcome.reason)
                return
            outcome = replace(outcome, reason=f"{outcome.reason} ({attempts} attempts)")
        if isinstance(outcome, Completed):
            candidate = finished.candidate()
            if candidate is not None:
                self._keep(finished.number, candidate)
        self._store.tell(finished.number, outcome)
        if isinstance(outcome, Failed):
            self._note(f"trial {finished.number} failed: {outcome.reason}")
        self._refresh()

    def _lost(self, finished: Finished) -> tuple[bool, int]:
        """Whether a lost trial may be tried again, and how often it was tried.

        A trial answers for what it did to its own worker, for good, and not for what befell its node or cluster; only
        one that loses its node again and again in this search is taken for the cause.
        """
        number = finished.number
        if not finished.cut_off:
            losses = self._store.count_loss(number)
            return losses <= self._search.retries, losses
        self._cut_off[number] += 1
        return self._cut_off[number] <= CUT_OFF, self._cut_off[number]

    def _try_again(self, number: int, recipe: Recipe, reason: str) -> None:
        """Submit a trial again; one that is lost while the search stops stays as it is, for --resume to take up."""
        if self._interrupts.level == 0:
            self._note(f"trial {number}: {reason}: trying again")
            self._state.waiting[number] = recipe
        else:
            self._note(f"trial {number}: {reason}: --resume tries it again")

    def _keep(self, number: int, candidate: Candidate) -> None:
        """Keep what a trial made; what is not kept can be made again, and does not end the search."""
        try:
            self._setup.files.store(number, candidate)
        except WriteError as error:
            self._note(f"trial {number}: its files are not kept, `autocompress export` makes them again: {error}")

    def _refresh(self) -> None:
        """Let the front grow by what ended since, and keep its files only."""
        state, before = self._state, self._state.records
        state.records = self._store.finished()
        outcomes = {number: row.outcome for number, row in state.records.items() if row.outcome is not None}
        state.front = grown_front(state.front, outcomes, outcomes.keys() - before.keys(), state.objectives, state.lower)
        self._lessons.take(state.records)
        self._setup.files.keep_only(state.front.trials)
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener.update(self._state)


def sampler_of(plan: Plan, done: int, first: Sequence[Row]) -> BaseSampler:
    """The sampler that a search asked for: auto is ours, the others are Optuna's; first: rows to begin with."""
    search, setup = plan.setup.config.search, plan.setup
    if search.sampler != "auto":
        return make_sampler(search.sampler, search.seed, done)
    rate, training = plan.baseline.trial_seconds, setup.task.baseline
    return FactsFirst(
        setup.space,
        plan.objectives,
        plan.limits,
        plan.baseline.metrics,
        plan.lower,
        search.seed,
        first,
        rate / training.epochs if rate and training else 1.0,
    )
