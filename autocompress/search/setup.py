"""From a config to everything that a search needs, with all checks made before anything is started."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import MEASURED, SearchConfig
from ..data import batches
from ..documents import validate
from ..errors import ConfigError, TaskError, suggest
from ..executors import Executor, InlineExecutor, RayExecutor
from ..outcome import Baseline, Limit
from ..recipe import digest
from ..tasks import Classification, Task, TaskReference, load_task, refer
from ..tasks.images import ImageClassificationConfig
from ..trial.baseline import make_baseline
from .files import StudyFiles, work_folder
from .space import Space, find_space, load_space


@dataclass(frozen=True)
class Setup:
    """A checked config with its task, space and files."""

    config: SearchConfig
    reference: TaskReference
    task: Task
    space: Space
    files: StudyFiles

    @property
    def quality(self) -> str:
        """The task's main metric."""
        return self.task.quality

    @property
    def identity(self) -> str:
        """What must be equal for a study to be gone on with: config, space and task."""
        space = Path(self.space.source).read_text()
        return digest([self.config.identity(), space, vars(self.reference)])

    @property
    def baseline_key(self) -> str:
        """What a trained and measured baseline depends on."""
        target = self.config.target
        return digest([vars(self.reference), self.config.search.seed, target.threads, target.batch_size])[:32]


def set_up(config: SearchConfig) -> Setup:
    """Check task, search space and objectives. Raises ConfigError or TaskError; starts nothing."""
    space = load_space(find_space(config.search_space, config.root))
    reference = task_reference(config)
    task = load_task(reference)
    files = StudyFiles(work_folder(config.storage), config.study)
    return Setup(config, reference, task, space, files)


def task_reference(config: SearchConfig) -> TaskReference:
    """The task that a config names or describes. Raises ConfigError or TaskError."""
    if isinstance(config.task, str):
        return refer(config.task, config.root)
    if "kind" not in config.task:
        raise ConfigError(
            f"{config.document.place(('task',))}: add `kind: image_classification`, or write file.py:factory"
        )
    return refer(validate(ImageClassificationConfig, config.document, ("task",)), config.root)


def objectives(setup: Setup, baseline: Baseline) -> tuple[str, ...]:
    """The metrics to search by; the default means the task's quality where it says accuracy. Raises ConfigError."""
    config = setup.config
    names = config.objectives
    if "objectives" not in config.model_fields_set:
        names = tuple(setup.quality if name == "accuracy" else name for name in names)
    for index, name in enumerate(names):
        if name not in baseline.metrics or (name not in MEASURED and name.startswith(("latency", "speedup", "aa_"))):
            known = suggest(
                name, [key for key in baseline.metrics if not key.endswith(("_low", "_high", "_p90", "_ratio"))]
            )
            raise ConfigError(f"{config.document.place(('objectives', index))}: {name!r} is not measured; {known}")
    return names


def make_executor(setup: Setup, kind: str) -> Executor:
    """Workers on Ray, or none: the same functions in this process."""
    if kind == "inline":
        return InlineExecutor()
    if kind != "ray":
        raise ConfigError(f"--executor {kind}: {suggest(kind, ('ray', 'inline'))}")
    config = setup.config
    code = config.root if ".py:" in setup.reference.code else None
    return RayExecutor(config.ray.address, config.search.workers, code, config.target.resource)


def obtain_baseline(setup: Setup, executor: Executor) -> Baseline:
    """The baseline that is kept, or a new one, trained and measured where the trials run. Raises TaskError."""
    kept = setup.files.load_baseline(setup.baseline_key)
    if kept is not None:
        return kept
    config = setup.config
    baseline = executor.call(
        make_baseline, setup.reference, config.search.seed, config.target.threads, config.target.batch_size
    )
    setup.files.store_baseline(setup.baseline_key, baseline)
    return baseline


def check_limits(setup: Setup, baseline: Baseline) -> tuple[Limit, ...]:
    """The budget as bounds. Raises ConfigError for a metric nobody measures, TaskError for a baseline below them."""
    try:
        limits = setup.config.budget.limits(baseline.metrics)
    except ConfigError as error:
        raise ConfigError(f"{setup.config.document.source}: {error}") from None
    own = {setup.quality, *(set(baseline.metrics) - set(MEASURED))}
    for limit in limits:
        value = baseline.metrics[limit.metric]
        if limit.metric in own and limit.sense == "at_least" and limit.violation(baseline.metrics) > 0:
            raise TaskError(
                f"budget.{limit.label}: asks for {limit.metric} {limit.bound:.4g} but the uncompressed model reaches "
                f"{value:.4g}: lower the limit, or train the baseline better"
            )
    return limits


def warnings(setup: Setup, baseline: Baseline) -> list[str]:
    """What makes a search from this baseline doubtful, each in a sentence."""
    if not isinstance(setup.task, Classification):
        return []
    targets = np.concatenate([batch.targets.numpy() for batch in batches(setup.task.split("validation"), 1024)])
    chance = np.bincount(targets).max() / len(targets)
    value = baseline.metrics.get("accuracy", 1.0)
    if value > 1.1 * chance:
        return []
    return [
        f"the uncompressed model's accuracy {value:.4f} is no better than always naming the most frequent class "
        f"({chance:.4f}): train the baseline longer, or check data and learning rate"
    ]
