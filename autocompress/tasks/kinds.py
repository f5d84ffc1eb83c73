"""Kinds of tasks that a config describes without code: one class each, here or in another package.

A kind is a subclass of TaskKind in a file of its own in this folder, or one that a package names under the entry point
group `autocompress.tasks`. Nothing else has to be edited.
"""

import functools
import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ..errors import ConfigError, suggest
from .preparation import Preparation

GROUP = "autocompress.tasks"
Load = Callable[[str, Path], Any]


class TaskKind(BaseModel):
    """The `task:` mapping of a search config: `kind` is its name, `model` where the model's code is.

    model reads `file.py:callable`, `package.module:callable`, or as the kind says. quality names another of the task's
    metrics than the usual one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    networks: ClassVar[Mapping[str, type]] = {}  # those that are built in, by what `model` calls them
    preparation: ClassVar[type[Preparation] | None] = None  # what its tasks' `preparation` is

    kind: str
    model: str
    quality: str | None = None

    @property
    def code(self) -> str:
        """Where the model's code is."""
        network = self.networks.get(self.model)
        return self.model if network is None else f"{network.__module__}:{network.__name__}"

    def places(self) -> list[str]:
        """Where data (`FORM:PLACE`) and weights lie, from the config's folder."""
        data, weights = getattr(self, "data", None), getattr(self, "weights", None)
        return [*([data.partition(":")[2]] if data else []), *([weights] if weights else [])]

    def read(self, root: Path) -> list[Path]:
        """Files and folders whose state says whether data and weights still are what was read."""
        return [root / place for place in self.places()]

    @abstractmethod
    def build(self, root: Path, load: Load) -> Any:
        """The Task; relative paths start at root, and load resolves what is named as code. Raises TaskError."""


@functools.lru_cache(maxsize=1)
def kinds() -> dict[str, type[TaskKind]]:
    """Every kind that is installed, by name. Raises ConfigError when two share a name or one cannot be loaded."""
    found: dict[str, type[TaskKind]] = {}
    package = importlib.import_module(__package__)
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{__package__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, TaskKind) and value.__module__ == module.__name__:
                _add(found, value)
    for point in entry_points(group=GROUP):
        try:
            value = point.load()
        except Exception as error:
            raise ConfigError(
                f"task kind {point.name!r} cannot be loaded from {point.value}: {error}: repair or uninstall it"
            ) from error
        if not isinstance(value, type) or not issubclass(value, TaskKind):
            raise ConfigError(
                f"task kind {point.name!r}: {point.value} is no subclass of TaskKind: repair or uninstall it"
            )
        _add(found, value)
    return dict(sorted(found.items()))


def _add(found: dict[str, type[TaskKind]], kind: type[TaskKind]) -> None:
    if kind is TaskKind:
        return
    (name,) = kind.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    if name in found:
        raise ConfigError(f"task kind {name!r} is both {found[name].__module__} and {kind.__module__}: rename one")
    found[name] = kind


def task_kind(name: Any) -> type[TaskKind]:
    """The kind of that name. Raises ConfigError with the nearest names."""
    known = kinds()
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"unknown kind of task {name!r}; {suggest(str(name), known)}")
    return known[name]
