"""autocompress searches hybrid compression recipes for a PyTorch model under a hardware budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Study, load_study, search
    from .artifacts.artifact import Artifact, load
    from .tasks import Classification, Regression, Task
    from .training import Training
else:
    from . import search  # a package that can be called, as long as nothing else has its name

__all__ = ["Artifact", "Classification", "Regression", "Study", "Task", "Training", "load", "load_study", "search"]

# Loaded when first used, so that the command line starts without torch.
_HOMES = {
    **dict.fromkeys(("Classification", "Regression", "Task"), "tasks"),
    "Training": "training",
    **dict.fromkeys(("Artifact", "load"), "artifacts.artifact"),
    **dict.fromkeys(("Study", "load_study"), "api"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
