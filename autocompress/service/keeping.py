"""What was worked out of a study, kept until something happens to it: many look at once, and again and again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Hashable = None
    value: Any = None


class Kept:
    """One value for each key, of its newest version, for so many keys; values must not be changed."""

    def __init__(self, most: int) -> None:
        self._most, self._entries, self._lock = most, OrderedDict[Hashable, _Entry](), threading.Lock()

    def get(self, key: Hashable, version: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a version, made where another one is kept: once, however many ask; None is made each time."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.value is None or entry.version != version:
                entry.value, entry.version = make(), version
            found: Value = entry.value
            return found
