"""What every task must hold, so that its model can be trained, exported and measured."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ..artifacts.export import export_onnx
from ..artifacts.parity import check_parity
from ..data import SPLITS, Batch, batches, map_targets, target_tensors
from ..tasks import Task
from ..tasks.checks import check_task
from ..tasks.examples import example_inputs, input_signature
from ..tasks.models import as_function, build_model
from ..trial.stages import pack_weights

every_split = pytest.mark.parametrize("split", SPLITS)


class TaskContract:
    """What every task must hold; a subclass gives it by the fixture `task`."""

    @pytest.fixture
    def task(self) -> Task:
        """The task that is held to the contract."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `task` that returns a Task")

    def test_its_parts_fit_together(self, task: Task) -> None:
        """Everything that a search checks before it starts."""
        missing = [
            name for name in ("quality", "baseline", "model", "split", "loss", "metrics") if not hasattr(task, name)
        ]
        assert not missing, f"a Task also has {', '.join(missing)}"
        check_task(task)

    def test_every_call_gives_a_model_of_its_own_and_of_one_architecture(self, task: Task) -> None:
        """Trials rebuild models from architecture and weights, and change the model that they are given."""
        first, second = task.model(), task.model()
        assert first is not second, "model() returned one model twice: make a new one at every call"
        shapes = [{name: tuple(value.shape) for name, value in m.state_dict().items()} for m in (first, second)]
        assert shapes[0] == shapes[1], "model() returned another architecture at its second call"
        shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
        assert not shared, "two models share parameters: make a new one at every call"
        if task.baseline is None:
            same = pack_weights(first) == pack_weights(second)
            assert same, "without a baseline model() returns trained weights, the same at every call: load them in it"

    @every_split
    def test_a_split_gives_batches_of_any_size(self, task: Task, split: str) -> None:
        """Training, measuring and exporting read splits in batches of sizes of their own, the last one smaller."""
        dataset: Any = task.split(split)
        assert len(dataset) > 0, f"split {split!r} is empty: every split needs at least one example"
        size = max(1, len(dataset) // 2)
        for batch in (*batches(dataset, 1), *batches(dataset, size)):
            counts = {len(tensor) for tensor in (*batch.inputs, *target_tensors(batch.targets))}
            assert counts == {len(batch.index)}, "inputs and targets have the batch first, one row an example"

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_a_split_that_is_measured_is_the_same_at_every_reading(self, task: Task, split: str) -> None:
        """Candidates are compared with one another; random changes of examples are for the training split."""
        first, second = (next(batches(task.split(split), 16)) for _ in range(2))
        seen = [(*batch.inputs, *target_tensors(batch.targets)) for batch in (first, second)]
        for one, other in zip(*seen, strict=True):
            assert torch.equal(one, other), f"split {split!r} gave other examples at its second reading: fix its seed"

    @every_split
    def test_the_loss_is_a_finite_scalar_with_gradients(self, task: Task, split: str) -> None:
        """Training follows the gradients of the loss."""
        model = build_model(task, 0).train()
        loss = task.loss(*_output(task, model, split))
        assert isinstance(loss, Tensor), f"loss() returned a {type(loss).__name__}: return a tensor"
        assert loss.dim() == 0, "loss() is no scalar: return the mean over the batch"
        assert math.isfinite(loss.item()), "loss() is no finite number"
        assert loss.requires_grad, "loss() does not depend on the model: compute it from `output`, undetached"
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert any(bool(grad.any()) for grad in grads), "all gradients are zero: compute loss() by torch's functions"
        assert all(bool(torch.isfinite(grad).all()) for grad in grads), "a gradient is no finite number"

    @every_split
    def test_metrics_are_finite_numbers_and_hold_the_quality(self, task: Task, split: str) -> None:
        """A metric that is no number cannot be ordered, nor held to a limit."""
        with torch.no_grad():
            model = build_model(task, 0).eval()
            output, targets = _output(task, model, split)
        metrics = task.metrics(output.numpy(), map_targets(targets, Tensor.numpy))
        if hasattr(task, "rollout"):
            found = task.rollout(as_function(model), split)
            assert found == task.rollout(as_function(model), split), "rollout() gave other numbers again: fix its seeds"
            metrics = {**metrics, **found}
        assert task.quality in metrics, f"metrics() lacks the quality {task.quality!r}: return it, or name another"
        for name, value in metrics.items():
            assert isinstance(name, str), "metrics() is a dictionary of names to numbers"
            assert math.isfinite(float(value)), f"{name} is no finite number on split {split!r}"

    def test_the_model_exports_and_the_file_computes_what_it_computes(self, task: Task) -> None:
        """Searches measure and deliver files, which take batches of any size."""
        model, example, signature = build_model(task, 0).eval(), example_inputs(task), input_signature(task)
        exported = export_onnx(model, example, signature)  # raises ArtifactError with what torch cannot export
        assert check_parity(model, exported, example, signature=signature) < np.inf


def _output(task: Task, model: nn.Module, split: str) -> tuple[Tensor, Any]:
    """What a model makes of the first examples of a split, and their targets."""
    batch: Batch = next(batches(task.split(split), 64))
    return model(*batch.inputs), batch.targets
