"""Channel pruning: filters and neurons leave the network, with everything that depends on them."""

import copy
import warnings
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from ..errors import TechniqueError
from ..recipe import Choice, Kind, Range
from ._outputs import output_layers
from .base import Context, Decision, Technique


class ChannelPruning(Technique):
    """Remove channels and everything coupled to them, least important first (Fang et al., 2023: DepGraph)."""

    technique: ClassVar[str] = "channel_pruning"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"

    ratio: Annotated[float, Range(0.1, 0.9, step=0.05)] = Field(0.5, gt=0, lt=1)
    importance: Annotated[Literal["l1", "taylor"], Choice("l1", "taylor")] = "taylor"
    scope: Annotated[Literal["global", "layer"], Choice("global", "layer")] = "global"
    max_ratio: float = Field(0.95, gt=0, lt=1, validate_default=True)
    round_to: int = Field(1, ge=1, le=1024)
    examples: int = Field(512, ge=1)

    @field_validator("max_ratio")
    @classmethod
    def _at_least_ratio(cls, value: float, info: ValidationInfo) -> float:
        # The cap keeps a global ranking from cutting a layer to nothing; it never lowers what the user asked for.
        return max(value, float(info.data.get("ratio", 0.0)))

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The channels to remove, as torch-pruning's history: layer, whether outputs, positions."""
        import torch_pruning as tp

        # Frozen parameters would hide dependencies, and which layer makes the outputs, from the autograd graph.
        work, example = copy.deepcopy(model).eval().requires_grad_(True), context.example
        keep = output_layers(work, example)
        if self.importance == "taylor":
            _accumulate_gradients(work, context, self.examples)
            importance: Any = tp.importance.GroupTaylorImportance()
        else:
            importance = tp.importance.GroupMagnitudeImportance(p=1)
        before, shape = _widths(work), work(*example).shape
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pruner = tp.pruner.BasePruner(
                    work,
                    example,
                    importance=_capped(importance, self.max_ratio),
                    global_pruning=self.scope == "global",
                    pruning_ratio=self.ratio,
                    ignored_layers=keep,
                    round_to=self.round_to if self.round_to > 1 else None,
                )
                pruner.step()
            history = [[name, outputs, [int(i) for i in where]] for name, outputs, where in pruner.pruning_history()]
            with torch.no_grad():
                shape_after = work(*example).shape
        except (RuntimeError, ZeroDivisionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TechniqueError(
                f"channel_pruning cannot follow this network's dependencies ({type(error).__name__}: {error}): "
                "leave it out of the recipe for this model"
            ) from error
        if shape_after != shape:
            raise TechniqueError(
                "channel_pruning cuts the model's outputs, as it cannot find their layer: leave it out"
            )
        if not history:
            raise TechniqueError(
                f"channel_pruning with ratio {self.ratio:g} finds no channel to remove: the model has too few, "
                "or only its output layer; raise the ratio or leave the step out"
            )
        after = _widths(work)
        layers = {name: f"{count} -> {after[name]}" for name, count in before.items() if after[name] != count}
        inputs = [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in example]
        return {"layers": layers, "inputs": inputs, "history": history}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Remove the recorded channels."""
        import torch_pruning as tp

        example = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in decision["inputs"])
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model.eval().requires_grad_(True), example)
            graph.load_pruning_history(decision["history"])
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        return model


def _capped(importance: Any, max_ratio: float) -> Any:
    """The same scores, with the best channels of each layer out of reach of a global ranking, which knows no cap."""

    def scores_of(group: Any) -> Tensor | None:
        found = importance(group)
        if found is None:
            return None
        scores: Tensor = found.double().nan_to_num(0)  # relative to their mean: 0 / 0 where nothing counts
        scores[scores.topk(max(1, len(scores) - int(len(scores) * max_ratio))).indices] += 1e6
        return scores

    return scores_of


def _widths(model: nn.Module) -> dict[str, int]:
    return {name: p.shape[0] for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1}


def _accumulate_gradients(model: nn.Module, context: Context, examples: int) -> None:
    model.zero_grad()
    for batch in context.sample(examples):
        context.task.loss(model(*batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
