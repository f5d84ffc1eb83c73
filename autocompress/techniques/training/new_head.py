"""A new output layer on features that stay as they are."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from ...data import seed_all
from ...errors import NothingToDo
from ...recipe import VERSION, Kind, Range
from ...tasks.protocol import training_loss
from ...training import fit
from ..base import Context, Decision, Technique
from ..features import head_names
from ..fresh import begin_anew, reset_of


class NewHead(Technique):
    """Train new output layers, and nothing else, on the task's loss (Razavian et al., 2014: features off the shelf).

    They begin with fresh weights; zeros of pruned ones stay zero.
    """

    technique: ClassVar[str] = "new_head"
    needs: ClassVar[str] = "an output layer with weights"
    family: ClassVar[str] = "training"
    kind: ClassVar[Kind] = "train"
    fresh: ClassVar[bool] = True

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(5e-3, gt=0, lt=10)
    batch_size: int = Field(64, ge=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The output layers."""
        heads = head_names(model, context)
        fresh = [part for name in heads for part in model.get_submodule(name).modules() if reset_of(part)]
        if not fresh:
            raise NothingToDo("new_head finds no output layer that could begin anew: use finetune")
        return {"heads": list(heads)}

    def train(self, model: nn.Module, context: Context) -> None:
        """Give the output layers fresh weights and run the epochs on the training split with all others frozen."""
        heads = self.decide(model, context)["heads"]
        seed_all(context.seed)
        for name in heads:
            begin_anew(model.get_submodule(name))
        fit(
            model,
            context.train,
            lambda output, batch: training_loss(context.task, output, batch.targets),
            context.training(self, only=tuple(heads)),
            context.seed,
        )

    def alone(self) -> Technique:
        """All layers are trained: what is not would never have learned anything."""
        from .. import recipe_from_data  # late: the registry reads this file

        plain = {"technique": "finetune", **self.model_dump(include={"epochs", "learning_rate", "batch_size"})}
        (found,) = recipe_from_data({"version": VERSION, "steps": [plain]}).steps
        assert isinstance(found, Technique)
        return found
