"""The search itself; as a function, `autocompress.search(task, ...)`, it is what `autocompress.api.search` says."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Search(ModuleType):
    """This package, which can be called: Python lets the name of a package stand for nothing else beside it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Search, as `autocompress.api.search` says."""
        return import_module("autocompress.api").search(*arguments, **keywords)

    @property
    def __signature__(self) -> Any:
        return import_module("inspect").signature(import_module("autocompress.api").search)


sys.modules[__name__].__class__ = _Search
