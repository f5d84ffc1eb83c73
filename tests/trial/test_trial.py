"""One trial from end to end in this process: its outcomes, its metrics, and what it does not do twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from plain import plain_baseline, plain_task, reference, trial_spec
from torch import nn

from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.runtime import Model
from autocompress.config import Target
from autocompress.outcome import Baseline, Candidate, Completed, Failed, Infeasible, Limit
from autocompress.tasks import load_task
from autocompress.tasks.examples import example_inputs, model_inputs
from autocompress.techniques import recipe_from_data, registry
from autocompress.testing.models import Plain, make_task, seeded
from autocompress.trial.baseline import train_baseline
from autocompress.trial.stages import NOTHING, pack_weights, rebuild
from autocompress.trial.trial import TrialSpec, confirm, failure, measure, prepare
from autocompress.trial.worker import Clock

PRUNE = {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1", "scope": "layer"}
TRAIN = {"technique": "finetune", "epochs": 2, "batch_size": 16}
METRICS = {
    "size_bytes",
    "params",
    "nonzero_params",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auroc",
    "compression_ratio",
    "space_saving",
    "latency_ms",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ms_p90",
    "measured_alone",
    "speedup",
    "speedup_low",
    "speedup_high",
}


def at_most(size: float) -> Limit:
    return Limit("size_bytes", "at_most", size, "size")


def made(spec: TrialSpec) -> Candidate:
    candidate = prepare(spec, plain_baseline())
    assert isinstance(candidate, Candidate), candidate
    return candidate


def test_the_baseline_is_trained_exported_and_measured_against_itself() -> None:
    baseline = plain_baseline()
    assert baseline.metrics.keys() == METRICS | {"aa_ratio"}
    assert baseline.metrics["size_bytes"] == len(baseline.onnx)
    assert baseline.metrics["accuracy"] > 0.8
    assert baseline.metrics["compression_ratio"] == baseline.metrics["speedup"] == 1
    assert baseline.metrics["space_saving"] == 0
    assert baseline.seconds.keys() == {"load_task", "train", "export", "quality", "latency"}
    weights = sum(parameter.numel() for parameter in Plain().parameters())
    assert weights <= baseline.metrics["params"] <= weights + 100  # shapes and axes are numbers of the file too


@pytest.mark.parametrize(("given", "processors", "used"), [(None, 4, 1), (3, 4, 3), (3, 2, 2), (64, 64, 8)])
def test_the_baseline_trains_on_as_many_threads_as_are_of_use_and_is_measured_on_the_targets(
    monkeypatch: pytest.MonkeyPatch, given: int | None, processors: int, used: int
) -> None:
    threads: list[int] = []
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    monkeypatch.setattr("autocompress.trial.baseline.use_threads", threads.append)
    baseline = train_baseline(reference(), seed=0, threads=given)
    assert threads == [used, 1]
    # What a trial on one thread would take is known where more were used.
    assert ("train_as_trials" in baseline.seconds) is (used > 1)
    assert baseline.trial_seconds >= baseline.seconds["train"]


def test_a_trial_completes_with_every_metric_of_the_file() -> None:
    spec = trial_spec(PRUNE, TRAIN, "int8_static")
    baseline, candidate = plain_baseline(), made(spec)
    outcome = measure(candidate, spec, baseline)
    assert isinstance(outcome, Completed), outcome
    metrics = outcome.metrics
    assert metrics.keys() == METRICS
    assert metrics["size_bytes"] == len(candidate.onnx)
    assert metrics["compression_ratio"] == len(baseline.onnx) / len(candidate.onnx)
    assert metrics["space_saving"] == 1 - len(candidate.onnx) / len(baseline.onnx)
    assert 0 < metrics["latency_ms_low"] <= metrics["latency_ms"] <= metrics["latency_ms_high"]
    assert metrics["speedup_low"] <= metrics["speedup"] <= metrics["speedup_high"]
    assert outcome.violations == {}
    assert [next(iter(decision)) for decision in candidate.decisions if decision] == ["layers", "per_channel"]


def test_accuracy_is_that_of_the_file_on_the_validation_split() -> None:
    candidate = made(trial_spec({"technique": "svd", "energy": 0.5}, "float16"))
    inputs, targets = plain_task().validation
    answers = Model(candidate.onnx)(inputs.numpy()).argmax(axis=1)
    assert candidate.metrics["accuracy"] == np.mean(answers == targets.numpy())


def test_the_test_split_is_measured_apart() -> None:
    candidate = made(trial_spec("float16"))
    inputs, targets = plain_task().test
    answers = Model(candidate.onnx)(inputs.numpy()).argmax(axis=1)
    found = confirm(candidate.onnx, reference())
    assert found["test_accuracy"] == np.mean(answers == targets.numpy())
    assert all(name.startswith("test_") for name in found)


def test_seconds_are_recorded_by_phase() -> None:
    spec = trial_spec(PRUNE, TRAIN, "float16")
    candidate = made(spec)
    assert candidate.seconds.keys() == {"restore", "facts", "decide", "apply", "train", "export", "load", "quality"}
    outcome = measure(candidate, spec, plain_baseline())
    assert outcome.seconds.keys() == {*candidate.seconds, "latency"}
    assert all(value >= 0 for value in outcome.seconds.values())
    assert outcome.seconds["train"] > 0
    assert "latency" not in candidate.seconds


def test_an_empty_recipe_gives_the_baseline_again() -> None:
    candidate = made(trial_spec())
    assert candidate.onnx == plain_baseline().onnx
    assert candidate.weights == plain_baseline().weights


def test_the_files_numbers_are_rebuilt_from_its_decisions_and_weights() -> None:
    spec = trial_spec(PRUNE, {"technique": "svd", "energy": 0.6}, TRAIN)
    candidate = made(spec)
    model = rebuild(seeded(Plain, 9), recipe_from_data(spec.recipe), candidate.decisions, candidate.weights)
    inputs = plain_task().validation[0][:5]
    with torch.no_grad():
        expected = model(inputs).numpy()
    np.testing.assert_allclose(Model(candidate.onnx)(inputs.numpy()), expected, rtol=1e-3, atol=1e-4)


# Limits


def test_a_candidate_past_a_limit_is_infeasible_and_keeps_its_metrics() -> None:
    limits = (at_most(20_000), Limit("accuracy", "at_least", 1.5, "accuracy"))
    spec = trial_spec(PRUNE, limits=limits)
    outcome = measure(prepare(spec, plain_baseline()), spec, plain_baseline())
    assert isinstance(outcome, Infeasible)
    assert outcome.reason == "past the limit on accuracy"
    assert outcome.metrics.keys() == METRICS
    assert outcome.violations["accuracy"] == pytest.approx((1.5 - outcome.metrics["accuracy"]) / 1.5)
    assert outcome.violations["size"] == pytest.approx((outcome.metrics["size_bytes"] - 20_000) / 20_000)
    assert outcome.violations["size"] < 0


def test_within_every_limit_a_candidate_is_completed_with_its_margins() -> None:
    spec = trial_spec(PRUNE, limits=(at_most(20_000),))
    outcome = measure(prepare(spec, plain_baseline()), spec, plain_baseline())
    assert isinstance(outcome, Completed)
    assert -1 < outcome.violations["size"] <= 0


@pytest.mark.parametrize(
    ("steps", "limit", "fits"),
    [
        ((PRUNE, TRAIN), 8_000, False),  # 1,912 weights in 4 bytes each, and the graph
        ((PRUNE, TRAIN), 12_000, True),
        ((PRUNE, TRAIN, "float16"), 8_000, True),
        ((TRAIN, PRUNE), 8_000, False),  # a cut to come is a fact too
        ((TRAIN, PRUNE), 12_000, True),
    ],
)
def test_what_cannot_fit_is_rejected_before_training(steps: Any, limit: int, fits: bool) -> None:
    outcome = prepare(trial_spec(*steps, limits=(at_most(limit),)), plain_baseline())
    assert isinstance(outcome, Candidate if fits else Infeasible), outcome
    if isinstance(outcome, Infeasible):
        assert outcome.metrics["size_bytes"] > 4 * (8 * 27 + 12 * 72 + 16 * 48 + 4 * 16)
        assert outcome.seconds["train"] == 0
        assert measure(outcome, trial_spec(), plain_baseline()) is outcome


# Failures are values


def test_a_technique_that_refuses_gives_a_reason_without_a_traceback() -> None:
    outcome = prepare(trial_spec({"technique": "svd", "ranks": {"fc3": 2}}), plain_baseline())
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("svd cannot factorize 'fc3' of `ranks`")
    assert outcome.refused
    assert outcome.doing == "step 1, svd, deciding"
    assert outcome.details == ""
    assert not outcome.lost
    assert measure(outcome, trial_spec(), plain_baseline()) is outcome


def test_a_step_that_finds_nothing_to_do_is_left_out_and_said() -> None:
    steps = (PRUNE, {"technique": "svd", "energy": 0.999}, TRAIN, "float16")
    candidate = made(trial_spec(*steps))
    assert [list(decision) == [NOTHING] for decision in candidate.decisions] == [False, True, False, False]
    assert candidate.decisions[1][NOTHING].startswith("svd with energy 0.999 finds no layer that would shrink")
    again = rebuild(seeded(Plain), recipe_from_data(trial_spec(*steps).recipe), candidate.decisions, candidate.weights)
    assert pack_weights(again) == candidate.weights


@pytest.mark.parametrize("count", [1, 2])
def test_a_recipe_that_finds_nothing_to_do_at_all_is_refused(count: int) -> None:
    outcome = prepare(trial_spec(*[{"technique": "svd", "energy": 0.999}] * count), plain_baseline())
    assert isinstance(outcome, Failed)
    assert outcome.refused
    assert outcome.reason.startswith("svd with energy 0.999 finds no layer that would shrink")


def test_an_error_of_a_library_says_what_was_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(registry()["svd"], "apply", broken)
    outcome = prepare(trial_spec(PRUNE, {"technique": "svd", "energy": 0.5}), plain_baseline())
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("step 2, svd, changing the model: RuntimeError: inconsistent tensor size")
    assert "in broken" in outcome.details
    assert not outcome.refused


def test_training_that_diverges_is_a_failure_with_its_fix() -> None:
    outcome = prepare(trial_spec({**TRAIN, "learning_rate": 9.9, "epochs": 40}), diverging_baseline())
    assert isinstance(outcome, Failed)
    assert "lower the learning rate" in outcome.reason
    assert outcome.seconds["train"] > 0


def diverging_baseline() -> Baseline:
    """A baseline whose weights are so large that its loss is no number."""
    model = seeded(Plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    exported = export_onnx(model, example_inputs(load_task(reference())))
    return replace(
        plain_baseline(), weights=pack_weights(model), onnx=exported.SerializeToString(), fingerprint="diverging"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "ran out of memory"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("two\nlines  here"), "ValueError: two lines here"),
    ],
)
def test_other_errors_are_failures_with_their_traceback(error: Exception, reason: str) -> None:
    outcome = failure(error, {"train": 1.0})
    assert outcome.reason == reason
    assert type(error).__name__ in outcome.details
    assert outcome.seconds == {"train": 1.0}


def test_a_baseline_of_another_model_is_a_failure() -> None:
    other = replace(plain_baseline(), weights=pack_weights(nn.Linear(2, 2)), fingerprint="other")
    outcome = prepare(trial_spec(), other)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("RuntimeError: Error(s) in loading state_dict for Plain")


# The same again


def test_the_same_seed_gives_the_same_file_to_the_last_byte() -> None:
    steps = [{**PRUNE, "importance": "taylor"}, {"technique": "distill", "epochs": 2, "batch_size": 16}, "int8_static"]
    first, second = made(trial_spec(*steps)), made(trial_spec(*steps, number=1))
    assert first.onnx == second.onnx
    assert first.decisions == second.decisions
    assert first.weights == second.weights
    assert made(trial_spec(*steps, seed=1)).weights != first.weights


def test_a_variant_that_differs_in_its_encoding_is_not_trained_again(tmp_path: Path) -> None:
    cache = str(tmp_path / "stages")
    first = made(trial_spec(PRUNE, TRAIN, "float16", cache=cache))
    assert first.seconds["train"] > 0
    assert "store" in first.seconds
    second = made(trial_spec(PRUNE, TRAIN, "int8_static", cache=cache))
    assert second.seconds["train"] == 0
    assert second.weights == first.weights
    assert second.decisions[:2] == first.decisions[:2]
    alone = made(trial_spec(PRUNE, TRAIN, "int8_static"))
    assert second.onnx == alone.onnx, "the cache must not change what is made"


@pytest.mark.parametrize(("name", "other"), [("versions", {"autocompress": "another"}), ("package_code", "another")])
def test_a_stage_of_other_versions_or_code_is_not_taken_up(
    name: str, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "stages")
    made(trial_spec(PRUNE, TRAIN, cache=cache))
    assert made(trial_spec(PRUNE, TRAIN, cache=cache)).seconds["train"] == 0
    monkeypatch.setattr(f"autocompress.trial.run.{name}", lambda: other)
    assert made(trial_spec(PRUNE, TRAIN, cache=cache)).seconds["train"] > 0


def test_training_goes_on_from_a_cached_stage_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    cache = str(tmp_path / "stages")
    longer = [PRUNE, TRAIN, {"technique": "svd", "energy": 0.6}, {**TRAIN, "epochs": 1}]
    made(trial_spec(*longer[:2], cache=cache))
    resumed = made(trial_spec(*longer, cache=cache))
    assert resumed.onnx == made(trial_spec(*longer)).onnx
    assert resumed.decisions == made(trial_spec(*longer, cache=cache)).decisions


def test_another_seed_or_baseline_does_not_share_stages(tmp_path: Path) -> None:
    cache = str(tmp_path / "stages")
    made(trial_spec(TRAIN, cache=cache))
    assert made(trial_spec(TRAIN, cache=cache)).seconds["train"] == 0
    assert made(trial_spec(TRAIN, cache=cache, seed=1)).seconds["train"] > 0
    other = replace(plain_baseline(), fingerprint="another")
    again = prepare(trial_spec(TRAIN, cache=cache), other)
    assert isinstance(again, Candidate)
    assert again.seconds["train"] > 0


# Inputs


def test_examples_for_the_exporter_are_two_or_more() -> None:
    task = make_task(Plain)
    assert example_inputs(task)[0].shape == (4, 3, 12, 12)
    alone = replace(task, validation=(task.validation[0][:1], task.validation[1][:1]))
    assert example_inputs(alone)[0].shape == (2, 3, 12, 12)


@pytest.mark.parametrize("batch_size", [1, 5, 32, 100])
def test_inputs_for_the_latency_fill_the_batch(batch_size: int) -> None:
    task = make_task(Plain)  # 32 validation images
    (inputs,) = model_inputs(task, batch_size)
    assert inputs.shape == (batch_size, 3, 12, 12)
    images = task.validation[0].numpy()
    assert all(np.array_equal(inputs[index], images[index % 32]) for index in range(batch_size))


def test_the_file_takes_any_batch_whatever_the_target_says() -> None:
    candidate = made(trial_spec("int8_static", target=Target(batch_size=8)))
    shape = onnx.load_from_string(candidate.onnx).graph.input[0].type.tensor_type.shape.dim[0]
    assert shape.dim_param
    assert Model(candidate.onnx)(np.zeros((7, 3, 12, 12), np.float32)).shape == (7, 4)


def test_a_clock_adds_up_and_starts_from_what_was_spent() -> None:
    clock = Clock({"a": 1.0})
    with clock("a"):
        pass
    with pytest.raises(ValueError, match="x"), clock("b"):
        raise ValueError("x")
    assert clock.seconds["a"] >= 1.0
    assert clock.seconds["b"] >= 0
