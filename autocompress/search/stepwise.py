"""Making a trial again, step by step, to measure what each step bought and cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..config import SearchConfig
from ..errors import StudyError, WriteError
from ..executors import InlineExecutor
from ..outcome import Completed, Failed
from ..trial.trial import measure, prepare
from .deliver import check_task
from .plan import obtain_baseline
from .prefixes import Known, Prefix
from .results import Results
from .setup import Setup, set_up

Note = Callable[[str], None]  # is told what is worth a line


def measure_prefixes(results: Results, number: int, config: SearchConfig | None, note: Note) -> list[Prefix]:
    """The prefixes of a trial's recipe, of which those that are not known are made and measured in this process.

    They are kept with the study. config: where the task lies now, if no longer where it was. Raises StudyError where
    the task is another now or a prefix cannot be made, and what reading config and task raises.
    """
    known, record = Known.of(results), results.record(number)
    prefixes, missing = known.prefixes(number, results.baseline), known.missing(number, results.baseline)
    if not missing:
        return prefixes
    setup = set_up(config or results.config())
    check_task(results, setup)
    found = {}
    for prefix in _measured(missing, number, results, setup, note):
        found[prefix.steps] = prefix
        try:
            known.keep(prefix, record.recipe_data["steps"][: prefix.steps])
        except WriteError as error:
            note(f"what was measured is not kept: {error}")
    return [found.get(prefix.steps, prefix) for prefix in prefixes]


def _measured(missing: Sequence[Prefix], number: int, results: Results, setup: Setup, note: Note) -> Iterator[Prefix]:
    baseline = results.kept_baseline() or obtain_baseline(setup, InlineExecutor())
    recipe = results.record(number).recipe
    for prefix in missing:
        first = recipe.prefix(prefix.steps)
        note(f"measuring trial {number} after {prefix.steps} of {len(recipe.steps)} steps: {first}")
        spec = setup.trial(number, first)
        outcome = measure(prepare(spec, baseline), spec, baseline)
        match outcome:
            case Completed(metrics=metrics):
                yield replace(prefix, metrics=metrics, note="")
            case Failed(refused=True, reason=reason):
                yield replace(prefix, note=reason)
            case _:
                raise StudyError(
                    f"trial {number} cannot be made again as far as step {prefix.steps}: "
                    f"{getattr(outcome, 'reason', outcome)}"
                )
