"""Pruning in cycles: targets by arithmetic, and the steps that a trial carries out."""

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress import techniques
from autocompress.errors import ConfigError
from autocompress.recipe import Kind, Recipe
from autocompress.techniques import Technique, expanded, recipe_from_data
from autocompress.techniques.pruning._cycles import Schedule, expand, of_the_rest, targets

ratios = st.floats(0.01, 0.99)
cycles_of = st.integers(1, 12)
schedules = st.sampled_from(["linear", "cubic"])


def test_linear_targets_by_hand() -> None:
    assert targets(0.8, 4, "linear") == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_cubic_targets_by_hand() -> None:
    """Zhu and Gupta (2018), equation 1 from 0: s (1 - (1 - t / n)^3), here 1 - 27/64, 1 - 1/8, 1 - 1/64 and 1."""
    assert targets(0.8, 4, "cubic") == pytest.approx([0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8])


@given(ratios, cycles_of, schedules)
def test_targets_rise_to_the_ratio(ratio: float, cycles: int, schedule: Schedule) -> None:
    found = targets(ratio, cycles, schedule)
    assert len(found) == cycles
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] == pytest.approx(ratio)


def test_shares_of_the_rest_by_hand() -> None:
    """A quarter of all, then half of all, which is a third of the three quarters that were left."""
    assert of_the_rest([0.25, 0.5, 0.75]) == pytest.approx([0.25, 1 / 3, 1 / 2])


@given(ratios, cycles_of, schedules)
def test_shares_of_the_rest_compose_to_the_targets(ratio: float, cycles: int, schedule: Schedule) -> None:
    """What is left after each cycle is the product of what all cycles so far leave."""
    wanted, left = targets(ratio, cycles, schedule), 1.0
    for share, target in zip(of_the_rest(wanted), wanted, strict=True):
        assert 0 <= share < 1
        left *= 1 - share
        assert 1 - left == pytest.approx(target)


STEP = {"technique": "prune", "ratio": 0.5, "cycles": 2, "layer": "x"}
TRAINING = {"technique": "finetune", "epochs": 3, "learning_rate": 0.01, "rewind": False}


DISTILL = {"technique": "distill", "epochs": 4, "learning_rate": 2e-3}


def test_training_stands_between_cycles_and_the_last_is_left_to_the_recipe() -> None:
    first, last = ({**STEP, "ratio": ratio, "cycles": 1} for ratio in (0.3, 0.5))
    assert expand(STEP, [0.3, 0.5], 3, 0.01, rewind=False) == [first, TRAINING, last]


def test_rewinding_ends_with_training_too() -> None:
    """The weights of the last cycle are early ones under the new mask: they have to be trained."""
    first, last = ({**STEP, "ratio": ratio, "cycles": 1} for ratio in (0.3, 0.5))
    training = {**TRAINING, "rewind": True}
    assert expand(STEP, [0.3, 0.5], 3, 0.01, rewind=True) == [first, training, last, training]


def test_with_a_share_of_the_teachers_the_training_is_distillation() -> None:
    first, last = ({**STEP, "ratio": ratio, "cycles": 1} for ratio in (0.3, 0.5))
    training = {"technique": "distill", "epochs": 3, "learning_rate": 0.01, "alpha": 0.7}
    assert expand(STEP, [0.3, 0.5], 3, 0.01, rewind=False, alpha=0.7) == [first, training, last]


@pytest.mark.parametrize("technique", ["weight_pruning", "channel_pruning"])
def test_pruning_in_cycles_may_be_distilled_but_not_from_early_weights(technique: str) -> None:
    step = {"technique": technique, "cycles": 2, "alpha": 0.5, "epochs": 4, "learning_rate": 2e-3}
    found = expanded(recipe_from_data({"version": 1, "steps": [step]}))
    assert [row.technique for row in found.steps] == [technique, "distill", technique]
    assert found.steps[1] == recipe_from_data({"version": 1, "steps": [{**DISTILL, "alpha": 0.5}]}).steps[0]
    with pytest.raises(ConfigError, match="rewind trains from early weights on the task's loss: leave out alpha"):
        recipe_from_data({"version": 1, "steps": [{**step, "rewind": True}]})


class Gradual(Technique):
    """A step that stands for itself as often as it says, with training in between."""

    technique = "gradual"
    family = "pruning"
    kind: ClassVar[Kind] = "structure"

    ratio: float = 0.5
    cycles: int = 1

    def expand(self) -> list[dict[str, Any]]:
        if self.cycles == 1:
            return [self.to_data()]
        return expand(self.to_data(), targets(self.ratio, self.cycles, "linear"), 2, 1e-3, rewind=False)


def test_a_recipe_is_expanded_step_by_step_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**techniques.registry(), "gradual": Gradual}
    monkeypatch.setattr(techniques, "registry", lambda: known)
    recipe = recipe_from_data({"version": 1, "steps": [{"technique": "gradual", "cycles": 2}, "finetune", "float16"]})
    found = expanded(recipe)
    assert [step.technique for step in found.steps] == ["gradual", "finetune", "gradual", "finetune", "float16"]
    assert [step.ratio for step in found.steps if isinstance(step, Gradual)] == [0.25, 0.5]
    assert found.steps[1] == known["finetune"].model_validate({"epochs": 2, "learning_rate": 1e-3})
    assert expanded(found) == found
    assert len(recipe.steps) == 3


def test_a_recipe_of_plain_steps_stays_as_it_is() -> None:
    recipe = recipe_from_data({"version": 1, "steps": ["svd", {"technique": "finetune", "epochs": 7}, "int8_static"]})
    assert expanded(recipe) == recipe
    assert expanded(Recipe()) == Recipe()
