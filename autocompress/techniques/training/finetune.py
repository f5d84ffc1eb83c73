"""Fine-tuning on the task's own loss."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from ...blocks import blocks
from ...errors import TechniqueError
from ...recipe import Kind, Range
from ...tasks.protocol import training_loss
from ...training import fit
from ..base import Context, Technique
from ..bits import with_rate


class Finetune(Technique):
    """Train the compressed model on the task's loss (Han et al., 2015, section 3: retraining).

    last is how many blocks are trained, counted from the output, 0 for all; the others stay as they are. block_decay
    is the learning rate of a block as a share of that of the one after it (Howard and Ruder, 2018). A block is a layer
    at the end, a residual block or a layer of a transformer. rewind starts from early weights. rate is what the loss
    takes for each bit of a weight once it is rounded and coded, 0 for nothing.
    """

    technique: ClassVar[str] = "finetune"
    family: ClassVar[str] = "training"
    kind: ClassVar[Kind] = "train"

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    batch_size: int = Field(64, ge=1)
    rate: float = Field(0.0, ge=0, le=10)
    rewind: bool = False
    last: int = Field(0, ge=0, le=10_000)
    block_decay: float = Field(1.0, gt=0, le=1)

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split, from the present weights or from early ones.

        rewind starts from the weights that the baseline had early in its training, compressed as the model is (Frankle
        and Carbin, 2019: lottery tickets; Renda et al., 2020: rewinding). Raises TechniqueError where it came trained.
        """
        if self.rewind:
            model.load_state_dict(_early(context).state_dict())
        settings = context.training(self, only=_last(model, self.last), block_decay=self.block_decay)
        loss = with_rate(lambda output, batch: training_loss(context.task, output, batch.targets), model, self.rate)
        fit(model, context.train, loss, settings, context.seed)

    def alone(self) -> Technique:
        """All blocks at one rate, from the weights that are there."""
        return self.model_copy(update={"rewind": False, "last": 0, "block_decay": 1.0})


def _last(model: nn.Module, count: int) -> tuple[str, ...]:
    """The names of the parameters of so many blocks, counted from the output; none where that is all."""
    found = blocks(model)
    if not count or count >= len(found):
        return ()
    chosen = {parameter for block in found[-count:] for parameter in block}
    return tuple(name for name, parameter in model.named_parameters() if parameter in chosen)


def _early(context: Context) -> nn.Module:
    if context.student is not None:
        raise TechniqueError(
            "finetune with rewind goes back to weights of early in the model's training, and a step before it put "
            "another network in the model's place, which has none: leave rewind out"
        )
    if context.early is None:
        raise TechniqueError(
            "finetune with rewind needs the weights of early in the training, which a model that comes trained does "
            "not have: leave rewind out, or let the task train its baseline"
        )
    return context.early()
