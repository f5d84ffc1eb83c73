"""autocompress searches hybrid compression recipes for a PyTorch model under a hardware budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifacts.directory import load
    from .tasks import Classification, Regression, Task
    from .training import Training

__all__ = ["Classification", "Regression", "Task", "Training", "load"]

# Loaded when first used, so that the command line starts without torch.
_HOMES = {
    **dict.fromkeys(("Classification", "Regression", "Task"), "tasks"),
    "Training": "training",
    "load": "artifacts.directory",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
