"""From what a config says of a task to the task itself, here or on a worker."""

import functools
import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ..errors import TaskError, suggest
from ..reading import Unreadable
from ..recipe import digest
from .blame import one_line, place
from .bytecode import object_digest
from .checks import check_task
from .code import code_digest, file_stamp, forget_others
from .kinds import TaskKind, task_kind
from .objects import OBJECT, HeldTask, data_of, elsewhere, find, is_object
from .protocol import Task

SHIPPED_FOLDER = "autocompress_task_code"  # what executors call the copy of the user's code that they send along


@dataclass(frozen=True)
class TaskReference:
    """Where a task comes from, as a value that can travel.

    code is `file.py:name` or `module:name`: the task's factory, or its model where `settings` (the JSON of a config
    mapping) describe the rest; or `object:name`, of an object that is held. root is the folder of the config;
    code_digest tells one version of the code from the next, and stamp one version of weights and data, by their times,
    or which object it is. content says what all of them come to, once
    that is known: what is kept of a task is kept under it, and not under its place.
    """

    code: str
    root: str
    settings: str = ""
    code_digest: str = ""
    stamp: str = ""
    content: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """What results of this task are kept under."""
        return self.content or digest([self.code, self.settings, self.code_digest])


def refer(task: str | TaskKind, root: Path) -> TaskReference:
    """A reference to what a config says of its task. Raises TaskError when its file is not there."""
    code, settings = (task, "") if isinstance(task, str) else (task.code, task.model_dump_json())
    stamp = "" if isinstance(task, str) else file_stamp(task.read(root))
    name, _, attribute = code.rpartition(":")
    if not name or not attribute:
        raise TaskError(f"task: {code!r}: write file.py:factory or package.module:factory")
    if name == OBJECT:
        raise TaskError(elsewhere(code))
    if not name.endswith(".py"):
        return TaskReference(code, str(root), settings, stamp=stamp)
    path = root / name
    if not path.exists() or path.is_dir():
        raise TaskError(f"task: {path}: no such file: check the path, which starts at the config's folder")
    try:
        return TaskReference(code, str(root), settings, code_digest(path, root), stamp)
    except Unreadable as error:
        raise TaskError(f"task: {error}") from None


def refer_object(held: HeldTask, root: Path) -> TaskReference:
    """A reference to a task that is an object of this process."""
    return TaskReference(held.code, str(root), code_digest=object_digest(held.task, data_of(held.task)), stamp=held.key)


def locate(reference: TaskReference) -> Path:
    """The folder that holds the task's file: where it was written, or the copy that came with the work."""
    name, _, _ = reference.code.rpartition(":")
    original = Path(reference.root)
    if not name.endswith(".py"):
        return original
    path = original / name
    if path.is_file() and code_digest(path, original) == reference.code_digest:
        return original
    return next(
        (Path(entry) / SHIPPED_FOLDER for entry in sys.path if (Path(entry) / SHIPPED_FOLDER).is_dir()), original
    )


@functools.lru_cache(maxsize=2)
def load_task(reference: TaskReference) -> Task:
    """The task behind a reference, made and checked once a process. Raises TaskError."""
    root = locate(reference)
    try:
        if reference.settings:
            settings = json.loads(reference.settings)
            kind = task_kind(settings["kind"]).model_validate(settings)
            task = kind.build(root, load_callable)
            if kind.quality:
                object.__setattr__(task, "quality", kind.quality)  # built just now, and frozen perhaps
        elif is_object(reference.code):
            task = find(reference.stamp, reference.code)
        else:
            task = load_callable(reference.code, root)()
        if not isinstance(task, Task):
            parts = ("quality", "baseline", "model", "split", "loss", "metrics")
            missing = ", ".join(name for name in parts if not hasattr(task, name))
            raise TaskError(f"it returned a {type(task).__name__} without {missing}: return a Task, for example "
                            "autocompress.Classification(...)")  # fmt: skip
        check_task(task)
    except TaskError as error:
        text = str(error)
        raise TaskError(text if text.startswith("task") else f"task {reference.code}: {text}") from None
    except (Exception, SystemExit) as error:
        raise TaskError(f"task {reference.code}: raised {one_line(error)}{place(error)}") from error
    return task


def load_callable(source: str, root: Path) -> Any:
    """The callable behind `file.py:name` or `package.module:name`. Raises TaskError when there is none."""
    name, _, attribute = source.rpartition(":")
    module = _load_file(root / name, root) if name.endswith(".py") else _load_module(name)
    found = getattr(module, attribute, None)
    if found is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise TaskError(f"{name} has no {attribute!r}: {suggest(attribute, known)}")
    if not callable(found):
        raise TaskError(f"{source} is a {type(found).__name__}: name a function or class")
    return found


class _Uncached(SourceFileLoader):
    """Compiles a file as it is: Python's bytecode would stand for one that was edited within the same second."""

    def path_stats(self, path: object) -> NoReturn:
        """Say that nothing is known, so that no bytecode is looked for or written."""
        raise OSError(f"{path} is read anew")


def _load_file(path: Path, root: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"{path}: no such file: check the path, which starts at the config's folder")
    forget_others(path, root)
    name = f"autocompress_task_{digest([str(path), code_digest(path, root)])[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # First, so that what it imports is not found beside another task's file.
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry != str(path.parent))]
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(f"{path}: cannot be imported: {one_line(error)}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TaskError(f"{name}: no module {error.name!r}: install it, or write file.py:name") from None
    except (Exception, SystemExit) as error:
        raise TaskError(f"{name}: cannot be imported: {one_line(error)}") from error
