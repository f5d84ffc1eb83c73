"""Searches from Python: objects as tasks, the study that comes back, and that it is the command line's own."""

import functools
import io
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autocompress
from autocompress import api
from autocompress.config import load_config
from autocompress.errors import AutocompressError, ConfigError, StudyError, TaskError
from autocompress.executors.ray import RayExecutor
from autocompress.measure import latency
from autocompress.tasks.bytecode import object_digest
from autocompress.tasks.given import task_from
from autocompress.tasks.objects import hold

SPACE = {**tiny.SPACE, "steps": [{"technique": "svd", "energy": [0.3, 0.5], "variant": "channel"}, "float16"]}
Split = tuple[Tensor, Tensor]


def network() -> nn.Module:
    """One linear layer, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def split(seed: int, count: int) -> Split:
    """Random pixels, which the network's own answers label."""
    pixels = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return pixels, network()(pixels).argmax(1)


DATA = split(0, 64), split(1, 32), split(2, 32)
CALL: dict[str, Any] = {"space": "space.yaml", "trials": 1, "workers": 1, "tracking": False, "progress": False}


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MOST_ROUNDS", tiny.ROUNDS)
    monkeypatch.delenv("AUTOCOMPRESS_STORAGE", raising=False)


# Keywords


def test_keywords_are_held_to_the_rules_of_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.make_project(tmp_path))
    for key, value in (
        ("budget", {"size": 60}),
        ("budget", {"sice": "1 KB"}),
        ("objectives", ["accuracy", "accuracy"]),
    ):
        tiny.configure(Path("wrong.yaml"), **{key: value})
        with pytest.raises(ConfigError) as read:
            load_config(Path("wrong.yaml"))
        with pytest.raises(ConfigError) as called:
            autocompress.search("task.py:tiny", **{key: value})  # type: ignore[arg-type]
        rule = str(called.value).removeprefix("autocompress.search(): ")
        assert str(read.value).endswith(rule)
        assert rule.startswith(key)
    with pytest.raises(ConfigError, match=r"autocompress.search\(\): search.trials: 0: "):
        autocompress.search("task.py:tiny", trials=0)
    assert not Path("autocompress.db").exists()


@pytest.mark.parametrize(
    ("task", "keywords", "said"),
    [
        (network(), {}, r"data= takes \(train, validation, test\)"),
        (network(), {"data": DATA[:2]}, "a search chooses on the validation split"),
        (network(), {"data": (*DATA[:2], DATA[1])}, "the validation split is also another one"),
        (network(), {"data": (DataLoader(TensorDataset(*DATA[0])), *DATA[1:])}, "is a DataLoader: give its dataset"),
        (network(), {"data": DATA, "metrics": len}, "add quality="),
        (network(), {"data": DATA, "lower_is_better": ["mae"]}, "add metrics="),
        (autocompress.Classification(network, *DATA), {"loss": len}, "loss= belongs to a torch.nn.Module"),
        (autocompress.Classification, {}, "is a class: give an object of it"),
        (np.zeros(3), {}, "a ndarray without quality, baseline, model"),
        ("nowhere.yaml", {}, "nowhere.yaml: no such config file"),
        ("object:Classification", {}, "is an object of a Python program"),
        ({"model": "task.py:network"}, {}, "task: add `kind:`"),
        (network(), {"data": DATA, "executor": "rai"}, "executor 'rai': did you mean 'ray'"),
    ],
)
def test_what_is_no_task_is_refused_with_the_fix(
    task: Any, keywords: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AutocompressError, match=said):
        autocompress.search(task, **keywords)
    assert not list(tmp_path.iterdir())


def test_a_file_gives_what_the_call_does_not(tmp_path: Path) -> None:
    path = tiny.make_project(tmp_path, budget={"size": "1 KB", "accuracy": 0.5}, objectives=["size_bytes", "accuracy"])
    config = api._config(path / "search.yaml", {}, {"budget": {"size": "2 KB"}, "study": "mine"}, {"trials": 7})
    expected = load_config(path / "search.yaml", trials=7).model_dump()
    expected |= {"study": "mine", "budget": {**expected["budget"], "size": 2000.0, "accuracy": None}}
    assert config.model_dump() == expected
    assert config.root == path


# Tasks from their parts


def test_targets_tell_what_is_lost_and_measured_and_that_is_said() -> None:
    classes = task_from(network(), DATA)
    assert (type(classes), classes.baseline) == (autocompress.Classification, None)
    assert "taken as classes" in classes.notes[0]
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    numbers = task_from(nn.Linear(3, 1), [(x * s, 100 * x[:, :1] * s) for s in (1.0, 2.0, 3.0)])
    assert isinstance(numbers, autocompress.Regression)
    assert numbers.scale == pytest.approx(100 * float(x[:, 0].std(correction=0)), rel=1e-5)  # of training alone
    assert "squared error" in numbers.notes[0]
    with pytest.raises(TaskError, match="targets are 0 and 1 as floats"):
        task_from(nn.Linear(3, 1), [(x * s, (x[:, :1] > 0).float()) for s in (1.0, 2.0, 3.0)])


def test_losses_and_metrics_of_ones_own_are_used_as_they_are() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    task: Any = task_from(network(), DATA, loss, lambda output, target: {"mae": 3.0}, "mae", ["mae"])
    output, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    assert task.loss(output, target) == loss(output, target)
    assert task.metrics(output.numpy(), target.numpy()) == {"mae": 3.0}
    assert (task.quality, task.lower_is_better, task.classifies, task.notes) == ("mae", ("mae",), True, ())
    half: Any = task_from(network(), DATA, nn.functional.multi_margin_loss)
    assert half.metrics(np.eye(4), np.array([0, 1, 2, 0]))["accuracy"] == 0.75
    assert not half.classifies  # a margin is no distribution
    assert half.notes


# Code without files


def compiled(source: str) -> Any:
    """What a cell of a notebook leaves under the name `it`."""
    names: dict[str, Any] = {"__name__": "__main__", "torch": torch, "np": np}
    exec(source, names)
    return names["it"]


TASK = """
weight = 2.0
def helper(x):
    return x * weight
class Base:
    def shared(self): return helper(1)
class Own(Base):
    rate = 0.1
    def __init__(self, scale): self.scale, self.table = scale, torch.arange(3.0)
    def loss(self, output): return [value + 1 for value in output] + self.shared()
    @staticmethod
    def metrics(output): return np.abs(output)
    @property
    def size(self): return 4
it = Own(3)
"""


def test_code_is_the_same_whatever_is_said_beside_it() -> None:
    commented = TASK.replace("class Own", "# what counts\n\n\nclass Own").replace(
        "return x * weight", "return x*weight"
    )
    assert object_digest(compiled(TASK)) == object_digest(compiled(commented))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("weight = 2.0", "weight = 2.5"),
        ("x * weight", "x / weight"),
        ("helper(1)", "helper(2)"),
        ("rate = 0.1", "rate = 0.2"),
        ("Own(3)", "Own(4)"),
        ("arange(3.0)", "arange(1.0, 4.0)"),
        ("value + 1 for", "value + 2 for"),
        ("np.abs", "np.square"),
        ("return 4", "return 5"),
    ],
)
def test_code_is_another_where_anything_that_it_uses_is(before: str, after: str) -> None:
    assert before in TASK
    assert object_digest(compiled(TASK)) != object_digest(compiled(TASK.replace(before, after)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it = torch.relu", "it = torch.sigmoid"),
        ("import functools\nit = functools.partial(max, 1)", "import functools\nit = functools.partial(max, 2)"),
        ("def make(n): return lambda x: x + n\nit = make(1)", "def make(n): return lambda x: x + n\nit = make(2)"),
        ("def it(x, n=1): return n", "def it(x, n=2): return n"),
        ("it = torch.nn.Sequential(torch.nn.Dropout(0.1))", "it = torch.nn.Sequential(torch.nn.Dropout(0.2))"),
        ("it = {1: [2, {3}]}", "it = {1: [2, {4}]}"),
        ("it = [1, 2].__getitem__", "it = [1, 3].__getitem__"),
    ],
)
def test_what_functions_hold_counts_as_their_code(one: str, other: str) -> None:
    assert object_digest(compiled(one)) == object_digest(compiled(one))
    assert object_digest(compiled(one)) != object_digest(compiled(other))


def test_circles_end() -> None:
    assert object_digest(compiled("it = []\nit.append(it)")) == object_digest(compiled("it = []\nit.append(it)"))
    assert compiled("def it(n): return it(n - 1)").__name__ == "it"
    assert object_digest(compiled("def it(n): return it(n - 1)")) != object_digest(compiled("def it(n): return it(n)"))


# Searches


@dataclass(frozen=True)
class Made:
    """A search of a module, in a folder of its own, and the module as it was before and after."""

    folder: Path
    study: autocompress.Study
    module: nn.Module
    unlike: list[str]  # what the search left otherwise than it was


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("made")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "MOST_ROUNDS", tiny.ROUNDS)
        patch.chdir(folder)
        module = network().train()
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()
        study = autocompress.search(module, data=DATA, **{**CALL, "trials": 2}, budget={"size": "1 KB"})
        now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()
        unlike = [str(index) for index in range(1, 4) if states[index] != now[index]]
        unlike += [] if torch.equal(states[0], now[0]) else ["torch's random numbers"]
        unlike += [] if module.training and _same(module, network()) else ["the module"]
        yield Made(folder, study, module, unlike)


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def again(made: Made, **changes: Any) -> autocompress.Study:
    """The same call once more, under the study's name, with changes."""
    call = {"data": DATA, **CALL, "trials": 2, "budget": {"size": "1 KB"}, "study": made.study.name, **changes}
    return autocompress.search(changes.pop("task", network()), **{k: v for k, v in call.items() if k != "task"})


@pytest.fixture
def there(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(made.folder)
    return made


def test_a_search_leaves_the_process_and_the_module_as_they_were(made: Made) -> None:
    assert made.unlike == []


def test_the_front_is_what_the_command_prints(there: Made) -> None:
    ended = tiny.run(there.folder, "front", there.study.name, "--csv")
    assert ended.code == 0
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(ended.out)), there.study.front(), check_exact=False)
    assert len(there.study.front()) >= 2
    opened = autocompress.load_study(there.study.name)
    pd.testing.assert_frame_equal(opened.front(), there.study.front())
    assert repr(opened) == repr(there.study)


def test_trials_hold_every_trial_and_best_is_one_of_them(made: Made) -> None:
    trials, front = made.study.trials(), made.study.front()
    assert trials["trial"].tolist() == [0, 1]
    on_front = [f"trial {number}" for number in trials.loc[trials["front"], "trial"]]
    assert sorted(on_front) == sorted(front["case"][1:])
    best = made.study.best("smallest")
    assert best["size_bytes"] == front["size_bytes"][1:].min()
    assert best.to_dict() == trials.loc[trials["trial"] == best["trial"]].iloc[0].to_dict()
    with pytest.raises(AutocompressError, match="did you mean 'smallest'"):
        made.study.best("smalest")


def test_explanations_are_those_of_the_command(there: Made) -> None:
    assert there.study.explain() == tiny.run(there.folder, "explain", there.study.name).out
    trial = int(there.study.best("smallest")["trial"])
    assert f"trial {trial} of {there.study.name}: completed, on the front" in there.study.explain(trial)
    assert "after step" in there.study.explain(trial)


def test_the_figure_and_the_page_of_a_notebook_show_the_front(made: Made) -> None:
    drawn = next(trace for trace in made.study.figure().data if trace.name.startswith("front"))
    front = made.study.front()[1:]
    assert sorted(drawn.x) == pytest.approx(sorted(front["size_bytes"] / 1e3))
    page = made.study._repr_html_()
    assert page.count("<tr") == 2 + len(front)  # under the heading and the uncompressed model
    assert "uncompressed" in page
    assert "feasible: " in page
    assert "size at most 1.0 KB" in page or "size_bytes at most 1.0 KB" in page


def test_an_export_computes_what_it_claims_also_after_the_module_was_trained_on(there: Made) -> None:
    with torch.no_grad():
        there.module[1].weight.mul_(-1)
    found = there.study.export("chosen", pick="smallest")
    assert found["claimed"]["size_bytes"] == Path("chosen/model.onnx").stat().st_size
    pixels, labels = DATA[2]
    right = autocompress.load("chosen")(pixels.numpy()).argmax(1) == labels.numpy()
    assert right.mean() == pytest.approx(found["measured"]["test_accuracy"])
    assert there.study.verify("chosen")["wrong"] == []
    with pytest.raises(AutocompressError, match="both choose a trial"):
        there.study.export("other", pick="smallest", trial=0)


def test_a_study_of_an_object_is_exported_with_the_object_alone(there: Made) -> None:
    opened = autocompress.load_study(there.study.name)
    with pytest.raises(TaskError, match="is an object of a Python program"):
        opened.export("never")
    same = autocompress.Classification(network, *DATA, baseline=None)
    found = autocompress.load_study(there.study.name, task=same).export("opened", pick="smallest")
    assert found["claimed"]["size_bytes"] == there.study.best("smallest")["size_bytes"]
    other = autocompress.Classification(network, DATA[1], *DATA[1:], baseline=None)
    with pytest.raises(StudyError, match="the data of study"):
        autocompress.load_study(there.study.name, task=other).export("never")
    refused = tiny.run(there.folder, "export", there.study.name, "--out", "never")
    assert refused.code == 2
    assert "autocompress.load_study(name, task=task)" in refused.err
    verified = tiny.run(there.folder, "verify", "opened")
    assert verified.code == 0
    assert "use Study.verify()" in verified.out
    assert not Path("never").exists()


def test_the_same_call_means_the_same_study_and_goes_on_with_it(there: Made) -> None:
    name = there.study.name
    assert name.startswith("sequential-")
    with pytest.raises(StudyError, match=r"with 2 trials: add --resume to go on with it \(in Python resume=True\)"):
        autocompress.search(network(), data=DATA, **{**CALL, "trials": 2}, budget={"size": "1 KB"})
    before, found = there.study.trials(), list[autocompress.Study]()
    folder = there.folder.parent / "copy"
    shutil.copytree(there.folder, folder)
    storage = f"sqlite:///{folder / 'autocompress.db'}"
    call = functools.partial(again, there, resume=True, trials=3, storage=storage)
    thread = threading.Thread(target=lambda: found.append(call()))  # where no signals can be listened to
    thread.start()
    thread.join()
    assert found[0].name == name
    after = found[0].trials()
    assert after["recipe"].tolist()[:2] == before["recipe"].tolist()
    assert len(after) == len(before)  # the space holds no third recipe
    assert "the search space is used up" in " ".join(found[0].notes)


def flipped() -> nn.Module:
    """Another network."""
    model = network()
    with torch.no_grad():
        model[1].weight.mul_(-1)
    return model


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": (split(3, 64), *DATA[1:])}, "data"),
        ({"task": flipped()}, "model"),
        ({"budget": {"size": "2 KB"}}, "config"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "code"),
        ({"baseline": autocompress.Training(epochs=1)}, "settings"),
    ],
)
def test_a_study_is_not_gone_on_with_by_another_task(there: Made, changes: dict[str, Any], what: str) -> None:
    words = {"settings": "code, settings"}.get(what, what)  # how long is trained stands in the object, too
    with pytest.raises(StudyError, match=f"was begun with another {words}: "):
        again(there, resume=True, **changes)


def test_an_interrupt_ends_a_search_with_what_it_has(there: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(api._Noting):
        def update(self, state: Any) -> None:
            if len(state.records) == 1 and not state.draining:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(api, "_Noting", Interrupting)
    handler = signal.getsignal(signal.SIGINT)
    study = again(there, study="broken-off")
    assert study.interrupted
    assert len(study.trials()) == 1
    assert any("stopping: waiting for the running trials" in note for note in study.notes)
    assert signal.getsignal(signal.SIGINT) is handler


# Ray


def test_an_object_that_cannot_be_sent_is_named_before_anything_runs() -> None:
    lock = threading.Lock()
    task = autocompress.Classification(lambda: (network(), lock)[0], *DATA)
    executor = RayExecutor.__new__(RayExecutor)
    executor._ray = SimpleNamespace(put=cloudpickle.dumps)
    with pytest.raises(TaskError, match=r"task: Classification cannot be sent to workers: .*lock.*executor=\"inline\""):
        executor._put(hold(task))


def of_a_notebook() -> Callable[[], Any]:
    """A class that no worker can import."""
    return compiled("""
import autocompress
class Own(autocompress.Classification):
    def metrics(self, output, target):
        return {"accuracy": float((output.argmax(1) == target).mean()), "seven": 7.0}
it = Own
""")  # fmt: skip


def test_workers_of_ray_get_the_object(there: Made) -> None:
    task = of_a_notebook()(functools.partial(_copy, network()), *DATA, None)  # type: ignore[call-arg]
    call = {**CALL, "executor": "ray", "ray": {"address": "local"}, "study": "by-ray"}
    front = autocompress.search(task, **call).front()
    assert front["seven"].tolist() == [7.0, 7.0]
    assert front["accuracy"][0] == 1.0
    assert 0 < front["accuracy"][1] <= 1


_copy = compiled("import copy\ndef it(module): return copy.deepcopy(module)")
