"""Tasks that are objects, as notebooks make them: found by a key, in this process and on workers they were sent to."""

import contextlib
import uuid
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from torch.utils.data import TensorDataset

from ..data import SPLITS, innermost
from ..errors import TaskError
from .protocol import Task

OBJECT = "object"  # stands for the file or module in the reference to such a task


@dataclass(frozen=True, eq=False)
class HeldTask:
    """A task of this process under a key of its own; whoever keeps this keeps the task."""

    task: Any
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def code(self) -> str:
        """What configs and references call it."""
        return f"{OBJECT}:{type(self.task).__name__}"


_HELD: WeakValueDictionary[str, HeldTask] = WeakValueDictionary()
_RECEIVED: list[HeldTask] = []  # on a worker: the one task that it keeps


def hold(task: Any) -> HeldTask:
    """Let a task be found by its key for as long as what is returned is kept. Raises TaskError for what is no task."""
    if isinstance(task, type):
        raise TaskError(f"task: {task.__name__} is a class: give an object of it, such as {task.__name__}(...)")
    if not isinstance(task, Task):
        parts = ("quality", "baseline", "model", "split", "loss", "metrics")
        missing = ", ".join(name for name in parts if not hasattr(task, name))
        raise TaskError(
            f"task: a {type(task).__name__} without {missing}: give a Task, a torch.nn.Module with data=, a mapping as "
            "in YAML, 'file.py:factory', or the path of a search.yaml"
        )
    held = HeldTask(task)
    _HELD[held.key] = held
    return held


def find(key: str, code: str) -> Any:
    """The task of a key. Raises TaskError where this process has none, as in another program than the one it is of."""
    held = _HELD.get(key)
    if held is None:
        raise TaskError(elsewhere(code))
    return held.task


def is_object(task: Any) -> bool:
    """Whether what a config says of its task stands for an object."""
    return isinstance(task, str) and task.startswith(f"{OBJECT}:")


def data_of(task: Any) -> list[Any]:
    """The tensors and arrays that a task's splits hold, as far as they are in memory."""
    found: list[Any] = []
    for name in SPLITS:
        given = getattr(task, name, None)
        found += given if isinstance(given, list | tuple) else []
        with contextlib.suppress(Exception):  # what is wrong with the task is said where it is checked
            dataset = innermost(task.split(name))
            found += dataset.tensors if isinstance(dataset, TensorDataset) else []
    return found


def elsewhere(code: str) -> str:
    """What is said of an object that this process does not have."""
    name = code.partition(":")[2]
    return (
        f"task: {name} is an object of a Python program, which no file describes: make it there again, and use "
        "autocompress.search(task, resume=True), or autocompress.load_study(name, task=task)"
    )


def has(key: str) -> bool:
    """Whether this process has the task of a key."""
    return key in _HELD


def receive(key: str, task: Any) -> None:
    """Keep a task that was sent here, in the place of an earlier one."""
    held = HeldTask(task, key)
    _RECEIVED[:] = [held]
    _HELD[key] = held
