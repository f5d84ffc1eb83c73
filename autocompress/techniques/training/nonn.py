"""A network of networks: several small students of one teacher, each of which learns some of its filters."""

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...data import Batch
from ...errors import TechniqueError
from ...recipe import Kind, Range
from ...tasks.protocol import classifies, training_loss
from ...training import fit, place_of, placed
from ..base import Context, Decision, Technique
from ..teacher import Teacher, distillation_loss
from ._communities import activity, divided, hub_weights, modularity

SMALL = 8  # students halve an image, once at least, until its shorter side is at most so long


class Nonn(Technique):
    """Put small students in the place of the model, one for each part of its filters (Bhardwaj et al., 2019: NoNN).

    The filters of the uncompressed model's last convolution are divided among students by communities of high
    modularity in the network of their activity on `examples` of the training data. Each student is a convolutional
    network of its own that begins with `width` channels and ends in as many features as its part has filters; one
    linear layer joins the features of all. They are trained together: alpha weighs the teacher's softened logits, the
    rest goes to the task's loss, and beta weighs how far the features of each part are from the teacher's.
    Nothing of the model is kept, so it stands first in a recipe.
    """

    technique: ClassVar[str] = "nonn"
    needs: ClassVar[str] = "images, and a convolution with a filter for each student"
    family: ClassVar[str] = "distillation"
    kind: ClassVar[Kind] = "train"
    anew: ClassVar[bool] = True

    students: Annotated[int, Range(2, 4, step=1)] = Field(2, ge=1, le=64)
    width: Annotated[int, Range(4, 32, log=True)] = Field(8, ge=1, le=1024)
    epochs: Annotated[int, Range(8, 24, step=4)] = Field(12, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(2e-3, 2e-2, log=True)] = Field(5e-3, gt=0, lt=10)
    alpha: float = Field(0.7, ge=0, le=1)
    temperature: float = Field(4.0, gt=0, le=100)
    beta: float = Field(1.0, ge=0)
    examples: int = Field(512, ge=1)
    batch_size: int = Field(64, ge=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The last convolution, which student learns which of its filters, and what the students are made by."""
        if _shapes(model) != _shapes(context.teacher):
            raise TechniqueError("nonn replaces the whole model, and what steps before it did is lost: put it first")
        image, outputs = self._ends(context)
        watched = Watched(context.teacher, self._last_convolution(context))
        filters = watched.convolution.out_channels
        if filters < self.students:
            raise TechniqueError(
                f"nonn cannot give {self.students} students a part of the {filters} filters of {watched.name}: "
                "lower students"
            )
        there, sample = placed(watched), context.sample(self.examples)
        with torch.no_grad():
            batches = (batch.to(place_of(there)) for batch in sample)
            weights = hub_weights(there(*batch.inputs)[:, outputs:].cpu() for batch in batches)
        parts = divided(weights, self.students)
        return {
            "layer": watched.name,
            "parts": parts,
            "modularity": round(modularity(weights, parts), 6),
            "width": self.width,
            "image": image,
            "outputs": outputs,
            "seed": context.seed,
        }

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """The students, with initial weights that follow from the recorded seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(decision["seed"])
            return Students(decision)

    def train(self, model: nn.Module, context: Context) -> None:
        """Train all students together by the teacher's logits, its features in parts, and the task."""
        assert isinstance(model, Students)
        parts, outputs = model.parts, model.last.out_features
        # The features come behind the logits, and are kept with them where the split is held in memory.
        teacher = Teacher(replace(context, teacher=Watched(context.teacher, model.layer), cache={}))
        logits, features = classifies(context.task), Inputs(model.last)

        def loss(output: Tensor, batch: Batch) -> Tensor:
            """The three losses of one batch in their shares."""
            wanted = teacher(batch)
            soft = distillation_loss(output, wanted[:, :outputs], self.temperature, logits)
            own = training_loss(context.task, output, batch.targets)
            apart = part_loss(features.seen, wanted[:, outputs:], parts)
            return self.alpha * soft + (1 - self.alpha) * own + self.beta * apart

        try:
            fit(model, context.train, loss, context.training(self), context.seed)
        finally:
            features.remove()

    def _ends(self, context: Context) -> tuple[list[int], int]:
        """Channels, height and width of the input, and how many outputs there are."""
        inputs = context.example
        with torch.no_grad():
            output = context.teacher(*inputs)
        if len(inputs) != 1 or inputs[0].dim() != 4 or not inputs[0].is_floating_point():
            shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in inputs)
            raise TechniqueError(
                f"nonn makes students for one image, and this model takes {shapes}; it has no convolution to divide "
                "among them: use another technique"
            )
        if output.dim() != 2:
            raise TechniqueError(
                f"nonn joins students by a layer with a row of outputs, and this model gives {tuple(output.shape[1:])} "
                "for an example: use another technique"
            )
        return list(inputs[0].shape[1:]), output.shape[1]

    def _last_convolution(self, context: Context) -> str:
        """The name of the convolution over images that the teacher calls last."""
        called: list[str] = []
        found = [(name, m) for name, m in context.teacher.named_modules() if isinstance(m, nn.Conv2d)]
        hooks = [m.register_forward_pre_hook(lambda *_, name=name: called.append(name)) for name, m in found]
        try:
            with torch.no_grad():
                context.teacher(*context.example)
        finally:
            for hook in hooks:
                hook.remove()
        if not called:
            raise TechniqueError(
                "nonn divides the filters of the last convolution over images, and finds no convolution that this "
                "model calls: use another technique"
            )
        return called[-1]


def part_loss(features: Tensor, teacher: Tensor, parts: list[list[int]]) -> Tensor:
    """The squared distances of the students' features from the teacher's in their parts, each of length one, summed.

    features: (N, filters), in the order of parts; teacher: (N, filters). A mean over examples.
    """
    total, start = features.new_zeros(()), 0
    for part in parts:
        ours, theirs = features[:, start : start + len(part)], teacher[:, part]
        total = total + (normalize(ours) - normalize(theirs)).square().sum(1).mean()
        start += len(part)
    return total


class Students(nn.Module):
    """Students side by side, whose features one linear layer joins; made as a decision of Nonn says.

    An image is halved, once at least, until its shorter side is at most 8 long, and channels double each time.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.layer: str = decision["layer"]
        self.parts: list[list[int]] = decision["parts"]
        self.students = nn.ModuleList(_student(len(p), decision["width"], decision["image"]) for p in self.parts)
        self.last = nn.Linear(sum(map(len, self.parts)), decision["outputs"])

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) to (N, outputs)."""
        output: Tensor = self.last(torch.cat([student(x) for student in self.students], 1))
        return output


def _student(features: int, width: int, image: list[int]) -> nn.Sequential:
    channels, *sides = image
    layers = _layer(channels, width, 1)
    for _ in range(max(1, math.ceil(math.log2(min(sides) / SMALL)))):
        layers += _layer(width, 2 * width, 2)
        width *= 2
    return nn.Sequential(*layers, *_layer(width, features, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Watched(nn.Module):
    """A teacher that gives the activity of a convolution's filters behind its outputs: (N, outputs + filters)."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    @property
    def convolution(self) -> nn.Conv2d:
        """The layer that is watched."""
        layer = self.model.get_submodule(self.name)
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, *inputs: Tensor) -> Tensor:
        """The teacher's outputs and the activities of its filters, in a row."""
        seen: list[Tensor] = []
        hook = self.convolution.register_forward_hook(lambda module, given, output: seen.append(activity(output)))
        try:
            output = self.model(*inputs)
        finally:
            hook.remove()
        return torch.cat([output, seen[-1]], 1)


class Inputs:
    """What a layer was called with last, until it is removed."""

    seen: Tensor

    def __init__(self, layer: nn.Module) -> None:
        self._hook = layer.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen = inputs[0]

    def remove(self) -> None:
        """Look no longer."""
        self._hook.remove()


def _shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]
