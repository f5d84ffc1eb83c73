"""The samplers that a config may name."""

import warnings

import optuna

# Trials that are drawn at random before a model of the space is trusted.
STARTUP = 10


def make_sampler(name: str, seed: int, done: int) -> optuna.samplers.BaseSampler:
    """A seeded sampler of Optuna's; after `done` trials, so that a resumed search does not repeat its draws."""
    seed = seed + done
    match name:
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=20, seed=seed)
        case "gp":
            with warnings.catch_warnings():
                # Optuna marks this argument as experimental, at each call and for people who never wrote it.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=True)
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP, constant_liar=True, multivariate=True
            )
        case _:
            return optuna.samplers.RandomSampler(seed=seed)
