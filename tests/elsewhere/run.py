"""Techniques on another device than the processor: prints a line for each that fails or comes out otherwise.

Without `--device`, on one that torch takes for a device of its own and that is compiled here.

Usage: python tests/elsewhere/run.py [--device cuda|mps] [MODEL ...]
"""

import argparse
import math
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from autocompress import training
from autocompress.config import Train
from autocompress.errors import TechniqueError
from autocompress.outcome import Candidate
from autocompress.techniques import Technique, registry
from autocompress.testing.models import MODELS
from autocompress.testing.work import carry_out, example_of, quick, task_of
from autocompress.testing.work import given as given_model
from autocompress.trial.baseline import make_baseline
from autocompress.trial.peers import Peers
from autocompress.trial.trial import prepare

sys.path.append(str(Path(__file__).parents[1]))
from plain import reference, trial_spec

NAME = "elsewhere"
# What passes data through a model to decide, and how.
IMPORTANCES = {
    "channel_pruning": ("taylor", "hessian", "conductance"),
    "weight_pruning": ("gradient", "integrated_gradients"),
}


def built(folder: Path) -> Path:
    """The device as a library that torch loads."""
    library = folder / "device.so"
    root, source = Path(torch.__file__).parent, Path(__file__).with_name("device.cpp")
    given = [f"-isystem{root / 'include'}", f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    command = ["c++", "-std=c++20", "-O0", "-fPIC", "-shared", str(source), *given, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def compiled() -> torch.device:
    """The device that is compiled here."""
    with tempfile.TemporaryDirectory() as folder:
        return registered(built(Path(folder)))


def registered(library: Path) -> torch.device:
    """The device, known to torch by a name."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module: Any = types.ModuleType(NAME)
    module.is_available = module.is_initialized = lambda: True
    module.device_count, module.current_device = lambda: 1, lambda: 0
    module._lazy_init = module.init = lambda: None
    module._is_in_bad_fork, module.manual_seed_all = lambda: False, lambda seed: None
    module.get_rng_state, module.set_rng_state = (lambda *_: torch.zeros(1)), (lambda *_: None)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch._register_device_module(NAME, module)
    return torch.device(NAME, 0)


def steps() -> Iterator[Technique]:
    """Every technique that changes a network, and again by each importance that looks at data, and by a scan."""
    for name, kind in sorted(registry().items()):
        if kind.kind != "encode":
            yield quick(kind)
        for importance in IMPORTANCES.get(name, ()):
            yield quick(kind).model_copy(update={"importance": importance})
        if name in IMPORTANCES:
            yield quick(kind).model_copy(update={"ratio": "auto"})


def compared(step: Technique, model: str, place: torch.device) -> str:
    """What is wrong with a step's work there; nothing where it is what the processor does."""
    try:
        wanted, here = carry_out(step, model)
    except TechniqueError:
        return ""
    try:
        with mock.patch.object(training, "device_of", return_value=place), training.training_on(Train(device="cuda")):
            found, there = carry_out(step, model)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    places = {tensor.device.type for tensor in there.state_dict().values()}
    if places - {"cpu"}:
        return f"left on {places}"
    with torch.no_grad():
        before, after = (made(*example_of(model)) for made in (here, there))
    off = float((after - before).abs().max() / before.abs().max())
    return "" if off < 0.01 and alike(found, wanted) else f"outputs off by {off:.3g}, decided {found}, not {wanted}"


def whole(place: torch.device) -> str:
    """What is wrong with a baseline and a trial that are carried out there, rungs and all."""
    prune = {"technique": "channel_pruning", "ratio": 0.5, "importance": "taylor"}
    steps = prune, {"technique": "distill", "epochs": 9, "batch_size": 16}, {"technique": "int8_static"}
    found = []
    for device in ("cpu", "cuda"):
        how = Train(device=device)  # type: ignore[arg-type]
        with mock.patch.object(
            training, "device_of", lambda how: torch.device("cpu") if how == training.ON_CPU else place
        ):
            baseline = make_baseline(reference(), seed=0, how=how)
            made = prepare(trial_spec(*steps, how=how, peers=Peers(("accuracy",))), baseline)
        if not isinstance(made, Candidate):
            return f"on {device}: {made}"
        found.append({"accuracy": baseline.metrics["accuracy"], "rungs": made.rungs, "decided": made.decisions})
    return "" if alike(*found) else f"a trial there: {found}"


def settings(place: torch.device) -> Iterator[str]:
    """What is wrong with trainings there, by each setting."""
    task: Any = task_of("residual")
    several: list[dict[str, Any]] = [
        {"ema": 0.9}, {"patience": 1}, {"clip_norm": 0.5, "accumulate": 2}, {"sharpness": 0.05}, {"block_decay": 0.5},
    ]  # fmt: skip
    for given, channels_last in ((given, last) for given in several for last in (False, True)):
        outputs = []
        for where in (torch.device("cpu"), place):
            model = given_model("structure", "residual")
            how = Train(device="cuda", channels_last=channels_last)
            chosen = training.Training(epochs=3, learning_rate=5e-3, batch_size=16, **given)
            splits = task.split("train"), task.split("validation")
            with mock.patch.object(training, "device_of", return_value=where), training.training_on(how):
                training.fit(model, splits[0], lambda o, b: task.loss(o, b.targets), chosen, 0, None, splits[1])
            with torch.no_grad():
                outputs.append(model(*example_of("residual")))
        off = float((outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max())
        if not off < 0.01:
            yield f"trained with {given}, channels last {channels_last}: outputs off by {off:.3g}"


def alike(found: Any, wanted: Any) -> bool:
    """Whether two decisions are the same but for the last digits of their numbers."""
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(alike(found[key], wanted[key]) for key in found)
    if isinstance(found, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    return math.isclose(found, wanted, rel_tol=1e-3) if isinstance(found, float) else bool(found == wanted)


def main() -> None:
    """Compare all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--device", choices=("cuda", "mps"), help="compare on hardware")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "grad and param do not obey")  # as the compiled one lays out what it computes
    place = torch.device(given.device, 0) if given.device else compiled()
    torch.backends.cudnn.allow_tf32 = False
    found = torch.ones(3, device=place)
    try:
        found + torch.ones(3)
    except RuntimeError:
        pass
    else:
        print("tensors of both places are added")
    for wrong in (whole(place), *settings(place)):
        if wrong:
            print(wrong, flush=True)
    for step in steps():
        for model in given.models or MODELS:
            if wrong := compared(step, model, place):
                print(f"{step} on {model}: {wrong}", flush=True)


if __name__ == "__main__":
    main()
