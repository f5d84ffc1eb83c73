"""From a config to everything that a search needs, with all checks made before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifacts.directory import processor, versions
from ..config import DROP, FOLDERS, MEASURED, TIMED, SearchConfig, Train
from ..documents import validate
from ..errors import ConfigError, suggest
from ..outcome import Limit, Metrics
from ..recipe import Recipe, digest
from ..tasks import Task, TaskReference, load_task, refer, refer_object
from ..tasks.checks import metric_names
from ..tasks.identity import task_facts
from ..tasks.kinds import kinds, task_kind
from ..tasks.protocol import learning_rate, lower_is_better
from ..training import device_of
from ..trial.trial import TrialSpec
from .files import StudyFiles, work_folder
from .goal import goal_limits
from .space import Space
from .space_file import find_space, load_space

# Up to how many workers pause while a file is timed: with more, they would wait longer than they work.
PAUSED = 4
# The rate that bundled spaces and the portfolio are written around, and by how much that of a task may be another.
USUAL_RATE, OTHER_ORDER = 2e-3, 4.0


@dataclass(frozen=True)
class Setup:
    """A checked config with its task, space and files; made_of are the digests of what the task is."""

    config: SearchConfig
    reference: TaskReference
    task: Task
    space: Space
    files: StudyFiles
    made_of: Mapping[str, str]

    @property
    def how(self) -> Train:
        """Where and how models train, `auto` as it is where the search is started."""
        given = self.config.train
        return given if given.device != "auto" else given.model_copy(update={"device": device_of(given).type})

    @property
    def quality(self) -> str:
        """The metric that tables, pictures and picks go by."""
        return searched_quality(self.config, self.task.quality)

    @property
    def code(self) -> Path | None:
        """The folder whose code the workers need: the config's, where the task comes from a file in it."""
        return self.config.root if ".py:" in self.reference.code else None

    @property
    def baseline_facts(self) -> dict[str, str]:
        """What a trained and measured baseline depends on, each as a digest: none of them says where the task lies."""
        target = self.config.target
        return {
            **self.made_of,
            "target": digest([self.config.search.seed, target.runtime, target.threads, target.batch_size]),
            "training": digest(self.how.model_dump(exclude={"gpus_per_trial", "loader_workers"})),
            "versions": digest(versions()),
            "processor": digest(processor()["name"]),
        }

    @property
    def baseline_key(self) -> str:
        """What a baseline is kept under."""
        return digest(self.baseline_facts)[:32]

    @property
    def identity(self) -> dict[str, str]:
        """What must be equal for a study to be gone on with."""
        return {
            "config": self.config.identity(),
            "search space": digest(Path(self.space.source).read_text()),
            **self.baseline_facts,
        }

    def facts(self, number: int, recipe: Recipe) -> TrialSpec:
        """What a worker is told that is only to find the facts of a recipe's file."""
        return replace(self.trial(number, recipe), train=False)

    def trial(
        self,
        number: int,
        recipe: Recipe,
        limits: tuple[Limit, ...] = (),
        tolerance: Mapping[str, float] | None = None,
    ) -> TrialSpec:
        """What a worker is told of one trial; candidates that are surely past the limits are not trained.

        tolerance: by what share of a limit facts may be off, by metric.
        """
        return TrialSpec(
            number=number,
            recipe=recipe.to_data(),
            task=self.reference,
            seed=self.config.search.seed,
            limits=limits,
            target=self.config.target,
            cache=str(self.files.stages),
            time_limit=self.config.search.trial_timeout,
            alone=self.config.search.workers <= PAUSED,
            tolerance=tolerance or {},
            how=self.how,
        )


def set_up(config: SearchConfig) -> Setup:
    """Check task and search space. Raises ConfigError or TaskError; starts nothing."""
    path = find_space(config.search_space, config.root)
    space = load_space(path)
    reference = task_reference(config)
    task = load_task(reference)
    if path.parent == FOLDERS["search_spaces"]:
        space = space.at_rates(rate_factor(task))
    made_of = task_facts(reference, task, config.search.seed)
    files = StudyFiles(work_folder(config.storage), config.study)
    return Setup(config, replace(reference, content=digest(made_of)), task, space, files, made_of)


def check_names(config: SearchConfig, task: Task) -> None:
    """Hold what budget, goal and objectives name against what the task does, before any training. Raises ConfigError.

    The task is asked only where they name more than its main metric and what is measured of every file.
    """
    bounds = config.budget.model_dump(exclude={"metrics"}, exclude_none=True)
    named = {"accuracy"} & {name.removesuffix(DROP) for name in bounds} | config.budget.metrics.keys() - {*TIMED}
    named |= {*config.objectives} if "objectives" in config.model_fields_set else set()
    if config.search.until is None and named <= {*MEASURED, task.quality}:
        return
    try:
        _hold(config, task, metric_names(task))
    except ConfigError:  # what is not defined on a few examples, such as an area of one class, may be on all
        _hold(config, task, metric_names(task, None))


def _hold(config: SearchConfig, task: Task, own: tuple[str, ...]) -> None:
    names = dict.fromkeys((*MEASURED, *TIMED, *own), 1.0)
    find_limits(config, task, names)
    find_goal(config, task, names)
    objectives(config, task.quality, names)


def rate_factor(task: Task) -> float:
    """What the learning rates of bundled spaces are multiplied by, for tasks that train at rates of another order."""
    factor = learning_rate(task, USUAL_RATE) / USUAL_RATE
    return factor if not 1 / OTHER_ORDER < factor < OTHER_ORDER else 1.0


def renamed(setup: Setup, study: str) -> Setup:
    """The same setup for a study of another name."""
    config = setup.config.model_copy(update={"study": study})
    return replace(setup, config=config, files=replace(setup.files, study=study))


def find_goal(config: SearchConfig, task: Task, baseline: Metrics) -> tuple[Limit, ...]:
    """The config's goal as bounds; none where it has none. Raises ConfigError, which says where the goal stands."""
    try:
        return goal_limits(config.search.until, baseline, lower_is_better(task))
    except ConfigError as error:
        raise ConfigError(f"{config.document.place(('search', 'until'))}: {error}") from None


def find_limits(config: SearchConfig, task: Task, baseline: Metrics) -> tuple[Limit, ...]:
    """The budget as bounds. Raises ConfigError for a metric that is not in the baseline, with the config's file."""
    try:
        return config.budget.limits(baseline, lower_is_better(task))
    except ConfigError as error:
        raise ConfigError(f"{config.document.source}: {error}") from None


def objectives(config: SearchConfig, quality: str, baseline: Metrics) -> tuple[str, ...]:
    """The metrics to search by; the default means the task's quality where it says accuracy. Raises ConfigError."""
    names = config.objectives
    if "objectives" not in config.model_fields_set:
        names = tuple(quality if name == "accuracy" else name for name in names)
    for index, name in enumerate(names):
        if name not in baseline or (name not in MEASURED and name.startswith(("latency", "speedup", "aa_"))):
            known = suggest(name, [key for key in baseline if not key.endswith(("_low", "_high", "_p90", "_ratio"))])
            raise ConfigError(f"{config.document.place(('objectives', index))}: {name!r} is not measured; {known}")
    return names


def searched_quality(config: SearchConfig, quality: str) -> str:
    """The task's main metric, or the first objective that is another one of its own, where it is no objective."""
    own = [name for name in config.objectives if name not in MEASURED and "objectives" in config.model_fields_set]
    return quality if quality in own else next(iter(own), quality)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The words under which two sets of facts differ."""
    return [name for name in dict.fromkeys((*now, *before)) if before.get(name) != now.get(name)]


def task_reference(config: SearchConfig) -> TaskReference:
    """The task that a config names, describes or holds. Raises ConfigError or TaskError."""
    if config.held is not None:
        return refer_object(config.held, config.root)
    if isinstance(config.task, str):
        return refer(config.task, config.root)
    if "kind" not in config.task:
        raise ConfigError(
            f"{config.document.place(('task',))}: add `kind:` ({', '.join(kinds())}), or write file.py:factory"
        )
    try:
        kind = task_kind(config.task["kind"])
    except ConfigError as error:
        raise ConfigError(f"{config.document.place(('task', 'kind'))}: {error}") from None
    return refer(validate(kind, config.document, ("task",)), config.root)
