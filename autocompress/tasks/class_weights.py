"""Weights of classes in the loss, for data that holds some of them rarely."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from ..errors import TaskError, suggest

Weight = Annotated[float, Field(gt=0, lt=1e6)]


class Weighted(BaseModel):
    """The setting `class_weights` of kinds whose data names classes.

    `balanced` weighs every class alike, however many examples it has (King and Zeng, 2001, section 4.2); a mapping
    gives weights by class, 1 where it names none.
    """

    class_weights: Literal["balanced"] | dict[str | int, Weight] | None = None

    def weights_of(self, classes: Sequence[str], targets: NDArray[Any]) -> tuple[float, ...]:
        """A weight for each class, from the classes (N,) of the training split; none where all weigh the same.

        Raises TaskError for a class that there is not.
        """
        if self.class_weights is None:
            return ()
        counts = np.bincount(targets, minlength=len(classes))
        if self.class_weights == "balanced":
            there = max(np.count_nonzero(counts), 1)
            return tuple(float(len(targets) / (there * count)) if count else 1.0 for count in counts)
        given = {str(name): weight for name, weight in self.class_weights.items()}
        for name in given:
            if name not in classes:
                raise TaskError(f"task.class_weights: there is no class {name!r}: {suggest(name, classes)}")
        return tuple(given.get(name, 1.0) for name in classes)

    def no_weights(self) -> None:
        """Raise TaskError where weights of classes are given for numbers."""
        if self.class_weights is not None:
            raise TaskError("task.class_weights: numbers are predicted, not classes: leave it out")
