"""From raw inputs, such as files, texts or rows, to what a model takes: what is kept with an exported file."""

from abc import abstractmethod
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ..errors import TaskError
from .protocol import Array


class Preparation(BaseModel):
    """How raw inputs of a kind of task become what its model takes: plain settings, among them what was fitted.

    example is one call's argument as Python writes it, for the model card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    example: ClassVar[str]

    kind: str

    @classmethod
    def of(cls, config: BaseModel) -> Self:
        """That of a config which has all of its settings, under the same names."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})

    @abstractmethod
    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """The inputs of a file in their order, batch first, of one raw input or of several. Raises TaskError."""


def several(raw: Any) -> Sequence[Any]:
    """Raw inputs as a sequence, where one may come alone. Raises TaskError for none."""
    found = raw if isinstance(raw, list | tuple) else [raw]
    if not found:
        raise TaskError("there is no raw input: give one, or a list of some")
    return found


def finite(raw: Any, what: str) -> NDArray[np.float32]:
    """Raw inputs that are numbers as an array of them. Raises TaskError for others, NaN and infinity."""
    try:
        found = np.asarray(raw, np.float32)
    except (TypeError, ValueError):
        raise TaskError(f"{what} are no array of numbers, but a {type(raw).__name__}: give numbers") from None
    if not np.isfinite(found).all():
        raise TaskError(f"{what} hold NaN or infinity: fill or leave them out")
    return found


def is_path(raw: Any) -> bool:
    """Whether a raw input names a file."""
    return isinstance(raw, str | PathLike)


def preparation_of(task: Any) -> Preparation | None:
    """How a task's inputs are made of raw ones; None of a task that does not say, or calls something else so."""
    found = getattr(task, "preparation", None)
    return found if isinstance(found, Preparation) else None
