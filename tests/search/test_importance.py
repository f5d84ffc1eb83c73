"""Which settings mattered, on trials whose costs are known functions of their parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from autocompress.search.importance import ENOUGH, settings_that_mattered

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "prune": CategoricalDistribution((True, False)),
    "prune.ratio": FloatDistribution(0.1, 0.9, step=0.1),
    "choice_1": CategoricalDistribution(("distill", "finetune", "none")),
    "distill.epochs": IntDistribution(1, 8),
    "finetune.epochs": IntDistribution(1, 8),
    "always.amount": FloatDistribution(0.0, 1.0),
}
Cost = Callable[[dict[str, Any]], float]


def drawn(count: int, seed: int = 1) -> dict[int, FrozenTrial]:
    """Trials drawn at random, of each of which all parameters are there, used or not."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        study.tell(study.ask(SPACE), 0.0)
    return {trial.number: trial for trial in study.trials}


def names(trials: dict[int, FrozenTrial], cost: Cost) -> list[str]:
    costs = {number: cost(trial.params) for number, trial in trials.items()}
    return [setting.name for setting in settings_that_mattered(trials, costs)]


def test_the_one_setting_that_decides_matters_alone_and_is_told_with_its_values() -> None:
    trials = drawn(100)
    costs = {number: -trial.params["always.amount"] for number, trial in trials.items()}
    setting, *others = settings_that_mattered(trials, costs)
    assert (setting.name, others, setting.share, setting.among) == ("always.amount", [], 1.0, ())
    rows = sorted(trial.params["always.amount"] for trial in trials.values())
    assert setting.best == pytest.approx(np.median(rows[-10:]))  # a tenth of the trials
    assert setting.others == pytest.approx(np.median(rows[:-10]))


def test_a_choice_that_decides_is_told_with_what_there_was_to_choose() -> None:
    trials = drawn(60)
    noise = np.random.default_rng(0).random(60)
    costs = {n: float(trial.params["choice_1"] != "distill") + noise[n] / 9 for n, trial in trials.items()}
    setting = settings_that_mattered(trials, costs)[0]
    assert (setting.name, setting.best) == ("choice_1", "distill")
    assert setting.among == ("distill", "finetune", "none")


def test_a_setting_counts_where_its_step_is_in_the_recipe() -> None:
    trials = drawn(200)
    # The ratio that is drawn costs, used or not: where it is not used, that must not be seen.
    unused = {n: trial for n, trial in trials.items() if not trial.params["prune"]}
    assert "prune.ratio" not in names(unused, lambda params: params["prune.ratio"])
    used = {n: trial for n, trial in trials.items() if trial.params["prune"]}
    assert names(used, lambda params: params["prune.ratio"])[0] == "prune.ratio"


def test_a_setting_of_a_choice_counts_where_it_is_chosen() -> None:
    trials = drawn(200)
    distilled = {n: trial for n, trial in trials.items() if trial.params["choice_1"] == "distill"}
    assert names(distilled, lambda params: params["finetune.epochs"]) == []
    assert names(distilled, lambda params: params["distill.epochs"])[0] == "distill.epochs"


def test_chance_alone_rarely_matters() -> None:
    found = []
    for seed in range(10):
        costs = np.random.default_rng(seed).random(50)
        found += settings_that_mattered(drawn(50, seed), dict(enumerate(costs.tolist())))
    assert len(found) <= 6  # of 60 settings, each let through once in 25 times


def test_too_few_trials_and_equal_costs_tell_nothing() -> None:
    trials = drawn(ENOUGH)
    assert names(dict(list(trials.items())[1:]), lambda params: params["always.amount"]) == []
    assert names(trials, lambda params: 1.0) == []
    assert names(trials, lambda params: params["always.amount"])
    assert settings_that_mattered({}, {}) == []
