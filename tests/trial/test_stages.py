"""The stage cache, and rebuilding a stage to the last bit."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.recipe import Recipe
from autocompress.techniques import Decision, Technique, recipe_from_data
from autocompress.testing.models import Mlp, Plain, Residual, seeded
from autocompress.testing.work import context_of, example_of
from autocompress.trial import stages
from autocompress.trial.stages import StageCache, pack_weights, rebuild


def recipe(*steps: dict[str, object] | str) -> Recipe:
    rows = [{"technique": step} if isinstance(step, str) else step for step in steps]
    return recipe_from_data({"version": 1, "steps": rows})


PRUNED = {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1"}
TRAINED = {"technique": "finetune", "epochs": 1, "batch_size": 16}
LONG = recipe(PRUNED, TRAINED, "svd", {**TRAINED, "epochs": 2}, "float16")


def carried_out(model: nn.Module, steps: Recipe, name: str) -> tuple[nn.Module, list[Decision]]:
    """A model after steps, with their decisions."""
    decisions = []
    for step in steps.steps:
        assert isinstance(step, Technique)
        context = context_of(name)
        decisions.append(step.decide(model, context))
        model = step.apply(model, decisions[-1])
        if step.kind == "train":
            step.train(model, context)
    return model.eval(), decisions


@pytest.mark.parametrize(("name", "make"), [("plain", Plain), ("residual", Residual)])
def test_a_stage_is_rebuilt_to_the_last_bit_from_other_weights(name: str, make: type[nn.Module]) -> None:
    steps = recipe(PRUNED, {"technique": "svd", "energy": 0.6}, TRAINED)
    model, decisions = carried_out(seeded(make), steps, name)
    rebuilt = rebuild(seeded(make, 5), steps, json.loads(json.dumps(decisions)), pack_weights(model))
    assert not rebuilt.training
    assert pack_weights(rebuilt) == pack_weights(model)
    with torch.no_grad():
        assert torch.equal(rebuilt(*example_of(name)), model(*example_of(name)))


def test_a_rebuild_takes_only_the_steps_that_have_decisions() -> None:
    model = seeded(Plain, 1)
    rebuilt = rebuild(seeded(Plain, 2), LONG, [], pack_weights(model))
    assert pack_weights(rebuilt) == pack_weights(model)


def test_encode_steps_do_not_touch_the_module() -> None:
    model = seeded(Plain, 1)
    decisions: list[Decision] = [{}, {"halved": ["fc1.weight"], "skipped": {}}]
    rebuilt = rebuild(seeded(Plain, 2), recipe("finetune", "float16"), decisions, pack_weights(model))
    assert pack_weights(rebuilt) == pack_weights(model)


def store(cache: StageCache, length: int, seed: int = 0) -> bytes:
    """Keep a prefix of the long recipe, with made-up decisions; returns its weights."""
    model = seeded(Mlp, seed)
    cache.store(LONG.prefix(length), [{"step": index} for index in range(length)], model)
    return pack_weights(model)


def test_an_empty_cache_knows_nothing(tmp_path: Path) -> None:
    assert StageCache(tmp_path / "none", "base").longest(LONG) is None


def test_the_longest_prefix_is_found(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, "base")
    short, long = store(cache, 2, seed=1), store(cache, 4, seed=2)
    assert short != long
    assert cache.longest(LONG) == (4, [{"step": index} for index in range(4)], long)
    assert cache.longest(LONG.prefix(3)) == (2, [{"step": index} for index in range(2)], short)
    assert cache.longest(LONG.prefix(1)) is None


def test_only_the_same_steps_share_a_stage(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, "base")
    store(cache, 2)
    assert cache.longest(recipe({**PRUNED, "ratio": 0.4}, TRAINED)) is None
    assert cache.longest(recipe(TRAINED, PRUNED)) is None
    assert cache.longest(recipe({**PRUNED, "max_ratio": 0.95}, TRAINED, "int8_static")) is not None  # the default


def test_another_task_baseline_or_seed_shares_nothing(tmp_path: Path) -> None:
    store(StageCache(tmp_path, "base"), 2)
    assert StageCache(tmp_path, "other").longest(LONG) is None


def test_a_technique_from_elsewhere_that_is_edited_is_carried_out_again(tmp_path: Path) -> None:
    """Its package keeps its version while it is written."""
    file = tmp_path / "edited.py"
    file.write_text(
        "from autocompress.techniques import Technique\n\n\n"
        "class Edited(Technique):\n    technique, family, kind = 'edited', 'training', 'train'\n"
    )
    found = []
    for _ in range(2):
        spec = importlib.util.spec_from_file_location("edited", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["edited"] = module
        spec.loader.exec_module(module)
        cache, made = StageCache(tmp_path / "stages", "base"), Recipe((module.Edited(),))
        found.append(cache.longest(made))
        cache.store(made, [{}], seeded(Mlp, 1))
        assert cache.longest(made) is not None
        file.write_text(file.read_text() + "\n# another\n")
    del sys.modules["edited"]
    assert found == [None, None]


def test_a_stage_that_is_there_is_kept_as_it_is(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, "base")
    first = store(cache, 2, seed=1)
    store(cache, 2, seed=2)
    found = cache.longest(LONG)
    assert found is not None
    assert found[2] == first


def test_a_writer_that_is_killed_half_way_leaves_nothing_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StageCache(tmp_path, "base")
    child = os.fork()
    if child == 0:
        stages.pack_weights = lambda model: os._exit(9)  # the decisions are written by then, the weights are not
        store(cache, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert list(tmp_path.rglob("decisions.json")), "the child should have been half-way"
    assert cache.longest(LONG) is None
    weights = store(cache, 2)
    assert cache.longest(LONG) == (2, [{"step": 0}, {"step": 1}], weights)


def test_a_damaged_entry_is_passed_over(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, "base")
    short = store(cache, 2, seed=1)
    store(cache, 4, seed=2)
    (cache._path(LONG.prefix(4)) / "decisions.json").write_text('[{"step": 0}')
    assert cache.longest(LONG) == (2, [{"step": 0}, {"step": 1}], short)


def test_the_stages_that_were_not_used_for_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [recipe({**TRAINED, "epochs": epochs}) for epochs in (1, 2, 3, 4)]
    cache, model = StageCache(tmp_path, "base"), seeded(Mlp)
    size = len(pack_weights(model)) + len("[{}]")
    monkeypatch.setattr(stages, "CACHE_BYTES", 3 * size)
    for age, kept in enumerate(recipes[:3]):
        cache.store(kept, [{}], model)
        os.utime(cache._path(kept), (1000 + age, 1000 + age))
    assert cache.longest(recipes[0]) is not None  # used now, so that the second is the oldest
    cache.store(recipes[3], [{}], model)
    assert [cache.longest(kept) is not None for kept in recipes] == [True, False, True, True]


def test_what_a_killed_writer_left_is_trimmed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".new-left"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"0" * 1000)
    os.utime(left, (1000, 1000))
    cache, model = StageCache(tmp_path, "base"), seeded(Mlp)
    monkeypatch.setattr(stages, "CACHE_BYTES", len(pack_weights(model)) + 500)
    cache.store(recipe(TRAINED), [{}], model)
    assert not left.exists()
    assert cache.longest(recipe(TRAINED)) is not None


def test_shared_weights_are_stored_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    other[1].weight = other[0].weight
    rebuilt = rebuild(other, Recipe(), [], pack_weights(model))
    assert torch.equal(rebuilt[1].weight, model[0].weight)
    assert rebuilt[1].weight is rebuilt[0].weight
