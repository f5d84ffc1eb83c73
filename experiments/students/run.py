"""What do lightweight networks come to, from scratch and distilled?

Every network of the step `architecture` at three widths takes the place of a ResNet-18 on two sets of 5,000 digits and
is trained on the classes alone and on the ResNet-18's outputs, from the same weights, by as many epochs: results.csv,
on an accelerator where there is one. What the file of one that was trained weighs and how long it takes is the same for
all weights: files.csv, measured after one epoch, one by one, beside a ResNet-18 of one epoch. A row that is there
is not measured again, so that a run that was ended goes on: with teachers trained anew, which on another processor are
others, and of which each row has the accuracy. Then writes README.md's table.

Usage: python experiments/students/run.py [train] [files] [NETWORK or SET ...] [--processes N] [--quick]
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from report import END, START, table
from torch.utils.flop_counter import FlopCounterMode

from autocompress.config import Train
from autocompress.outcome import Baseline, Candidate, Completed
from autocompress.tasks import load_task, refer
from autocompress.tasks.examples import example_inputs
from autocompress.techniques import recipe_from_data
from autocompress.techniques.students.architecture import NETWORKS
from autocompress.training import device_of
from autocompress.trial.baseline import make_baseline
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import TrialSpec, confirm, measure, prepare

HERE = Path(__file__).parent
DATA, WIDTHS, SEEDS, EPOCHS = ("mnist5k", "mnist5k_hard"), (0.125, 0.25, 0.5), 3, 8
QUICK = ("squeezenet", "mobilenet_v1")
TRAININGS = {"scratch": 0.0, "distilled": 0.7}  # the share of the teacher in the loss
HOW = Train(channels_last=True)  # narrow and depthwise convolutions train up to 1.7 times as fast so
Row = dict[str, Any]
_baselines: dict[str, Baseline] = {}


class Rows(list[Row]):
    """Rows of a file, which is written anew with each that comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(pd.read_csv(path).to_dict("records") if path.exists() else [])
        self.cases = {row["case"] for row in self}

    def keep(self, row: Row) -> None:
        """Add a row."""
        self.append(row)
        pd.DataFrame(self).to_csv(self.path, index=False, float_format="%.6g")
        print(
            ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()), flush=True
        )


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("named", nargs="*", metavar="NAME", help="train or files, networks or sets; all without")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="trainings at once (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two networks on a tenth of the digits, not kept")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if given.quick else HERE
    networks = [name for name in NETWORKS if name in given.named] or list(QUICK if given.quick else NETWORKS)
    data = ("few",) if given.quick else tuple(name for name in DATA if name in given.named) or DATA
    widths, seeds, epochs = ((0.25,), 2, 1) if given.quick else (WIDTHS, SEEDS, EPOCHS)
    results, files = Rows(folder / "results.csv"), Rows(folder / "files.csv")
    if "files" not in given.named:
        train(
            results, list(itertools.product(widths, range(seeds), data, networks, TRAININGS)), epochs, given.processes
        )
    if "train" not in given.named:
        cases = [(row["data"], row["network"], row["width"]) for row in results if row["network"] in networks]
        time(files, [case for case in dict.fromkeys(cases) if case[0] in data])
    text = table(pd.DataFrame(results), pd.DataFrame(files))
    if given.quick:
        print(text)
        return
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}{text}{END}{rest.split(END)[1]}")


def train(rows: Rows, cases: list[tuple[float, int, str, str, str]], epochs: int, processes: int) -> None:
    """Add the trainings that are missing, width by width, so that what is there is of all networks and seeds alike."""
    wanted = {f"{name}, {network} {width:g}, {training}, seed {seed}": (seed, width, name, network, training)
              for width, seed, name, network, training in cases}  # fmt: skip
    wanted = {case: given for case, given in wanted.items() if case not in rows.cases}
    place = device_of(HOW)
    device = torch.cuda.get_device_name() if place.type == "cuda" else place.type
    baselines = {name: baseline(name) for name in dict.fromkeys(given[2] for given in wanted.values())}
    teachers = {name: made.metrics | confirm(made.onnx, _reference(name)) for name, made in baselines.items()}
    for name, metrics in teachers.items():
        case = f"{name}, baseline"
        if case not in rows.cases:
            rows.keep({"case": case, "data": name, "network": "ResNet-18", **_accuracies(metrics), "device": device})
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_hold, initargs=(baselines,)
    ) as pool:
        trainings = {pool.submit(trained, *given, epochs): case for case, given in wanted.items()}
        failed = []
        try:
            for training in as_completed(trainings):
                case = trainings[training]
                if error := training.exception():  # what is left goes on
                    failed.append(f"{case}: {error!r}")
                    print(failed[-1], flush=True)
                    continue
                seed, width, name, network, how = wanted[case]
                rows.keep({"case": case, "data": name, "network": network, **training.result(), "width": width,
                           "training": how, "seed": seed, "device": device,
                           "teacher": teachers[name]["test_accuracy"]})  # fmt: skip
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failed:
        raise SystemExit("\n".join(["these trainings failed:", *failed]))


def baseline(name: str) -> Baseline:
    """A set's ResNet-18, trained once a run."""
    if name not in _baselines:
        _baselines[name] = make_baseline(_reference(name), seed=0, how=HOW)
    return _baselines[name]


def _hold(baselines: dict[str, Baseline]) -> None:
    """Take the baselines over, and end with the process that trained them."""
    _baselines.update(baselines)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def trained(seed: int, width: float, name: str, network: str, training: str, epochs: int) -> Row:
    """What a network in the place of the ResNet-18 comes to, exported, as in a search."""
    step = {"technique": "distill", "epochs": epochs, "learning_rate": 0.002, "alpha": TRAININGS[training]}
    _, candidate = _prepared(name, network, width, seed, step)
    found = candidate.metrics | confirm(candidate.onnx, _reference(name))
    return _accuracies(found) | {"size_bytes": found["size_bytes"], "seconds": candidate.seconds["train"]}


def time(rows: Rows, cases: list[tuple[str, str, float]]) -> None:
    """Add the files that are missing: their bytes, multiplications and latency."""
    for name in dict.fromkeys(case[0] for case in cases):
        if f"{name}, baseline" not in rows.cases:
            rows.keep({"case": f"{name}, baseline", "data": name, "network": "ResNet-18",
                       **_of_file(baseline(f"{name}_timed").metrics)})  # fmt: skip
    for name, network, width in cases:
        case = f"{name}, {network} {width:g}"
        if case not in rows.cases:
            rows.keep({"case": case, "data": name, "network": network, **timed(name, network, width), "width": width})


def timed(name: str, network: str, width: float) -> Row:
    """The file of a network that was trained for an epoch, beside the ResNet-18's."""
    name = f"{name}_timed"
    spec, candidate = _prepared(name, network, width, 0, {"technique": "finetune", "epochs": 1})
    result = measure(candidate, spec, baseline(name))
    assert isinstance(result, Completed), result
    task = load_task(_reference(name))
    module = rebuild(task.model(), recipe_from_data(spec.recipe), candidate.decisions, candidate.weights)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*(tensor[:1] for tensor in example_inputs(task)))
    return _of_file({**result.metrics, "macs": counter.get_total_flops() // 2})


def _prepared(name: str, network: str, width: float, seed: int, *steps: Row) -> tuple[TrialSpec, Candidate]:
    given = {"technique": "architecture", "network": network, "width": width}
    recipe = recipe_from_data({"version": 1, "steps": [given, *steps]}).to_data()
    spec = TrialSpec(0, recipe, _reference(name), seed=seed, how=HOW)
    candidate = prepare(spec, baseline(name))
    assert isinstance(candidate, Candidate), candidate
    assert candidate.decisions[0]["network"] == network  # and was not left out as too large
    return spec, candidate


def _reference(name: str) -> Any:
    return refer(f"tasks.py:{name}", HERE)


def _accuracies(metrics: Row) -> Row:
    return {name: metrics[name] for name in ("accuracy", "test_accuracy")}


def _of_file(metrics: Row) -> Row:
    names = "size_bytes", "params", "macs", "latency_ms"
    return {name: metrics[name] for name in names if name in metrics}


if __name__ == "__main__":
    main()
