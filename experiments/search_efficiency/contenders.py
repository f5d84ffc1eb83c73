"""The searches that are compared: Optuna's samplers as they come, ours, and ours with one part off."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autocompress.config import SearchConfig, SearchSettings, load_config

HERE = Path(__file__).parent
STUDIES = {
    "lenet5": HERE.parent / "mnist5k_lenet" / "search.yaml",
    "resnet20": HERE / "resnet20.yaml",
    "small": HERE / "small.yaml",
}
TRIALS = {"lenet5": 2000}  # more than there is time for: the demo ends after 200, which cheap trials reach first
RUNGS = "rungs" in SearchSettings.model_fields  # whether searches end trainings early
BASELINE, OURS = "baseline", "ours"


@dataclass(frozen=True)
class Contender:
    """One way to search.

    plain makes a sampler of Optuna's from a seed; None asks ours. known: facts are found before training, and what
    they or its outputs tell to be hopeless is not trained. cached: trained stages are used again. begun: it begins
    with recipes that were chosen on other tasks. rungs: trainings end early.
    """

    plain: Callable[[int], BaseSampler] | None = None
    known: bool = True
    cached: bool = True
    begun: bool = True
    rungs: bool = True


def plain(make: Callable[[int], BaseSampler]) -> Contender:
    """A sampler of Optuna's in a loop of trials that are trained to the end, each from the start."""
    return Contender(make, known=False, cached=False, begun=False, rungs=False)


CONTENDERS = {
    "random": plain(lambda seed: RandomSampler(seed=seed)),
    "NSGA-II": plain(lambda seed: NSGAIISampler(seed=seed)),
    "GP": plain(lambda seed: GPSampler(seed=seed)),
    "TPE": plain(lambda seed: TPESampler(seed=seed)),
    "multivariate TPE": plain(lambda seed: TPESampler(seed=seed, multivariate=True)),
    OURS: Contender(),
    "without facts": Contender(known=False),
    "without stages": Contender(cached=False),
    "without first rows": Contender(begun=False),
    **({"without rungs": Contender(rungs=False)} if RUNGS else {}),
}


def configured(study: str, contender: str, seed: int, folder: Path, path: Path | None = None) -> SearchConfig:
    """A study's config for one search by one worker that nothing but CPU-seconds ends; its files lie below a folder.

    path: of a config that is none of STUDIES.
    """
    config = load_config(path or STUDIES[study], seed=seed, workers=1, cold=True, trials=TRIALS.get(study))
    chosen = CONTENDERS.get(contender, Contender())
    changes = {"timeout": None, "sampler": "random" if chosen.plain else "auto"}
    if RUNGS:
        changes["rungs"] = chosen.rungs
    search = config.search.model_copy(update=changes)
    name = f"{study}-{contender}-{seed}".replace(" ", "-")
    storage = f"sqlite:///{folder.resolve()}/studies.db"
    return config.model_copy(update={"study": name, "search": search, "storage": storage, "tracking": None})
