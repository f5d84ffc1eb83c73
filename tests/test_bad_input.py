"""What users get wrong: each is refused in one line that says what and where, and nothing is started or changed."""

import hashlib
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tiny import CONFIG, TASK, Ran, configure, make_project, run

from autocompress.artifacts.directory import Contents
from autocompress.recipe import Recipe

Arrange = Callable[[Path], object]
SEARCH = "search search.yaml"
PROGRESS = ("checking the task", "starting", "measuring the baseline", "exporting trial 0: ")


@dataclass(frozen=True)
class Case:
    """A mistake: how it is made, with which command, and what the one line about it must hold."""

    name: str
    arrange: Arrange
    line: tuple[str, ...]
    command: str = SEARCH
    studied: bool = False  # made in a folder that holds the finished study `tiny`
    measures: bool = False  # the baseline is needed to notice it, and is kept


# How mistakes are made


def nothing(folder: Path) -> None:
    """The mistake is in the command."""


def config(**changes: Any) -> Arrange:
    """Entries of the config."""
    return lambda folder: configure(folder / "search.yaml", **changes)


def named(name: str, **changes: Any) -> Arrange:
    """Another config beside it."""
    return lambda folder: configure(folder / name, **changes)


def text(name: str, content: str) -> Arrange:
    """A file of any content."""

    def write(folder: Path) -> None:
        (folder / name).write_text(content)

    return write


def both(*steps: Arrange) -> Arrange:
    """One after the other."""

    def arrange(folder: Path) -> None:
        for step in steps:
            step(folder)

    return arrange


def space(*steps: Any, **more: Any) -> Arrange:
    """The search space."""
    return text("space.yaml", yaml.safe_dump({"version": 1, "steps": list(steps), **more}))


def task(code: str, factory: str = "mistaken") -> Arrange:
    """A task file with one more function, which the config names."""
    return both(text("mine.py", f"{TASK}\n{code}\n"), config(task=f"mine.py:{factory}"))


def recipe(steps: str, head: str = "version: 1\n") -> Arrange:
    """A recipe for `apply`."""
    return text("recipe.yaml", f"{head}steps: {steps}\n")


APPLY = "apply recipe.yaml --config search.yaml --out out"


def images(data: str = "npz:data.npz", **changes: Any) -> Arrange:
    """A task that is described in the config, on sixteen random images of two classes in an NPZ file."""

    def arrange(folder: Path) -> None:
        save(folder, x=pixels(16), y=np.arange(16) % 2)
        described = {
            "kind": "image_classification",
            "model": "task.py:network",
            "data": data,
            "channels": 1,
            "input_size": 8,
        }
        configure(folder / "search.yaml", task={**described, **changes})

    return arrange


def pixels(count: int) -> np.ndarray[Any, Any]:
    """Random images of 8x8 bytes."""
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def save(folder: Path, **arrays: Any) -> None:
    """The NPZ file of an image task."""
    np.savez(folder / "data.npz", **arrays)


def arrays(**found: Any) -> Arrange:
    """An image task on these arrays."""
    return both(images(), lambda folder: save(folder, **found))


def folders(*names: str) -> Arrange:
    """An image task on a folder with one image in each of these."""

    def arrange(folder: Path) -> None:
        for name in names:
            (folder / "photos" / name).mkdir(parents=True)
            Image.fromarray(pixels(1)[0]).save(folder / "photos" / name / "one.png")

    return both(images("folder:photos"), arrange)


def weights(name: str, write: Callable[[Path], Any]) -> Arrange:
    """An image task with a file of weights."""
    return both(images(weights=name), lambda folder: write(folder / name))


def pickled(path: Path) -> None:
    """A pickle that would make a file if it were loaded."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path.with_name("trapped"),)

    path.write_bytes(pickle.dumps({"weight": Trap()}))


def made(**measurement: Any) -> Arrange:
    """An artifact directory whose checksums hold; entries of its measurement."""

    def arrange(folder: Path) -> None:
        contents = Contents(b"no model", Recipe().to_yaml(), [], {"study": "another", **measurement}, "# A card\n")
        (folder / "made").mkdir()
        for name, data in contents.files().items():
            (folder / "made" / name).write_bytes(data)

    return arrange


CLAIMS = {"size_bytes": 8, "f1": 0.5, "test_f1": 0.5}


def damaged(file: str, data: bytes | None) -> Arrange:
    """An artifact directory with a file that was changed or lost."""

    def arrange(folder: Path) -> None:
        made(quality="f1", measured=CLAIMS)(folder)
        path = folder / "made" / file
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    return arrange


def occupied(folder: Path) -> None:
    """A folder with somebody's notes."""
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "notes.txt").write_text("not to be lost")


def bomb() -> str:
    """A config of 10^12 values in a dozen lines."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(rows)


PLAIN = yaml.safe_dump(CONFIG, sort_keys=False)
HALF_RIGHT = """
def mistaken():
    pixels, labels = split(1, 32)
    return tiny(validation=(pixels, torch.where(torch.arange(32) < 16, labels, (labels + 1) % 4)))
"""
REGRESSION = """
class Regression:
    quality, baseline = "r2", None

    def model(self): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    def split(self, name): return torch.utils.data.TensorDataset(torch.zeros(8, 1, 8, 8), torch.zeros(8, 3))

    def loss(self, output, target): return ((output - target) ** 2).mean()

    def metrics(self, output, target): return {"r2": 0.5}
"""
PERHAPS = """
class Perhaps(Classification):
    def metrics(self, output, target): return {"f1": 0.5}

def mistaken():
    good = tiny()
    return Perhaps(network, good.train, good.validation, good.test, None)
"""

CONFIGS = [
    Case("unknown key", config(serach={}), ("search.yaml:", "serach: unknown key; did you mean 'search'?")),
    Case("unknown nested key", config(search={"trails": 3}), ("search.trails: unknown key; did you mean 'trials'?",)),
    Case("wrong type", config(search={"trials": "many"}), ("search.yaml:", "search.trials: 'many': ", "integer")),
    Case("negative budget", config(budget={"size": "-1 KB"}), ("budget.size: '-1 KB': ", "greater than 0")),
    Case("zero budget", config(budget={"speedup": 0}), ("budget.speedup: 0: ", "greater than 0")),
    Case("a limit twice", config(budget={"size": "1 KB", "size_bytes": 1}), ("budget: ", "keep one")),
    Case("unknown unit", config(budget={"size": "6 XB"}), ("budget.size: '6 XB': unknown unit 'XB'; known: b, kb",)),
    Case("no unit", config(search={"timeout": 10}), ("search.timeout: 10: needs a unit; write for example '10m'",)),
    Case("unknown sampler", config(search={"sampler": "tpee"}), ("search.sampler: ", "did you mean 'tpe'?")),
    Case("unknown search space", config(search_space="hybird"), ("search_space: 'hybird'", "did you mean 'hybrid'?")),
    Case("unknown runtime", config(target={"runtime": "tensorrt"}), ("target.runtime: 'tensorrt': ", "onnxruntime")),
    Case("study that is no file name", config(study="../up"), ("search.yaml:1: study: '../up': ",)),
    Case("storage in no folder", config(storage="sqlite:///no/a.db"), ("storage: ", "folder no is not there: make it")),
    Case("storage without a URL", config(storage="a.db"), ("storage: 'a.db': ", "needs a URL, such as sqlite:///")),
    Case(
        "storage of a kind that nobody knows", config(storage="magic://a"), ("storage magic://a: cannot be opened: ",)
    ),
    Case(
        "storage that is no database",
        both(text("autocompress.db", "notes, many notes, and no database at all"), config()),
        ("storage sqlite:///autocompress.db: cannot be opened: ",),
    ),
    Case(
        "tracking store in no folder",
        config(tracking={"uri": "sqlite:///no/a.db"}),
        ("tracking: ", "folder no is not there: make it"),
    ),
    Case("tracking store without a URL", config(tracking={"uri": "mlruns"}), ("tracking.uri needs a URL",)),
    Case("config that is not there", nothing, ("serch.yaml: no such config file",), "search serch.yaml"),
    Case("config that is a folder", nothing, (": no such config file or bundled",), "search ."),
    Case("time limit that is no time", nothing, ("search.timeout: 'soon': ", "'10m'"), f"{SEARCH} --timeout soon"),
    Case("no trials", nothing, ("search.trials: 0: ", "greater than or equal to 1"), f"{SEARCH} --trials 0"),
    Case("no workers", nothing, ("search.workers: 0: ",), f"{SEARCH} --workers 0"),
    Case("plan of a bad config", config(search={"trials": -1}), ("search.trials: -1: ",), "plan search.yaml"),
]
DOCUMENTS = [
    Case("duplicate key", text("search.yaml", PLAIN + "study: b\n"), ("key 'study' stands twice: keep one",)),
    Case(
        "python object",
        text("search.yaml", PLAIN + "budget: !!python/object/apply:os.mkdir [made]\n"),
        ("tag 'tag:yaml.org,2002:python/object/apply:os.mkdir' is not allowed: configs hold plain values only",),
    ),
    Case(
        "alias bomb", text("search.yaml", bomb()), ("search.yaml: aliases unfold to more than", "write the values out")
    ),
    Case("empty file", text("search.yaml", ""), ("search.yaml: is empty: write a mapping",)),
    Case("list", text("search.yaml", "- study: tiny\n"), ("search.yaml: holds a list: write a mapping",)),
    Case("broken YAML", text("search.yaml", "study: [tiny\nb: 1\n"), ("search.yaml:2: is not plain YAML: ",)),
    Case("key that is no word", text("search.yaml", PLAIN + "5: x\n"), ("key '5': a key must be a word",)),
    Case("value that its tag cannot hold", text("search.yaml", PLAIN + "x: !!int abc\n"), ("search.yaml: ", "'abc'")),
    Case(
        "no text",
        lambda folder: (folder / "search.yaml").write_bytes(b"\xff\xfe\x00"),
        ("search.yaml: cannot be read as UTF-8 text",),
    ),
]
SPACES = [
    Case("unknown technique", space("svdd"), ("space.yaml:", "unknown technique 'svdd'; did you mean 'svd'?")),
    Case(
        "order that cannot be",
        space("int8_static", "channel_pruning"),
        ("space.yaml:", "'channel_pruning' follows step 1 'int8_static': prune and factorize before quantizing"),
    ),
    Case("unknown setting", space({"technique": "svd", "order": 3}), ("svd has no setting 'order'; known: energy",)),
    Case("value out of range", space({"technique": "svd", "energy": [2]}), ("energy: 2: input should be less than 1",)),
    Case(
        "epochs by halves", space({"technique": "finetune", "epochs": {"low": 1, "high": 3, "step": 0.5}}), ("1.5: ",)
    ),
    Case("start outside", space("svd", start=[{"svd.energy": 0.1}]), ("start.0: svd.energy: 0.1 is not in the space",)),
    Case("space of nothing", text("space.yaml", "version: 1\nsteps: []\n"), ("space.yaml:2: steps: []: write a list",)),
]
RECIPES = [
    Case(
        "order that cannot be in a recipe",
        recipe("[int8_static, channel_pruning]"),
        ("recipe.yaml:2: steps: step 2 'channel_pruning' follows step 1 'int8_static': prune and factorize before",),
        APPLY,
    ),
    Case("recipe of a newer version", recipe("[]", "version: 2\n"), ("version: 2 is newer", "upgrade"), APPLY),
    Case("ratio above 1", recipe("[{technique: channel_pruning, ratio: 1.5}]"), ("ratio: 1.5: ", "less than 1"), APPLY),
    Case("ratio of 0", recipe("[{technique: channel_pruning, ratio: 0}]"), ("ratio: 0: ", "greater than 0"), APPLY),
    Case("unknown technique in a recipe", recipe("[float61]"), ("did you mean 'float16'?",), APPLY),
    Case("unknown setting in a recipe", recipe("[{technique: svd, enrgy: 0.5}]"), ("did you mean 'energy'?",), APPLY),
    Case("recipe that is not there", nothing, ("recipe.yaml: no such file: check the path",), APPLY),
    Case("recipe that is a word", recipe("svd"), ("recipe.yaml:2: steps: 'svd': write a list of steps",), APPLY),
    Case(
        "apply over notes",
        both(recipe("[]"), occupied),
        ("mine: holds other files",),
        APPLY.replace("--out out", "--out mine"),
    ),
]
TASKS = [
    Case("task file that is not there", config(task="tsk.py:tiny"), ("task: ", "tsk.py: no such file: check the path")),
    Case("task without a factory", config(task="task.py"), ("task: 'task.py': write file.py:factory",)),
    Case("task that is a number", config(task=5), ("search.yaml:", "task: 5: ")),
    Case("factory that is missing", config(task="task.py:tinny"), ("has no 'tinny': did you mean 'tiny'?",)),
    Case("factory that is no function", task("mistaken = 5"), ("is a int: name a function or class",)),
    Case("module that is not installed", config(task="nowhere.task:f"), ("nowhere.task: no module 'nowhere'",)),
    Case(
        "task file that is no Python", both(text("task.py", "def tiny(:\n"), config()), ("cannot be imported: Syntax",)
    ),
    Case(
        "factory that raises",
        task("def mistaken(): raise ValueError('no data here\\nnor there')"),
        ("task mine.py:mistaken: raised ValueError: no data here", "nor there"),
    ),
    Case("factory that exits", task("def mistaken(): sys.exit(7)\nimport sys"), ("raised SystemExit: 7",)),
    Case("task file that exits", task("import sys\nsys.exit()"), ("mine.py: cannot be imported: SystemExit",)),
    Case("factory that needs arguments", task("def mistaken(folder): pass"), ("raised TypeError: ", "'folder'")),
    Case(
        "factory that returns something else",
        task("def mistaken(): return network()"),
        ("it returned a Sequential without quality, ", "return a Task"),
    ),
    Case(
        "empty split",
        task("def mistaken(): return tiny(test=(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)))"),
        ("split 'test' is empty: every split needs at least one example",),
    ),
    Case(
        "label outside the classes",
        task("def mistaken(): return tiny(train=(torch.zeros(3, 1, 8, 8), torch.tensor([0, 4, 1])))"),
        ("split 'train' holds label 4 but the model has 4 outputs: labels go from 0 to 3",),
    ),
    Case(
        "negative label",
        task("def mistaken(): return tiny(test=(torch.zeros(3, 1, 8, 8), torch.tensor([0, -1, 1])))"),
        ("split 'test' holds label -1 ",),
    ),
    Case(
        "labels that are no integers",
        task("def mistaken(): return tiny(train=(torch.zeros(3, 1, 8, 8), torch.zeros(3, 4)))"),
        ("split 'train' has targets torch.float32 of shape (3, 4)", "one integer class"),
    ),
    Case(
        "NaN in the data",
        task(
            "def mistaken():\n    x = torch.zeros(9, 1, 8, 8)\n    x[5, 0, 3, 3] = float('nan')\n"
            "    return tiny(train=(x, torch.zeros(9, dtype=torch.long)))"
        ),
        ("split 'train' holds NaN or infinity, first in example 5: clean the data",),
    ),
    Case(
        "fewer labels than inputs",
        task("def mistaken(): return tiny(train=(torch.zeros(9, 1, 8, 8), torch.zeros(8, dtype=torch.long)))"),
        ("split 'train' has 9 inputs but 8 targets: give one each",),
    ),
    Case(
        "model that does not take the data",
        task("def mistaken(): return tiny(lambda: nn.Sequential(nn.Flatten(), nn.Linear(63, 4)))"),
        ("the model does not take the data's inputs of shape (1, 8, 8): ",),
    ),
    Case(
        "model whose output is an image",
        task("def mistaken(): return tiny(lambda: nn.Conv2d(1, 4, 3))"),
        ("the model's output has shape (2, 4, 6, 6): classification needs (batch, classes)",),
    ),
    Case(
        "output that does not fit the loss",
        task(REGRESSION, "Regression"),
        ("it got the model's output (8, 4) and targets (8, 3)",),
    ),
    Case("quality that nobody measures", task(PERHAPS), ("task.quality is 'accuracy', not among task.metrics()",)),
    Case(
        "model that is none",
        task("def mistaken(): return tiny(lambda: None)"),
        ("returned a NoneType: return a torch",),
    ),
]
DATA = [
    Case(
        "task without a kind",
        config(task={"model": "task.py:network"}),
        ("search.yaml:", "add `kind:` (audio_classification,"),
    ),
    Case("unknown kind", images(kind="image_clasification"), ("task.kind: unknown", "did you mean 'image_")),
    Case("unknown key of a task", images(wieghts="a.pt"), ("task.wieghts: unknown key; did you mean 'weights'?",)),
    Case("images of no size", images(input_size=0), ("task.input_size: 0: ", "greater than or equal to 8")),
    Case("shares past 1", images(split={"validation": 0.5, "test": 0.5}), ("task.split: ", "their sum less than 1")),
    Case("data folder that is not there", images("folder:photos"), ("task.data: ", "photos: no such folder: check")),
    Case("data file that is not there", images("npz:other.npz"), ("other.npz: no such file: check the path",)),
    Case("folder that is a file", images("folder:data.npz"), ("task.data: ", "data.npz: is a file: name a folder")),
    Case("train without test", folders("train/cat", "val/cat"), ("has train/ but not both val/ and test/: add them",)),
    Case("a single class", folders("cat"), ("photos has 1 class folders: it needs one folder a class, two or more",)),
    Case(
        "class of one split only",
        folders("train/cat", "train/dog", "val/cat", "test/owl"),
        ("test/owl: is no class of the training set (cat, dog)",),
    ),
    Case(
        "unreadable image",
        both(folders("cat", "dog"), text("photos/dog/two.png", "not a picture")),
        ("photos/dog/two.png: is not a readable image", "remove or replace it"),
    ),
    Case(
        "two unreadable images",
        both(folders("cat", "dog"), text("photos/cat/one.png", "no"), text("photos/dog/two.png", "not a picture")),
        ("photos/cat/one.png: is not a readable image", "remove or replace it; likewise ", "photos/dog/two.png"),
    ),
    Case(
        "class folders without images",
        both(images("folder:photos"), lambda folder: [(folder / "photos" / n).mkdir(parents=True) for n in "ab"]),
        ("photos holds no images (.bmp, ",),
    ),
    Case("model misspelt", images(model="torchvision:resnt18", channels=3), ("no model 'resnt18'", "'resnet18'")),
    Case("model without a source", images(model="resnet18"), ("task.model: 'resnet18': ",)),
    Case("NPZ without labels", arrays(x=pixels(4)), ("data.npz lacks x_train, ", "store x and y, or x_train, y_train")),
    Case(
        "NPZ with a pickle", arrays(x=np.array([{}], object), y=np.zeros(1)), ("cannot be read as NPZ without pickles",)
    ),
    Case(
        "NPZ with fewer labels",
        arrays(x=pixels(16), y=np.arange(12) % 2),
        ("x and y hold 16 examples but 12 labels: store one each",),
    ),
    Case("file that is no NPZ", both(images(), text("data.npz", "words")), ("data.npz: cannot be read as NPZ",)),
    Case("weights that are not there", images(weights="w.pt"), ("weights: ", "w.pt: no such file: check the path")),
    Case("pickle as weights", weights("w.pt", pickled), ("w.pt: ", "save model.state_dict() with safetensors")),
    Case(
        "whole model as weights",
        weights("w.pt", lambda path: torch.save(torch.nn.Linear(64, 4), path)),
        ("w.pt: holds pickled objects, which could run code: save model.state_dict() with safetensors",),
    ),
    Case(
        "weights of another shape",
        weights(
            "w.safetensors", lambda path: save_file({"1.weight": torch.zeros(4, 63), "1.bias": torch.zeros(4)}, path)
        ),
        ("weights: w.safetensors: do not fit the model: size mismatch for 1.weight",),
    ),
    Case(
        "weights of another model",
        weights("w.safetensors", lambda path: save_file({"conv.weight": torch.zeros(4, 1, 3, 3)}, path)),
        ("weights: w.safetensors: do not fit the model: Missing key(s)",),
    ),
    Case(
        "words as weights",
        weights("w.safetensors", lambda path: path.write_text("words")),
        ("w.safetensors: cannot be",),
    ),
]
BASELINES = [
    Case(
        "baseline below the accuracy limit",
        both(
            text("mine.py", TASK + HALF_RIGHT),
            named("mine.yaml", study="mine", task="mine.py:mistaken", budget={"accuracy": 0.9}),
        ),
        ("budget.accuracy: asks for accuracy of at least 0.9 but the uncompressed model has 0.5", "lower the limit"),
        "search mine.yaml --executor inline",
        studied=True,
        measures=True,
    ),
    Case(
        "unknown objective",
        named("b.yaml", study="b", objectives=["size_bytes", "acuracy"]),
        ("b.yaml:", "objectives.1: 'acuracy' is not measured; did you mean 'accuracy'?"),
        "search b.yaml --executor inline",
    ),
    Case(
        "limit on what nobody measures",
        named("c.yaml", study="c", budget={"metrics": {"luck": 0.5}}),
        ("c.yaml:", "budget.metrics.luck: the task does not measure 'luck'; known: "),
        "search c.yaml --executor inline",
    ),
]
STUDIES = [
    Case("study that exists", nothing, ("study 'tiny' is in ", "add --resume to go on with it"), SEARCH, studied=True),
    Case(
        "study of another config",
        named("other.yaml", objectives=["size_bytes", "accuracy"]),
        ("study 'tiny' in ", "was begun with another config: ", "choose another `study:` name"),
        "search other.yaml --resume",
        studied=True,
    ),
    Case(
        "study of another task file",
        both(named("other.yaml", task="twin.py:tiny"), text("twin.py", TASK)),
        ("was begun with another config, code: ",),
        "search other.yaml --resume",
        studied=True,
    ),
    Case("unknown study", nothing, ("no study 'tny' in ", "did you mean 'tiny'?"), "front tny", studied=True),
    Case("unknown study to show", nothing, ("did you mean 'tiny'?",), "show tny 0", studied=True),
    Case("unknown study to export", nothing, ("did you mean 'tiny'?",), "export tny --out new", studied=True),
    Case("study where there is none", nothing, ("no study 'tiny' in", "run `autocompress search` first"), "front tiny"),
    Case(
        "unknown trial", nothing, ("has no finished trial 9: finished trials go up to 0",), "show tiny 9", studied=True
    ),
    Case("negative trial", nothing, ("has no finished trial -1: ",), "show tiny -- -1", studied=True),
    Case(
        "unknown trial to export",
        nothing,
        ("study 'tiny' has no finished trial 9: ",),
        "export tiny --trial 9 --out new",
        studied=True,
    ),
    Case(
        "trial and pick",
        nothing,
        ("--trial and --pick both choose a trial: give one of them",),
        "export tiny --trial 0 --pick knee --out new",
        studied=True,
    ),
    Case(
        "export over notes",
        occupied,
        ("mine: holds other files than an artifact: choose a new or empty folder",),
        "export tiny --out mine",
        studied=True,
    ),
    Case(
        "export over a file", nothing, ("task.py: is a file: name a folder",), "export tiny --out task.py", studied=True
    ),
    Case("storage that is notes", text("a.db", "notes " * 99), ("cannot be opened",), "list --storage sqlite:///a.db"),
    Case("interface of no study", nothing, ("no tracked study in ", "run a search first, or give --uri"), "ui"),
]
ARTIFACTS = [
    Case("no folder", nothing, ("made: no such folder: name an artifact directory",), "verify made"),
    Case(
        "folder that is no artifact", occupied, ("mine: has no SHA256SUMS: it is no artifact directory",), "verify mine"
    ),
    Case("damaged model", damaged("model.onnx", b"no modeL"), ("model.onnx: differs from SHA256SUMS",), "verify made"),
    Case("damaged recipe", damaged("recipe.yaml", b""), ("recipe.yaml: differs from SHA256SUMS",), "verify made"),
    Case(
        "lost measurement",
        damaged("measurement.json", None),
        ("measurement.json: is missing: export it",),
        "verify made",
    ),
    Case("damaged measurement", damaged("measurement.json", b"[]"), ("measurement.json: differs from",), "verify made"),
    Case("damaged checksums", damaged("SHA256SUMS", b"\xff"), ("made: has no SHA256SUMS",), "verify made"),
    Case("cut checksums", damaged("SHA256SUMS", b""), ("SHA256SUMS does not list model.onnx",), "verify made"),
    Case("file that is no model", made(quality="f1", measured=CLAIMS), ("model.onnx", "cannot be "), "verify made"),
    Case(
        "no measurement", made(measured={"size_bytes": 1}), ("measurement.json: holds no measurement",), "verify made"
    ),
    Case(
        "measurement of words",
        made(quality="f1", measured={**CLAIMS, "f1": "good"}),
        ("measured.f1: 'good': input should be a valid number",),
        "verify made",
    ),
]
CASES = [*CONFIGS, *DOCUMENTS, *SPACES, *RECIPES, *TASKS, *DATA, *BASELINES, *STUDIES, *ARTIFACTS]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished study `tiny` of one trial."""
    folder = make_project(tmp_path_factory.mktemp("studied"))
    assert run(folder, "search", "search.yaml", "--executor", "inline", "--trials", "1").code == 0
    return folder


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest, but for what Python compiled."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_refused_in_one_line_and_nothing_is_started(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue("studied") if case.studied else make_project(tmp_path)
    case.arrange(folder)
    before = files(folder)
    ran = run(folder, *case.command.split())
    check(ran, case.line)
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    new = set(after) - set(before)
    assert all(name.startswith(".autocompress/") for name in new) if case.measures else not new
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def check(ran: Ran, expected: tuple[str, ...]) -> None:
    """Exit code 2, and one line of error that is the last."""
    lines = ran.err.splitlines()
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert all(line.startswith(PROGRESS) for line in lines[:-1])
    for part in expected:
        assert part in lines[-1]


def test_names_of_cases_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
