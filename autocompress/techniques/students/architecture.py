"""A lightweight network in the model's place, which later steps train from the model's outputs."""

import copy
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ...errors import NothingToDo, TechniqueError, suggest
from ...recipe import Choice, Kind, Range
from ..base import Context, Decision, Technique
from . import _smaller
from ._images import FEWEST, Flat, student
from ._networks import DEEP, NETWORKS, Form

Network = Literal[
    "squeezenet", "squeezenext", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "shufflenet_v1", "shufflenet_v2",
    "efficientnet", "efficientnet_v2", "smaller",
]  # fmt: skip
SMALLER: Literal["smaller"] = "smaller"


class Architecture(Technique):
    """Put a lightweight network in the model's place; a later `distill` trains it (Hinton et al., 2015).

    network: SqueezeNet, SqueezeNext, MobileNetV1 to V3, ShuffleNetV1 and V2, EfficientNet or EfficientNetV2 for images,
    with `width` times the channels of the paper's and, where it has a depth, `depth` times the layers; `resolution` is
    the share of the height and width that it sees. Or `smaller`: a network of the model's own kind, whose layers have a
    share `width` of their units, with fresh weights, and which keeps a share `depth` of each row of alike blocks, such
    as a transformer's, with their own weights.
    """

    technique: ClassVar[str] = "architecture"
    family: ClassVar[str] = "architecture"
    kind: ClassVar[Kind] = "structure"
    anew: ClassVar[bool] = True

    network: Annotated[Network, Choice(*NETWORKS, SMALLER)] = SMALLER
    width: Annotated[float, Range(0.25, 1.0, step=0.25)] = Field(0.5, gt=0, le=4)
    depth: float = Field(1.0, gt=0, le=4)
    resolution: float = Field(1.0, gt=0, le=1)

    @field_validator("network", mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        if value not in (*NETWORKS, SMALLER):
            raise ValueError(f"no network {value!r}; {suggest(str(value), (*NETWORKS, SMALLER))}")
        return value

    @model_validator(mode="after")
    def _has_a_depth(self) -> "Architecture":
        if self.depth != 1 and self.network not in (*DEEP, SMALLER):
            raise ValueError(f"{self.network} has no depth: leave it out, or take {', '.join(DEEP)} or {SMALLER}")
        return self

    @property
    def carries(self) -> bool:
        """A smaller network of the model's own kind keeps what it does not narrow, blocks among them."""
        return self.network == SMALLER

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """What the network is made for, and the seed of its weights; with how many parameters it has."""
        found = self._smaller(model, context) if self.network == SMALLER else self._light(model, context)
        before = _parameters(model)
        after = _parameters(self.apply(copy.deepcopy(model) if self.network == SMALLER else model, found))
        if after >= before:
            raise NothingToDo(
                f"architecture: {self.network} at width {self.width:g} has {after:,} parameters, no fewer than the "
                f"model's {before:,}: lower its width, or take another network"
            )
        return {**found, "parameters": f"{before:,} -> {after:,}"}

    def _light(self, model: nn.Module, context: Context) -> Decision:
        channels, size, outputs = _signature(model, context.example)
        side = round(min(size) * self.resolution)
        if side < FEWEST:
            raise TechniqueError(
                f"architecture: {self.network} needs images of {FEWEST}x{FEWEST} pixels or more, and would see a "
                f"shorter side of {side} of {size[0]}x{size[1]}: take network: {SMALLER}, or a higher resolution"
            )
        return {
            "network": self.network,
            "width": self.width,
            "depth": self.depth,
            "channels": channels,
            "size": size,
            "side": side,
            "outputs": outputs,
            "seed": context.seed,
        }

    def _smaller(self, model: nn.Module, context: Context) -> Decision:
        if max(self.width, self.depth) > 1 or self.resolution < 1:
            raise TechniqueError(
                f"architecture: network: {SMALLER} takes a width and a depth of at most 1, and no resolution: change "
                "them, or take another network"
            )
        found: Decision = {"network": SMALLER, "seed": context.seed, "blocks": {}, "layers": {}}
        skipped = {}
        work, example = copy.deepcopy(model).eval(), context.example
        if self.depth < 1:
            found["blocks"] = _smaller.fewer_blocks(work, self.depth)
            if not found["blocks"]:
                skipped["depth"] = "the model has no row of alike blocks"
            work = _running(_smaller.with_blocks(work, found["blocks"]), example)
        if self.width < 1:
            try:
                with torch.random.fork_rng(devices=[]):
                    found["layers"] = _smaller.narrower(work, self.width, example)
            except TechniqueError as error:
                skipped["width"] = f"its layers cannot be narrower together: {error}"
        if not found["blocks"] and not found["layers"]:
            why = "; ".join(skipped.values()) or "width and depth leave all as it is"
            raise NothingToDo(
                f"architecture finds no smaller network of the model's kind: {why}: set width or depth below 1, or "
                "take another network"
            )
        return {**found, **({"skipped": skipped} if skipped else {})}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """The recorded network; where it is a smaller one, made of the model, which is changed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(decision["seed"])
            if decision["network"] == SMALLER:
                made = _smaller.with_layers(_smaller.with_blocks(model, decision["blocks"]), decision["layers"])
            else:
                shape = decision["outputs"]
                form = Form(decision["channels"], shape[0] if shape else 1, decision["width"], decision["depth"])
                made = student(decision["network"], form, tuple(decision["size"]), decision["side"])
                made = made if shape else Flat(made)
        return made.eval()


def _signature(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[int, list[int], list[int]]:
    """Channels and size (height, width) of the images, and the shape of an image's outputs: (n,) or nothing."""
    if len(example) > 1:
        raise TechniqueError(
            f"architecture: the model takes {len(example)} inputs, and lightweight networks one, of images: take "
            f"network: {SMALLER}"
        )
    shape = tuple(example[0].shape)
    if len(shape) != 4 or not example[0].is_floating_point():
        raise TechniqueError(
            f"architecture: lightweight networks take images (N, channels, height, width), and this model's inputs "
            f"have the shape {shape}: take network: {SMALLER}"
        )
    with torch.no_grad():
        outputs = tuple(model(*copy.deepcopy(example)).shape)
    if len(outputs) > 2:
        raise TechniqueError(
            f"architecture: lightweight networks give a row of outputs an image, and this model's have the shape "
            f"{outputs}: take network: {SMALLER}"
        )
    return shape[1], list(shape[2:]), list(outputs[1:])


def _running(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """The model, once it was run. Raises TechniqueError where it does not run."""
    try:
        with torch.no_grad():
            model(*copy.deepcopy(example))
    except _smaller.BROKEN as error:
        text = " ".join(str(error).split())[:200]
        raise TechniqueError(
            f"architecture: the model does not run with fewer blocks ({text}): leave out depth"
        ) from error
    return model


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
