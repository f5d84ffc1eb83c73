"""What is known of a file before it is trained, and what is rejected by it."""

from dataclasses import replace
from typing import Any

import pytest
from plain import plain_baseline, trial_spec

from autocompress.outcome import Candidate, Completed, Infeasible, Limit
from autocompress.trial.facts import FACTS, reject
from autocompress.trial.trial import TrialSpec, measure, prepare

PRUNE = {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1", "scope": "layer"}
TRAIN = {"technique": "finetune", "epochs": 2, "batch_size": 16}
WIDE = (Limit("size_bytes", "at_most", 1e9, "size"), Limit("speedup", "at_least", 1e-3, "speedup"))


def with_limits(spec: TrialSpec, *limits: Limit, **tolerance: float) -> TrialSpec:
    return replace(spec, limits=limits, tolerance=tolerance)


@pytest.mark.parametrize(
    "recipe",
    [
        [PRUNE, TRAIN, {"technique": "low_bit", "bits": 4}],
        [{"technique": "weight_pruning", "ratio": 0.8}, TRAIN, {"technique": "weight_clustering", "bits": 2}, TRAIN],
        [{"technique": "ternary", "epochs": 2, "batch_size": 16}],
        [{"technique": "qat", "epochs": 2, "batch_size": 16}],
    ],
    ids=["low_bit", "weight_clustering", "ternary", "qat"],
)
def test_the_size_before_training_is_the_size_after_it(recipe: list[Any]) -> None:
    spec = with_limits(trial_spec(*recipe), *WIDE)
    candidate = prepare(spec, plain_baseline())
    assert isinstance(candidate, Candidate), candidate
    assert candidate.facts.keys() == set(FACTS)
    assert candidate.facts["size_bytes"] == pytest.approx(candidate.metrics["size_bytes"], rel=0.05)
    assert candidate.facts["params"] == candidate.metrics["params"]
    outcome = measure(candidate, spec, plain_baseline())
    assert isinstance(outcome, Completed)
    assert outcome.facts == candidate.facts


def test_what_is_surely_too_large_is_not_trained() -> None:
    known = prepare(with_limits(trial_spec(PRUNE, TRAIN), *WIDE), plain_baseline())
    assert isinstance(known, Candidate)
    size = known.facts["size_bytes"]
    limit = Limit("size_bytes", "at_most", size / 1.05, "size")
    rejected = prepare(with_limits(trial_spec(PRUNE, TRAIN), limit, size_bytes=0.04), plain_baseline())
    assert isinstance(rejected, Infeasible), rejected
    assert rejected.seconds["train"] == 0 < rejected.seconds["facts"]
    assert rejected.violations == {"size": pytest.approx(0.05)}
    assert rejected.facts["size_bytes"] == rejected.metrics["size_bytes"] == size
    assert "latency_ms" not in rejected.metrics
    assert "before any training: size_bytes" in rejected.reason
    # What may fit, as far as facts are known, is trained.
    assert isinstance(
        prepare(with_limits(trial_spec(PRUNE, TRAIN), limit, size_bytes=0.06), plain_baseline()), Candidate
    )


def test_facts_change_nothing_in_what_a_trial_makes() -> None:
    recipe = (PRUNE, TRAIN, {"technique": "low_bit", "bits": 4})
    without = prepare(trial_spec(*recipe), plain_baseline())
    with_ = prepare(with_limits(trial_spec(*recipe), *WIDE), plain_baseline())
    assert isinstance(without, Candidate)
    assert isinstance(with_, Candidate)
    assert with_.onnx == without.onnx
    assert with_.decisions == without.decisions
    assert without.facts == {}


def test_a_limit_on_quality_is_no_fact() -> None:
    limit = Limit("accuracy", "at_least", 2.0, "accuracy")
    candidate = prepare(with_limits(trial_spec(PRUNE, TRAIN), limit), plain_baseline())
    assert isinstance(candidate, Candidate)
    assert candidate.facts == {}


def test_facts_are_past_a_limit_by_a_share_of_it() -> None:
    limits = [Limit("size_bytes", "at_most", 100, "size"), Limit("speedup", "at_least", 2, "speedup")]
    assert reject({"size_bytes": 103, "speedup": 1.7}, limits, {"size_bytes": 0.03, "speedup": 0.16}) is None
    found = reject({"size_bytes": 104, "speedup": 1.7, "latency_ms": 3}, limits, {"size_bytes": 0.03, "speedup": 0.16})
    assert found is not None
    assert found.violations == {"size": pytest.approx(0.04), "speedup": pytest.approx(0.15)}
    assert found.metrics == {"size_bytes": 104, "speedup": 1.7}
    assert found.reason.endswith("size_bytes 104 against 100")
