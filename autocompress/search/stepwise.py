"""Making a trial again in parts, to measure what each step bought and cost, and what its transfer is worth."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..config import SearchConfig
from ..errors import NothingToDo, StudyError, WriteError
from ..executors import InlineExecutor
from ..outcome import Completed, Failed, Infeasible, Metrics
from ..recipe import Recipe
from ..trial.trial import measure, prepare
from .deliver import check_task
from .plan import obtain_baseline
from .prefixes import NOT_MEASURED, Around, Known, Prefix
from .results import Results
from .setup import set_up
from .transfer import Scratch, from_scratch

Note = Callable[[str], None]  # is told what is worth a line


def measure_around(results: Results, number: int, config: SearchConfig | None, note: Note) -> Around:
    """What is known around a trial, and what is not of one that was measured in full, made and measured here.

    It is kept with the study. config: where the task lies now, if no longer where it was. Raises StudyError where the
    task is another now or a part cannot be made, and what reading config and task raises.
    """
    known, steps = Known.of(results), results.record(number).recipe_data["steps"]
    around = known.around(number, results.baseline)
    if around.whole:
        return around
    again = Again(results, number, config, note)
    found = {}
    for prefix in (prefix for prefix in around.prefixes if prefix.note == NOT_MEASURED):
        found[prefix.steps] = again.prefix(prefix)
        with again.keeping():
            known.keep(found[prefix.steps], steps[: prefix.steps])
    scratch = around.scratch or again.scratch()
    with again.keeping():
        known.keep_scratch(number, scratch)
    return Around([found.get(prefix.steps, prefix) for prefix in around.prefixes], scratch, whole=True)


class Again:
    """A trial that is made again in parts; the baseline is made where it is not kept."""

    def __init__(self, results: Results, number: int, config: SearchConfig | None, note: Note) -> None:
        self.setup = set_up(config or results.config())
        check_task(results, self.setup)
        self.baseline = results.kept_baseline() or obtain_baseline(self.setup, InlineExecutor())
        self.recipe, self.number, self.note = results.record(number).recipe, number, note

    def prefix(self, prefix: Prefix) -> Prefix:
        """The model after the first steps."""
        first = self.recipe.prefix(prefix.steps)
        what = f"trial {self.number} after {prefix.steps} of {len(self.recipe.steps)} steps"
        metrics, reason = self._measured(first, what, f"as far as step {prefix.steps}")
        return replace(prefix, metrics=metrics, note=reason)

    def scratch(self) -> Scratch:
        """The trial's network trained from scratch."""
        try:
            recipe = from_scratch(self.recipe)
        except NothingToDo as nothing:
            return Scratch(note=str(nothing))
        try:
            metrics, reason = self._measured(recipe, f"trial {self.number}'s network from scratch", "from scratch")
        except StudyError as error:  # as where a rate that suits trained weights is too high for fresh ones
            metrics, reason = None, str(error)
        examples = len(self.setup.task.split("validation"))  # type: ignore[arg-type]
        return Scratch(recipe.to_data(), metrics or {}, reason, examples)

    def _measured(self, recipe: Recipe, what: str, part: str) -> tuple[Metrics | None, str]:
        """The metrics of a recipe, or the reason why there can be none."""
        self.note(f"measuring {what}: {recipe}")
        spec = self.setup.trial(self.number, recipe)
        outcome = measure(prepare(spec, self.baseline), spec, self.baseline)
        match outcome:
            case Completed(metrics=metrics):
                return metrics, ""
            case Failed(refused=True, reason=reason) | Infeasible(reason=reason):
                return None, reason
            case _:
                reason = getattr(outcome, "reason", str(outcome))
                raise StudyError(f"trial {self.number} cannot be made again {part}: {reason}")

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Say where what was measured cannot be kept: it is known all the same."""
        try:
            yield
        except WriteError as error:
            self.note(f"what was measured is not kept: {error}")
