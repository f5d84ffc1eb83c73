"""From raw inputs, such as files, texts or rows, to what a model takes: what is kept with an exported file."""

from abc import abstractmethod
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from .protocol import Array


class Preparation(BaseModel):
    """How raw inputs of a kind of task become what its model takes: plain settings, among them what was fitted.

    example is one call's argument as Python writes it, for the model card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    example: ClassVar[str]

    kind: str

    @abstractmethod
    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """The inputs of a file in their order, batch first, of one raw input or of several. Raises TaskError."""


def several(raw: Any) -> Sequence[Any]:
    """Raw inputs as a sequence, where one may come alone."""
    return raw if isinstance(raw, list | tuple) else [raw]


def is_path(raw: Any) -> bool:
    """Whether a raw input names a file."""
    return isinstance(raw, str | PathLike)


def preparation_of(task: Any) -> Preparation | None:
    """How a task's inputs are made of raw ones; None of a task that does not say, or calls something else so."""
    found = getattr(task, "preparation", None)
    return found if isinstance(found, Preparation) else None
