"""Tasks: the user's model, data, loss and metrics."""

from .loading import TaskReference, load_task, locate, refer
from .protocol import Classification, Task

__all__ = ["Classification", "Task", "TaskReference", "load_task", "locate", "refer"]
