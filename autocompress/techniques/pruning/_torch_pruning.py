"""torch-pruning, without the library of models whose operations it could count."""

import functools
import importlib
import sys
from typing import Any


@functools.cache
def torch_pruning() -> Any:
    """The library. Where timm is installed it would import that first, and torchvision with it, which takes seconds."""
    hidden = "timm" not in sys.modules
    if hidden:
        sys.modules["timm"] = None  # type: ignore[assignment]  # so that importing it says that it is not there
    try:
        return importlib.import_module("torch_pruning")
    finally:
        if hidden:
            del sys.modules["timm"]
