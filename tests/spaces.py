"""Search spaces for tests: small ones of given steps, all recipes of one, and any that hypothesis thinks of."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import strategies as st

from autocompress.config import FOLDERS
from autocompress.errors import ConfigError
from autocompress.recipe import Recipe
from autocompress.search.space import Space
from autocompress.search.space_file import load_space

BUNDLED = sorted(FOLDERS["search_spaces"].glob("*.yaml"))

# Every setting that a technique looks for by itself is fixed, so that what is searched stands here.
FIXED: dict[str, dict[str, Any]] = {
    "channel_pruning": {"ratio": 0.5, "importance": "l1", "scope": "layer"},
    "svd": {"energy": 0.8, "variant": "channel"},
    "finetune": {"epochs": 1, "learning_rate": 0.01},
    "distill": {"epochs": 1, "learning_rate": 0.01, "temperature": 2.0, "alpha": 0.5},
    "int8_static": {"per_channel": True, "calibration": "minmax"},
    "qat": {"epochs": 1, "learning_rate": 0.01, "bits": 8, "alpha": 0.0},
    "float16": {},
}


def option(name: str, **searched: Any) -> dict[str, Any]:
    """A technique with nothing to search but what is given."""
    return {"technique": name, **FIXED[name], **searched}


def space_of(folder: Path, *steps: Any, **more: Any) -> Space:
    """A space of these steps, by way of a file."""
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "steps": list(steps), **more}, sort_keys=False))
    return load_space(path)


def refused(folder: Path, text: str) -> str:
    """The message with which a space is refused, after its file's name: one line."""
    path = folder / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_space(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}")
    return message.removeprefix(f"{path}")


class Enumeration:
    """A trial that takes prescribed turns: run again and again, it walks through every branch of a discrete space."""

    def __init__(self, turns: list[int]) -> None:
        self.turns, self.sizes = turns, list[int]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        taken: int = self._take(list(range(low, high + 1, step)))
        return taken

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name.endswith(".position"):
            # Of a random key only its place among the others matters: two or three distinct ones give every order.
            taken: float = self._take([0.0, 0.5, 1.0])
        else:
            assert step is not None
            taken = self._take([low + n * step for n in range(int((high - low) / step + 1e-9) + 1)])
        return taken

    def _take(self, values: list[Any]) -> Any:
        place = len(self.sizes)
        self.sizes.append(len(values))
        return values[self.turns[place] if place < len(self.turns) else 0]


def every_recipe(space: Space) -> Iterator[Recipe]:
    """All recipes of a small discrete space, repeats included."""
    first = Enumeration([])
    space.sample(first)
    for turns in itertools.product(*(range(size) for size in first.sizes)):
        yield space.sample(Enumeration(list(turns)))


def repeat(times: Any, *steps: Any) -> dict[str, Any]:
    return {"repeat": {"times": times, "steps": list(steps)}}


def only(layers: list[str], step: Any) -> dict[str, Any]:
    return {"only": {"layers": layers, "step": step}}


def names(recipe: Recipe) -> list[str]:
    return [f"{step.technique} {'|'.join(step.layers)}".strip() for step in recipe.steps]


RATIO = {"technique": "channel_pruning", "ratio": [0.3, 0.5], "importance": "l1", "scope": "layer"}
# Prune and distil in turns, some layers more than others, then cluster, distil and store.
LONG: list[Any] = [
    repeat(
        {"low": 1, "high": 3},
        {"any_order": [RATIO, only(["fc*"], {"technique": "svd", "energy": {"low": 0.5, "high": 0.9, "step": 0.1}})]},
        {"one_of": ["distill", "finetune", "none"]},
    ),
    {"one_of": ["weight_clustering", "none"]},
    only(["conv*"], repeat([1, 3], "weight_pruning", repeat(2, only(["*1"], "nm_pruning")))),
    "distill",
    {"one_of": ["low_bit", only(["fc*"], "low_bit"), "none"]},
]


def drawn(space: Space, seed: int) -> dict[str, Any]:
    """The parameters of a trial that is drawn at random."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    space.sample(trial)
    return trial.params


RANGES = {
    ("channel_pruning", "ratio"): (0.05, 0.95),
    ("svd", "energy"): (0.05, 0.95),
    ("distill", "alpha"): (0.0, 1.0),
    ("distill", "temperature"): (0.5, 10.0),
    ("finetune", "learning_rate"): (1e-5, 1.0),
}
WHOLE = {("finetune", "epochs"): 20, ("distill", "epochs"): 20, ("channel_pruning", "round_to"): 8}


@st.composite
def options(draw: st.DrawFn, names: Sequence[str]) -> dict[str, Any]:
    """A technique of these with settings that are fixed, chosen, or looked for in a range."""
    name = draw(st.sampled_from(names))
    found: dict[str, Any] = {"technique": name}
    for (owner, setting), bounds in RANGES.items():
        if owner == name and draw(st.booleans()):
            low, high = sorted(draw(st.tuples(*[st.floats(*bounds)] * 2)))
            more = draw(st.sampled_from([{}, {"step": 0.05}, {"log": low > 0}]))
            found[setting] = draw(st.sampled_from([low, [low, high], {"low": low, "high": high, **more}]))
    for (owner, setting), top in WHOLE.items():
        if owner == name and draw(st.booleans()):
            low, high = sorted(draw(st.tuples(*[st.integers(1, top)] * 2)))
            more = draw(st.sampled_from([{}, {"step": 2}, {"log": True}]))
            found[setting] = draw(st.sampled_from([low, [low, high], {"low": low, "high": high, **more}]))
    return found


@st.composite
def spaces(draw: st.DrawFn) -> list[Any]:
    """Steps of a valid space: perhaps structure in any order, then training, then an encoding."""
    rows: list[Any] = []
    structure = [draw(options([name])) for name in draw(st.sets(st.sampled_from(["channel_pruning", "svd"])))]
    if structure:
        rows.append({"any_order": structure})
    training = [draw(options([name])) for name in draw(st.sets(st.sampled_from(["finetune", "distill"])))]
    if len(training) == 1 and draw(st.booleans()):
        rows += training
    elif training:
        rows.append({"one_of": [*training, *draw(st.sampled_from([[], ["none"]]))]})
    rows += draw(st.sampled_from([[], ["float16"], [{"one_of": ["int8_static", "float16", "none"]}]]))
    return rows or ["svd"]
