"""Tasks: the user's model, data, loss and metrics."""

from .loading import TaskReference, load_task, locate, refer, refer_object
from .protocol import Classification, Regression, Task

__all__ = ["Classification", "Regression", "Task", "TaskReference", "load_task", "locate", "refer", "refer_object"]
