"""What was worked out of a study, kept until something happens to it: many look at once, and again and again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

Value = TypeVar("Value")


class Kept:
    """The newest values by key, of which so many are kept; they must not be changed."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._lock = most, OrderedDict[Hashable, object](), threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not there; None is made again each time."""
        with self._lock:
            found = self._values.get(key)
        if found is not None:
            return found  # type: ignore[return-value]
        new = make()
        with self._lock:
            self._values[key] = new
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return new
