"""Which settings mattered for an objective: PED-ANOVA over the parameters that recipes used."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

ENOUGH = 20  # measured trials: with fewer, what seems to matter is chance
BEST, SHARE = 5, 0.1  # what counts as reaching an objective: to be among this share of the trials, or so many
MOST = 6  # settings that are looked at for each objective
SHUFFLES, BEATEN = 49, 48  # a setting that does not matter gets this far once in 25 times


@dataclass(frozen=True)
class Setting:
    """A parameter that mattered: its share among those that did, and its usual value in the best and the other trials.

    Usual is the median of numbers and the most frequent of choices, of which `among` holds all; None where no recipe
    uses it.
    """

    name: str
    share: float
    best: Any
    others: Any
    among: tuple[Any, ...]


def settings_that_mattered(
    trials: Mapping[int, FrozenTrial], costs: Mapping[int, float], seed: int = 0
) -> list[Setting]:
    """The parameters that told the best trials apart from the others, most important first.

    costs: one objective, less is better, of each measured trial by number; those of fewer than ENOUGH trials tell
    nothing. Importance is that of PED-ANOVA (Watanabe et al., 2023) for being among the best trials. Parameters count
    where the recipe uses them, and what is no more important than where costs are shuffled is left out.
    """
    numbers = [number for number in trials if number in costs]
    if len(numbers) < ENOUGH or len({costs[number] for number in numbers}) == 1:
        return []
    used = [_used(trials[number]) for number in numbers]
    study = optuna.create_study()
    study.add_trials(used)
    values = np.array([costs[number] for number in numbers])
    mattered = _beyond_chance(study, values, seed)
    total = sum(mattered.values())
    order = [used[index] for index in np.argsort(values, kind="stable")]
    best, others = order[: _best_count(len(order))], order[_best_count(len(order)) :]
    return [
        Setting(name, value / total, _usual(name, best), _usual(name, others), _among(name, used))
        for name, value in mattered.items()
    ]


def _beyond_chance(study: optuna.Study, costs: NDArray[np.float64], seed: int) -> dict[str, float]:
    """The importance of the parameters that are more important than where costs are shuffled."""
    found = dict(list(_importance(study, costs).items())[:MOST])
    generator = np.random.default_rng(seed)
    chance = [_importance(study, generator.permutation(costs), list(found)) for _ in range(SHUFFLES)]
    return {name: value for name, value in found.items() if sum(value > row[name] for row in chance) >= BEATEN}


def _importance(study: optuna.Study, costs: NDArray[np.float64], names: list[str] | None = None) -> dict[str, float]:
    """The importance of parameters, of all unless some are named, largest first; not normalized."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_best_count(len(costs)) / len(costs))
    with warnings.catch_warnings():
        # Optuna reminds of what `target` is, and of parameters that few trials use, which the shuffles take care of.
        warnings.simplefilter("ignore", UserWarning)
        return evaluator.evaluate(study, names, target=lambda trial: float(costs[trial.number]))


def _best_count(trials: int) -> int:
    return max(BEST, round(SHARE * trials))


def _usual(name: str, trials: Sequence[FrozenTrial]) -> Any:
    values = [trial.params[name] for trial in trials if name in trial.params]
    if not values:
        return None
    if _among(name, trials):
        return max(dict.fromkeys(values), key=values.count)
    # Steps such as 0.1 leave digits that nobody wrote.
    return round(median(values), 12)


def _among(name: str, trials: Sequence[FrozenTrial]) -> tuple[Any, ...]:
    kind = next((trial.distributions[name] for trial in trials if name in trial.distributions), None)
    return tuple(kind.choices) if isinstance(kind, CategoricalDistribution) else ()


def _used(trial: FrozenTrial) -> FrozenTrial:
    """A trial with the parameters that its recipe used: all are drawn, those of steps that were left out as well."""
    used = [name for name in trial.params if _is_used(name, trial)]
    return create_trial(
        params={name: trial.params[name] for name in used},
        distributions={name: trial.distributions[name] for name in used},
        value=0.0,
    )


def _is_used(name: str, trial: FrozenTrial) -> bool:
    """Whether the step of a parameter such as `svd.energy` is in the recipe: by its own parameter, or by a choice."""
    step, dot, _ = name.partition(".")
    if not dot:
        return True
    if step in trial.params:
        return bool(trial.params[step])
    choices = [
        key
        for key, kind in trial.distributions.items()
        if isinstance(kind, CategoricalDistribution) and step in kind.choices and "." not in key
    ]
    return not choices or any(trial.params[key] == step for key in choices)
