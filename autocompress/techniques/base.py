"""What every technique is made of: two halves, and what the first of them may look at."""

import contextlib
import difflib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from ..data import Batch, batches
from ..errors import NothingToDo, TechniqueError
from ..recipe import Step, digest, matches
from ..tasks import Task
from ..training import Training

MOST_PRODUCTS, FEWEST = 5e11, 16  # multiplications of a sample, some 20 seconds of a core, and examples in it
Decision = dict[str, Any]
Value = TypeVar("Value")


@dataclass
class Context:
    """What a technique may look at: the task (its train split only), the uncompressed model, and a seed.

    early gives the compressed model so far with the weights of early in the baseline's training. folder is where
    scans are kept on this node, for this task and baseline; None keeps them in this process only. student is the model
    so far, where an earlier step put another network in the place of the uncompressed one.
    """

    task: Task
    teacher: nn.Module
    seed: int
    cache: dict[str, Any] = field(default_factory=dict)
    early: Callable[[], nn.Module] | None = None
    folder: Path | None = None
    student: nn.Module | None = None

    @property
    def train(self) -> Dataset[Any]:
        """The training split."""
        return self.task.split("train")

    @property
    def original(self) -> nn.Module:
        """The model whose layers and sensitivity count: the uncompressed one, or another network in its place."""
        return self.teacher if self.student is None else self.student

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of two training examples, with the batch first."""
        return next(batches(self.train, 2)).inputs

    def training(self, step: Any, **more: Any) -> Training:
        """How a step trains: by its own epochs, rate and batches, and bounds on gradients as the baseline's."""
        clip_norm = 0.0 if self.task.baseline is None else self.task.baseline.clip_norm
        given = {"epochs": step.epochs, "learning_rate": step.learning_rate, "batch_size": step.batch_size}
        return Training(**given, clip_norm=clip_norm, **more)

    def cached(self, name: str, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, computed once for a task and its uncompressed model."""
        if name not in self.cache:
            self.cache[name] = compute()
        value: Value = self.cache[name]
        return value

    def kept(self, name: str, compute: Callable[[], Value]) -> Value:
        """The JSON value that `compute` returns, computed once on this node for a task and its uncompressed model.

        Of another network in its place, which no other trial may have, each time anew.
        """
        if self.student is not None:
            return compute()
        return self.cached(name, lambda: self._from_disk(name, compute))

    def _from_disk(self, name: str, compute: Callable[[], Value]) -> Value:
        if self.folder is None:
            return compute()
        path = self.folder / f"{digest(name)[:32]}.json"
        with contextlib.suppress(OSError, ValueError):
            known: Value = json.loads(path.read_text())
            return known
        found = compute()
        with contextlib.suppress(OSError):  # without room it is computed again, and no more
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as folder:
                written = Path(folder) / path.name
                written.write_text(json.dumps(found))
                written.replace(path)
        return found

    @property
    def products(self) -> float:
        """The multiplications that an example takes in the original model: as torch counts them, or one a weight.

        What is looked at follows from it, not from how fast a machine is, so that a search repeats.
        """
        return self.cached("products of an example", self._products) if self.student is None else self._products()

    def _products(self) -> float:
        inputs, counter = next(batches(self.train, 1)).inputs, FlopCounterMode(display=False)
        with contextlib.suppress(Exception), torch.no_grad(), counter:  # what uses the model says what is wrong with it
            self.original(*inputs)
        weights = sum(parameter.numel() for parameter in self.original.parameters())
        return max(counter.get_total_flops() / 2, float(weights), 1.0)  # torch counts no recurrent layers

    def affordable(self, examples: int) -> int:
        """How many of so many examples are looked at: fewer of a large model's, but some."""
        return min(examples, max(FEWEST, int(MOST_PRODUCTS / self.products)))

    def sample(self, examples: int, batch_size: int = 64) -> Iterator[Batch]:
        """Batches of a random sample of the training split, the same for the same seed.

        Of a large model as many examples as are affordable, in smaller batches, whose gradients take less memory.
        """
        generator = torch.Generator().manual_seed(self.seed)
        taken, wanted = 0, self.affordable(examples)
        size = batch_size if wanted == examples else min(batch_size, max(1, wanted // 8))
        for batch in batches(self.train, size, generator):
            yield batch
            taken += len(batch.index)
            if taken >= wanted:
                return


class Technique(Step):
    """A kind of compression: its settings are its fields, its work is `decide` and `apply`.

    decide looks at the model and at data and returns plain JSON values. apply is pure: the same model and decision
    always give the same result. `structure` and `train` techniques work on a torch module, `encode` techniques on
    an onnx.ModelProto. Raise TechniqueError for what cannot be done, and NothingToDo where nothing is found to do.
    """

    # What a model must have for it, to read after "needs". It is tried on a model before a search, whatever this says.
    needs: ClassVar[str] = ""
    # Whether it gives the model fresh weights, so that without more training it may be worse than it was.
    fresh: ClassVar[bool] = False

    def decide(self, model: Any, context: Context) -> Decision:
        """What to do to this model, as values that JSON can hold; leaves the model as it is."""
        return {}

    def within(self, names: Iterable[str], context: Context) -> list[str]:
        """Those of these layers that the recipe restricts the step to, in their order; all where it does not.

        names: the layers that the technique could work on. Raises TechniqueError for a pattern that matches no layer
        of the model, compressed or not, and NothingToDo where patterns match others than these.
        """
        known = list(dict.fromkeys(names))
        if not self.layers:
            return known
        whole = [name for name, _ in context.original.named_modules(remove_duplicate=False) if name]
        every = list(dict.fromkeys([*known, *whole]))
        for pattern in self.layers:
            if not any(matches(name, [pattern]) for name in every):
                raise TechniqueError(
                    f"{self.technique}: layers: {pattern!r} is no layer of this model: take {nearest(pattern, every)}"
                )
        found = [name for name in known if matches(name, self.layers)]
        if known and not found:
            raise NothingToDo(
                f"{self.technique} finds nothing to do in the layers {'|'.join(self.layers)}: of this model it works "
                f"on {nearest(self.layers[0], known)}"
            )
        return found

    def apply(self, model: Any, decision: Decision) -> Any:
        """The model with a decision carried out; may change the one it is given."""
        return model

    def train(self, model: nn.Module, context: Context) -> None:
        """Change the weights of a model in place; only `train` techniques do."""

    @property
    def carries(self) -> bool:
        """Whether weights of the model that it is given are left in what it leaves."""
        return not self.anew

    def alone(self) -> "Technique":
        """The step as it trains a network that nothing is given of the uncompressed model: by the task's loss alone."""
        taught: dict[str, Any] = {name: 0.0 for name in ("alpha", "beta") if name in type(self).model_fields}
        return self.model_copy(update=taught) if taught else self

    def untrained(self, model: nn.Module, decision: Decision) -> nn.Module:
        """The module as training would leave it, had it moved no weight: for what is known of a file beforehand."""
        return model


def nearest(pattern: str, names: list[str], most: int = 3) -> str:
    """A few names to read: those nearest to a pattern, or the first."""
    near = difflib.get_close_matches(pattern, names, n=most, cutoff=0.5) or names[:most]
    more = len(names) - len(near)
    return ", ".join(repr(name) for name in near) + (f" or another of {len(names)}" if more else "")
