"""The guard against negative transfer: what is held against what, and what is made of it."""

from typing import Any

import pytest
from scipy.stats import binom, norm

from autocompress.errors import NothingToDo
from autocompress.search.reasons import transfer_lines
from autocompress.search.transfer import Scratch, compared, from_scratch
from autocompress.techniques import recipe_from_data

DISTILL = {"technique": "distill", "epochs": 5, "alpha": 0.7}
PRUNE = {"technique": "channel_pruning", "ratio": 0.5}


def told(*steps: dict[str, Any] | str) -> list[str]:
    rows = [{"technique": step} if isinstance(step, str) else step for step in steps]
    return str(from_scratch(recipe_from_data({"version": 1, "steps": rows}))).split(" > ")


def test_fresh_weights_come_before_the_first_training_and_no_loss_knows_the_teacher() -> None:
    steps = told(PRUNE, DISTILL, PRUNE, {"technique": "hint_distill", "beta": 2.0}, {"technique": "low_bit", "bits": 4})
    names = [step.partition("(")[0] for step in steps]
    assert names == ["channel_pruning", "reinitialize", "distill", "channel_pruning", "hint_distill", "low_bit"]
    assert "alpha=0" in steps[2]
    assert "epochs=5" in steps[2]
    assert {"alpha=0", "beta=0"} <= set(steps[4].removeprefix("hint_distill(").removesuffix(")").split(", "))


def test_a_network_that_begins_anew_keeps_its_own_first_weights() -> None:
    light = {"technique": "architecture", "network": "mobilenet_v1", "width": 0.25}
    assert [step.partition("(")[0] for step in told(light, DISTILL)] == ["architecture", "distill"]
    # Of one of the model's own kind blocks are left, and with them their weights.
    kin = {"technique": "architecture", "network": "smaller", "depth": 0.5, "width": 1.0}
    assert [step.partition("(")[0] for step in told(kin, DISTILL)] == ["architecture", "reinitialize", "distill"]
    assert [step.partition("(")[0] for step in told("nonn")] == ["nonn"]
    assert "beta=0" in told("nonn")[0]


def test_parts_that_were_frozen_or_slow_or_early_are_trained_as_all_others() -> None:
    (_, head) = told({"technique": "new_head", "epochs": 7, "learning_rate": 0.01})
    assert head == "finetune(epochs=7, learning_rate=0.01)"
    (_, tuned) = told({"technique": "finetune", "epochs": 7, "last": 2, "block_decay": 0.5, "rewind": True})
    assert tuned == "finetune(epochs=7)"
    (_, own) = told({"technique": "self_distill", "alpha": 0.6})
    assert own == "self_distill(alpha=0.6)", "it learns from itself"


def test_cycles_are_taken_apart() -> None:
    steps = told({"technique": "weight_pruning", "ratio": 0.8, "cycles": 2, "epochs": 3, "rewind": True})
    names = [step.partition("(")[0] for step in steps]
    assert names == ["weight_pruning", "reinitialize", "finetune", "weight_pruning", "finetune"]
    assert not any("rewind" in step for step in steps)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([PRUNE, {"technique": "float16"}], "none of its steps trains"),
        ([{"technique": "weight_clustering"}, DISTILL], "weight_clustering rounds the model's own weights before"),
        ([{"technique": "reinitialize"}, {"technique": "finetune"}], "it takes nothing from the uncompressed model"),
    ],
)
def test_what_cannot_be_held_against_says_why(steps: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(NothingToDo, match=reason):
        told(*steps)


@pytest.mark.parametrize(
    ("own", "other", "verdict"), [(0.96, 0.93, "helps"), (0.93, 0.96, "harms"), (0.96, 0.95, "unclear")]
)
def test_a_difference_of_accuracies_is_held_against_what_so_many_examples_tell(
    own: float, other: float, verdict: str
) -> None:
    scratch = Scratch({"version": 1, "steps": []}, {"accuracy": other}, "", 1000)
    found = compared({"accuracy": own}, scratch, "accuracy", lower=False)
    assert found["verdict"] == verdict
    assert found["gain"] == pytest.approx(own - other)
    deviation = (binom.var(1000, own) + binom.var(1000, other)) ** 0.5 / 1000
    assert found["margin"] == pytest.approx(norm.ppf(0.975) * deviation, rel=1e-3)


def test_of_errors_less_is_better_and_no_interval_is_known() -> None:
    scratch = Scratch({"version": 1, "steps": []}, {"mae": 0.5}, "", 100)
    found = compared({"mae": 0.4}, scratch, "mae", lower=True)
    assert (found["verdict"], found["margin"]) == ("helps", None)
    assert found["gain"] == pytest.approx(0.1)
    assert compared({"mae": 0.6}, scratch, "mae", lower=True)["verdict"] == "harms"
    assert compared(None, scratch, "mae", lower=True)["verdict"] is None


def test_the_verdict_is_said_with_both_numbers_and_the_recipe() -> None:
    steps = {"version": 1, "steps": [{"technique": "reinitialize"}, DISTILL]}
    for own, words in ((0.96, "transfer helps: "), (0.9, "negative transfer: "), (0.935, "neither helps nor harms")):
        scratch = Scratch(steps, {"accuracy": 0.93}, "", 1000)
        metrics = {"accuracy": own}
        document = {"quality": "accuracy", "metrics": metrics}
        first, second = transfer_lines({**document, "from_scratch": compared(metrics, scratch, "accuracy", False)})
        assert words in first
        assert f"{own:.4f}" in first
        assert "0.9300" in first
        assert second.strip().startswith("reinitialize > distill")
    refused = {"quality": "accuracy", "from_scratch": compared(metrics, Scratch(note="no step"), "accuracy", False)}
    assert list(transfer_lines(refused)) == ["not held against the same network trained from scratch: no step"]
    assert list(transfer_lines({"quality": "accuracy", "from_scratch": None})) == []
