"""The contract of techniques finds what breaks it, and says how to mend it."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError, TechniqueError
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.quantization.float16 import Float16
from autocompress.techniques.quantization.ternary import Ternary
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing import TechniqueContract

RULES = {name.removeprefix("test_"): rule for name, rule in vars(TechniqueContract).items() if name.startswith("test_")}


class DecidesPairs(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        return {**super().decide(model, context), "pair": (1, 2)}


class DecidesByChance(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        return {**super().decide(model, context), "chance": random.random()}


class ChangesWeights(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        decision = super().decide(model, context)
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        return decision


class LeavesTraining(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        model.train()
        return super().decide(model, context)


class LeavesGradients(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        model(*context.example).sum().backward()
        return super().decide(model, context)


class Scaled(nn.Module):
    """A model whose output is scaled by a number that is no part of its state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.scale = model, float(next(model.parameters()).detach().abs().sum())

    def forward(self, x: Tensor) -> Any:
        return self.scale * self.model(x)


class KeepsNumbersElsewhere(Svd):
    def apply(self, model: Any, decision: Any) -> Any:
        return Scaled(super().apply(model, decision))


class Spoils(Svd):
    def apply(self, model: Any, decision: Any) -> Any:
        found = super().apply(model, decision)
        with torch.no_grad():
            list(found.parameters())[-1].fill_(torch.nan)
        return found


class OtherInFiles(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x) * (2 if torch.compiler.is_compiling() else 1)


class ComputesOtherwiseInFiles(Svd):
    def apply(self, model: Any, decision: Any) -> Any:
        return OtherInFiles(super().apply(model, decision))


class DoesNothing(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        return {}

    def apply(self, model: Any, decision: Any) -> Any:
        return model


class TrainsNothing(Finetune):
    def train(self, model: Any, context: Any) -> None:
        return


class EncodesNothing(Float16):
    def apply(self, model: Any, decision: Any) -> Any:
        return model


class RoundsUnforeseen(Ternary):
    def untrained(self, model: Any, decision: Any) -> Any:
        return model


class SaysNoMore(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        raise TechniqueError("this cannot be done")


class RefusesAll(Svd):
    def decide(self, model: Any, context: Any) -> Any:
        raise TechniqueError("svd finds nothing: leave it out")


BROKEN = [
    (
        DecidesPairs(),
        "a_decision_survives_json_unchanged",
        "another one after JSON: use dictionaries with keys of text",
    ),
    (DecidesByChance(), "the_same_seed_gives_the_same_decision_and_weights", "random numbers from context.seed alone"),
    (ChangesWeights(), "deciding_leaves_the_model_as_it_is", r"changed the weights: let it work on copy.deepcopy"),
    (LeavesTraining(), "deciding_leaves_the_model_as_it_is", r"in training mode: let it work on copy.deepcopy"),
    (LeavesGradients(), "deciding_leaves_the_model_as_it_is", r"left gradients: let it work on copy.deepcopy"),
    (KeepsNumbersElsewhere(), "the_recorded_decision_rebuilds_the_model_to_the_last_bit", "must be in its state_dict"),
    (Spoils(), "the_result_runs_in_torch_and_as_a_file_at_any_batch_size", "is no number"),
    (DoesNothing(), "the_technique_does_what_it_promises_in_the_delivered_file", "not smaller: leave layers alone"),
    (TrainsNothing(), "the_technique_does_what_it_promises_in_the_delivered_file", "training did not lower the loss"),
    (EncodesNothing(), "the_technique_does_what_it_promises_in_the_delivered_file", "the file is not smaller"),
    (
        RoundsUnforeseen(epochs=1),
        "the_size_of_the_file_is_known_before_training",
        "before training, from `untrained`",
    ),
    (SaysNoMore(), "the_result_runs_in_torch_and_as_a_file_at_any_batch_size", "a refusal names the technique"),
]


@pytest.mark.parametrize(("step", "rule", "message"), BROKEN, ids=[type(case[0]).__name__ for case in BROKEN])
def test_what_breaks_a_rule_is_told_how_to_keep_it(step: Any, rule: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        RULES[rule](TechniqueContract(), step, "mlp")


def test_a_file_that_computes_something_else_is_found() -> None:
    with pytest.raises(ArtifactError, match="differs from the model"):
        RULES["the_file_computes_what_the_model_computes"](TechniqueContract(), ComputesOtherwiseInFiles(), "mlp")


def test_refusing_plain_models_is_found() -> None:
    with pytest.raises(AssertionError, match=r"convolutions and linear layers were refused: svd finds nothing"):
        RULES["a_technique_works_on_plain_models"](TechniqueContract(), RefusesAll())


def test_a_technique_that_is_not_registered_is_told_where_to_be() -> None:
    with pytest.raises(AssertionError, match=r"'svd' is not registered as DoesNothing: name the class in pyproject"):
        RULES["a_technique_describes_itself"](TechniqueContract(), DoesNothing())


SUITES = """
import pytest
from autocompress.techniques.factorization.svd import Svd
from autocompress.testing import TechniqueContract

class Pairs(Svd):
    def decide(self, model, context):
        return {"ranks": {}, "pair": (1, 2)}

class TestPairs(TechniqueContract):
    @pytest.fixture
    def technique(self):
        return Pairs()

class TestForgotten(TechniqueContract):
    pass
"""


def test_failures_show_values_and_a_missing_fixture_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_suites.py").write_text(SUITES)
    command = [sys.executable, "-m", "pytest", "-q", "-k", "json_unchanged and mlp", "test_suites.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert "TestForgotten needs a fixture `technique` that returns a step, or its class" in done.stdout
    assert "{'pair': [1, 2]} != {'pair': (1, 2)}" in done.stdout  # what only rewritten assertions show
    assert "1 failed" in done.stdout
    assert "1 error" in done.stdout
