"""From a config to everything that a search needs, with all checks made before anything is started."""

from dataclasses import dataclass
from pathlib import Path

from ..config import SearchConfig
from ..documents import validate
from ..errors import ConfigError
from ..outcome import Limit
from ..recipe import Recipe, digest
from ..tasks import Task, TaskReference, load_task, refer
from ..tasks.images import ImageClassificationConfig
from ..trial.trial import TrialSpec
from .files import StudyFiles, work_folder
from .space import Space
from .space_file import find_space, load_space


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
    def code(self) -> Path | None:
        """The folder whose code the workers need: the config's, where the task comes from a file in it."""
        return self.config.root if ".py:" in self.reference.code else None

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

    def trial(self, number: int, recipe: Recipe, limits: tuple[Limit, ...] = ()) -> TrialSpec:
        """What a worker is told of one trial; candidates past the limits are rejected before they are trained."""
        return TrialSpec(
            number=number,
            recipe=recipe.to_data(),
            task=self.reference,
            seed=self.config.search.seed,
            limits=limits,
            threads=self.config.target.threads,
            batch_size=self.config.target.batch_size,
            cache=str(self.files.stages),
            time_limit=self.config.search.trial_timeout,
        )


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
