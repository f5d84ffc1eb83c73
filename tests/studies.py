"""Studies with the outcomes that a test wants, made without a search."""

from pathlib import Path

import yaml

from autocompress.config import SearchConfig
from autocompress.outcome import Metrics, Outcome
from autocompress.search.results import Results
from autocompress.search.samplers import make_sampler
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore

# No trial ends after its first step, so that this has to be measured.
SPACE = {"version": 1, "steps": [{"technique": "svd", "energy": [0.3, 0.5], "variant": "channel"}, "float16"]}
BASE: Metrics = {
    "size_bytes": 1000.0,
    "accuracy": 0.99,
    "latency_ms": 1.0,
    "speedup": 1.0,
    "compression_ratio": 1.0,
}


def metrics(size: float, accuracy: float, speedup: float) -> Metrics:
    found = {"size_bytes": size, "accuracy": accuracy, "speedup": speedup, "latency_ms": 1 / speedup}
    return {**found, "compression_ratio": 1000 / size}


def studied(folder: Path, *outcomes: Outcome) -> Results:
    """A study of these trials with limits on size and accuracy."""
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    space = load_space(folder / "space.yaml")
    limits = [
        {"metric": "size_bytes", "sense": "at_most", "bound": 200.0, "label": "size"},
        {"metric": "accuracy", "sense": "at_least", "bound": 0.95, "label": "accuracy_drop"},
    ]
    attributes = {"baseline": BASE, "limits": limits, "quality": "accuracy"}
    config = SearchConfig(study="made", task="task.py:tiny", storage=f"sqlite:///{folder}/autocompress.db")
    store = StudyStore.create(config, ("size_bytes", "accuracy", "latency_ms"), attributes)
    store.use_sampler(make_sampler("random", 0, 0))
    for outcome in outcomes:
        number, _ = store.ask(space)
        store.tell(number, outcome)
    return Results(store)
