"""Searches from Python, as notebooks expect them: what the command line does, over the same functions."""

import contextlib
import html
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from .config import CALL, SearchConfig, find_config, load_config, make_config
from .documents import Document
from .errors import ConfigError, TaskError, suggest
from .executors import KINDS
from .front import front_rows
from .outcome import Completed, measured
from .recipe import digest, recipe_line
from .search.deliver import Extras, choose, export_trial
from .search.report import heading, shown_members
from .search.results import Results
from .search.run import search_for
from .search.setup import Setup, renamed, set_up
from .search.state import State, View
from .search.store import StudyStore
from .search.verify import verify
from .tasks import Task
from .tasks.given import task_from
from .tasks.objects import hold
from .tasks.protocol import Supervised
from .terminal.explaining import Asked, explained
from .terminal.options import storage_url
from .terminal.plain import Screen
from .terminal.views import on_standard_error
from .tracking.figures import front_figure
from .training import Training
from .wording import metric_cells, verdict_lines, warning_lines

UNNAMED = "unnamed"
EXECUTORS = ("auto", *KINDS)


def search(
    task: Task | Supervised | nn.Module | Mapping[str, Any] | str | PathLike[str],
    *,
    data: Sequence[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metrics: Callable[..., dict[str, float]] | None = None,
    quality: str | None = None,
    lower_is_better: Sequence[str] = (),
    baseline: Training | None = None,
    budget: Mapping[str, Any] | None = None,
    space: str | PathLike[str] | None = None,
    objectives: Sequence[str] | None = None,
    target: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    trials: int | None = None,
    timeout: str | None = None,
    until: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    study: str | None = None,
    storage: str | None = None,
    tracking: Mapping[str, Any] | Literal[False] | None = None,
    ray: Mapping[str, Any] | None = None,
    executor: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> "Study":
    """Search compression recipes for a task within a budget, and return the study with its front.

    task is one of: an object with the members of a Task, such as autocompress.Classification(...); a torch module, with
    data=(train, validation, test), each (inputs, targets), with a tuple of several inputs, or a Dataset; a mapping as
    under `task:` in YAML; "file.py:factory"; or the path of a search.yaml, whose entries the other arguments replace.

    For a module: loss(output, target) of tensors and metrics(output, target) of numpy arrays, a dictionary; quality
    names the metric that counts and lower_is_better those that are errors. Whole numbers as targets need none of them.
    baseline=Training(epochs=10) trains the module first; without it, it is taken as it is.

    The rest says what a search.yaml says, in the same words and units: budget={"size": "60 KB", "accuracy_drop": 0.01},
    space="hybrid" or a path, timeout="10m", until="size <= 20 KB", target={"threads": 2}, train={"device": "cuda"},
    tracking={"uri": ...}, or False for no MLflow. Without a study's name it is made from the model's class and from all
    that the search depends on, so that the same call means the same study; resume=True goes on with it, in another
    session too.

    executor: "ray" runs `workers` trials at once in processes of their own, "inline" one after another in this one;
    "auto" takes Ray for more than one worker. Objects reach Ray's workers through its object store. An interrupt
    (Ctrl-C, or the kernel's stop button) lets the running trials end, a second one stops them, and the study so far is
    returned. progress=False shows nothing; what would have been said is in Study.notes.

    Raises ConfigError, TaskError, StudyError or ExecutorError, wherever it can be known before any training.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"{CALL}: executor {executor!r}: {suggest(str(executor), EXECUTORS)}")
    parts = {"data": data, "loss": loss, "metrics": metrics, "quality": quality,
             "lower_is_better": lower_is_better or None, "baseline": baseline}  # fmt: skip
    entries = {
        "study": study,
        "search_space": None if space is None else str(space),
        "objectives": objectives,
        "target": target,
        "train": train,
        "budget": budget,
        "storage": storage,
        "tracking": tracking or None,
        "ray": ray,
    }
    settings = {"trials": trials, "timeout": timeout, "until": until, "workers": workers, "seed": seed}
    changes = {key: _plain(value) for key, value in entries.items() if value is not None}
    changes |= {"tracking": None} if tracking is False else {}
    with _left_as_it_was():
        config = _config(task, {key: value for key, value in parts.items() if value is not None}, changes, settings)
        with _shown(progress) as view:
            view.phase("checking the task")
            setup = _named(set_up(config))
            kind = executor if executor != "auto" else "ray" if config.search.workers > 1 else "inline"
            result = search_for(setup, kind, resume, view)
    return Study(Results(result.store), setup.config, view.notes, result.interrupted, result.ended)


def load_study(name: str, *, storage: str | None = None, task: Task | Supervised | None = None) -> "Study":
    """Open a study that was searched before, from Python or by the command line.

    storage: its URL; else AUTOCOMPRESS_STORAGE, else autocompress.db in the current folder. task: the object that it
    was searched on, where it was one: exporting and measuring need it, looking does not. Raises StudyError.
    """
    results = Results(StudyStore.open(storage_url(storage), name))
    config = None
    if task is not None:
        config = results.config()
        config._held = hold(task)
    return Study(results, config, ended=results.store.get("ended") or "")


class Study:
    """A search that was run: its front, its trials, why they are what they are, and their files.

    name is its name in the storage; verdict is feasible, infeasible or nothing_finished; notes are what was said
    of data, model and search space; interrupted says whether it was broken off, and ended why, where that was before
    trials and time were used up.
    """

    def __init__(
        self,
        results: Results,
        config: SearchConfig | None = None,
        notes: Sequence[str] = (),
        interrupted: bool = False,
        ended: str = "",
    ) -> None:
        self._results, self._config = results, config
        self.name, self.verdict = results.name, results.front.verdict
        self.notes, self.interrupted, self.ended = tuple(notes), interrupted, ended

    def __repr__(self) -> str:
        front, trials = len(self._results.front.trials), len(self._results.records)
        return f"<Study {self.name!r}: {self.verdict}, {front} on the front of {trials} trials>"

    def front(self) -> pd.DataFrame:
        """The baseline and the front, smallest first: the columns of `autocompress front --csv`.

        size_bytes are of the exported file, latency_ms for a batch of the target's size, with its 95% interval;
        quality is of the validation split, and of the test split where the name begins with test_.
        """
        return pd.DataFrame(front_rows(self._results.document()))

    def trials(self) -> pd.DataFrame:
        """Every trial that ended, in order: its number, outcome, whether it is on the front, recipe and metrics.

        A trial that was not measured to the end has the reason, and NaN for metrics.
        """
        rows = [self._row(number) for number in self._results.records]
        return pd.DataFrame(rows, columns=None if rows else ["trial", "outcome", "front", "recipe", "reason"])

    def _row(self, number: int) -> dict[str, Any]:
        record = self._results.record(number)
        outcome = record.outcome
        known = outcome is not None and measured(outcome) is not None
        return {
            "trial": number,
            "outcome": getattr(outcome, "type", None),
            "front": isinstance(outcome, Completed) and number in self._results.front.trials,
            "recipe": recipe_line(record.recipe_data),
            "reason": getattr(outcome, "reason", None) or "",
            **(self._results.metrics(number) if known else {}),
        }

    def best(self, pick: str = "knee") -> "pd.Series[Any]":
        """One trial of the front, as a row of trials(): smallest, fastest, most-accurate, or the knee between them.

        Raises AutocompressError for another word, or where nothing meets the budget.
        """
        return pd.Series(self._row(choose(self._results, None, pick)))

    def explain(self, trial: int | None = None, *, measure: bool = True) -> str:
        """Why the study came to its front, or why one trial won or lost, in sentences and tables to print.

        measure: make and measure, once, what is not known of the model after each step of the trial. Raises StudyError
        where no such trial ended.
        """
        with _left_as_it_was():
            _, parts = explained(self._results, trial, Asked(measure, config=self._config))
        screen = Screen(file=io.StringIO(), width=120, highlight=False, force_jupyter=False)
        for part in parts:
            screen.print(part, soft_wrap=isinstance(part, str))
        text: str = screen.file.getvalue()  # type: ignore[attr-defined]
        return text

    def export(
        self,
        path: str | PathLike[str],
        *,
        pick: str | None = None,
        trial: int | None = None,
        pt2: bool = False,
        devices: bool = False,
    ) -> dict[str, Any]:
        """Write the artifact directory of a trial, measured anew, and return its measurement.

        trial is a number; pick chooses from the front as best() does, the knee if nothing is said. pt2: with a
        torch.export program. devices: with a file for each student of a recipe with `nonn`. autocompress.load(path)
        gives a callable over numpy arrays. Raises ArtifactError or StudyError.
        """
        number = choose(self._results, trial, pick)
        with _left_as_it_was():
            return export_trial(self._results, number, Path(path), Extras(pt2, devices), self._config)

    def verify(self, path: str | PathLike[str]) -> dict[str, Any]:
        """Measure an artifact directory again on the study's task: claimed, measured, and what is wrong.

        Raises ArtifactError where it is damaged.
        """
        with _left_as_it_was():
            return verify(Path(path), set_up(self._config or self._results.config()))

    def figure(self) -> Any:
        """The front as a plotly figure: size against quality, coloured by latency, the recipe under the pointer."""
        return front_figure(self._results.picture())

    def _repr_html_(self) -> str:
        results, document = self._results, self._results.document()
        columns = ["trial", *heading(results.quality), "picks"]
        base = ("-", *metric_cells(document["baseline"], results.quality), "uncompressed")
        members = [(member.number, *member.cells, ", ".join(member.picks)) for member in shown_members(results)]
        lines = [*verdict_lines(document, results.limits, results.quality), *warning_lines(document)]
        said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        table: str = pd.DataFrame([base, *members], columns=columns).to_html(index=False, border=0)
        return f"<h4>{html.escape(self.name)}</h4>{table}{said}"


def _config(task: Any, parts: dict[str, Any], changes: dict[str, Any], settings: dict[str, Any]) -> SearchConfig:
    """The config of a call. Raises ConfigError or TaskError."""
    if isinstance(task, nn.Module):
        return _called(hold(task_from(task, parts.pop("data", None), **parts)), changes, settings)
    if parts:
        raise TaskError(f"task: {next(iter(parts))}= belongs to a torch.nn.Module, and the task is none: leave it out")
    if isinstance(task, PathLike) or (isinstance(task, str) and ":" not in task):
        return load_config(find_config(str(task)), changes, **settings)
    if isinstance(task, str | Mapping):
        return _called(None, {**changes, "task": _plain(task)}, settings)
    return _called(hold(task), changes, settings)


def _called(held: Any, changes: dict[str, Any], settings: dict[str, Any]) -> SearchConfig:
    """A config without a file; relative paths start at the current folder."""
    entries = {"study": UNNAMED, "storage": storage_url(None), **({"task": held.code} if held else {})}
    return make_config(Document(CALL, entries), Path.cwd(), changes, settings, held)


def _named(setup: Setup) -> Setup:
    """A setup whose study has a name: where it was given none, by the model's class and all that it depends on."""
    if setup.config.study != UNNAMED:
        return setup
    words = type(setup.task.model()).__name__.lower().strip("_") or "study"
    return renamed(setup, f"{words[:80]}-{digest(setup.identity)[:8]}")


def _plain(value: Any) -> Any:
    """A value as YAML would give it: mappings and sequences of any kind become plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, PathLike) else value


class _Noting:
    """A view that keeps what is said, and passes it on where somebody looks."""

    def __init__(self, view: View | None) -> None:
        self._view = view
        self.notes: list[str] = []

    def phase(self, text: str) -> None:
        if self._view is not None:
            self._view.phase(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self._view is not None:
            self._view.note(text)

    def update(self, state: State) -> None:
        if self._view is not None:
            self._view.update(state)


@contextlib.contextmanager
def _shown(progress: bool) -> Iterator[_Noting]:
    if not progress:
        yield _Noting(None)
        return
    with on_standard_error() as view:
        yield _Noting(view)


@contextlib.contextmanager
def _left_as_it_was() -> Iterator[None]:
    """Give this process back its random numbers and torch's settings, which trials set for themselves."""
    threads, attention = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(attention)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
