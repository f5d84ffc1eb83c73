"""What do lightweight networks come to, from scratch and distilled? Writes results.csv and README.md's table.

Every network of the step `architecture` at three widths takes the place of a ResNet-18 on two sets of 5,000 digits and
is trained on the classes alone and on the ResNet-18's outputs, from the same weights, by as many epochs. A row that is
there is not measured again, so that a run that was ended goes on.

Usage: python experiments/students/run.py [--quick] [NETWORK or SET ...]   (324 rows, each a few minutes of one core)
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from report import END, START, table
from torch.utils.flop_counter import FlopCounterMode

from autocompress.config import Train
from autocompress.outcome import Baseline, Candidate, Completed
from autocompress.tasks import TaskReference, load_task, refer
from autocompress.tasks.examples import example_inputs
from autocompress.techniques import recipe_from_data
from autocompress.techniques.students.architecture import NETWORKS
from autocompress.trial.baseline import make_baseline
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import TrialSpec, confirm, measure, prepare

HERE = Path(__file__).parent
DATA, WIDTHS, SEEDS, EPOCHS = ("mnist5k", "mnist5k_hard"), (0.125, 0.25, 0.5), 3, 8
QUICK = ("squeezenet", "mobilenet_v1")
TRAININGS = {"scratch": 0.0, "distilled": 0.7}  # the share of the teacher in the loss
Row = dict[str, Any]


def main(named: list[str]) -> None:
    """Measure what is missing and write the table."""
    quick = "--quick" in named
    networks = [name for name in named if name in NETWORKS] or list(QUICK if quick else NETWORKS)
    folder = Path(tempfile.mkdtemp()) if quick else HERE
    path = folder / "results.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    asked = tuple(name for name in DATA if name in named) or DATA
    data, widths, seeds, epochs = (("few",), (0.25,), 2, 1) if quick else (asked, WIDTHS, SEEDS, EPOCHS)
    for row in measured(networks, data, widths, seeds, epochs, {row["case"]: row for row in rows}):
        rows.append(row)
        print(f"{row['case']}: {row['size_bytes']:,} bytes, test accuracy {row['test_accuracy']:.3f}", flush=True)
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
    text = table(pd.read_csv(path))
    if quick:
        print(text)
        return
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}{text}{END}{rest.split(END)[1]}")


def measured(
    networks: list[str],
    data: tuple[str, ...],
    widths: tuple[float, ...],
    seeds: int,
    epochs: int,
    known: dict[str, Row],
) -> Iterator[Row]:
    """The rows that are not known, seed by seed, so that whatever is there is of all networks and data alike."""
    references = {name: refer(f"tasks.py:{name}", HERE) for name in data}
    wanted = itertools.product(range(seeds), widths, data, networks, TRAININGS)
    cases = {f"{row[2]}, {row[3]} {row[1]:g}, {row[4]}, seed {row[0]}": row for row in wanted}
    cases = {case: row for case, row in cases.items() if case not in known}
    baselines = {
        name: make_baseline(references[name], seed=0) for name in data if any(r[2] == name for r in cases.values())
    }
    for name, baseline in baselines.items():
        if f"{name}, baseline" not in known:
            test = confirm(baseline.onnx, references[name])
            yield {"case": f"{name}, baseline", "data": name, "network": "ResNet-18", **_kept(baseline.metrics | test)}
    for case, (seed, width, name, network, training) in cases.items():
        made = {"network": network, "width": width}
        yield {"case": case, "data": name, **student(references[name], baselines[name], made, training, seed, epochs)}


def student(reference: TaskReference, baseline: Baseline, made: Row, training: str, seed: int, epochs: int) -> Row:
    """A network in the place of the ResNet-18, trained, exported and measured as in a search."""
    train = {"technique": "distill", "epochs": epochs, "learning_rate": 0.002, "alpha": TRAININGS[training]}
    recipe = recipe_from_data({"version": 1, "steps": [{"technique": "architecture", **made}, train]})
    # Narrow and depthwise convolutions train up to 1.7 times as fast with channels last.
    spec = TrialSpec(0, recipe.to_data(), reference, seed=seed, how=Train(channels_last=True))
    candidate = prepare(spec, baseline)
    assert isinstance(candidate, Candidate), candidate
    assert candidate.decisions[0]["network"] == made["network"]  # and was not left out as too large
    result = measure(candidate, spec, baseline)
    assert isinstance(result, Completed), result
    task = load_task(reference)
    module = rebuild(task.model(), recipe, candidate.decisions, candidate.weights)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*(tensor[:1] for tensor in example_inputs(task)))
    found = {**result.metrics, **confirm(candidate.onnx, reference), "macs": counter.get_total_flops() // 2}
    return {**made, "training": training, "seed": seed, **_kept(found), "seconds": candidate.seconds["train"]}


def _kept(metrics: dict[str, float]) -> Row:
    names = ("size_bytes", "params", "macs", "compression_ratio", "latency_ms", "speedup", "accuracy", "test_accuracy")
    return {name: metrics[name] for name in names if name in metrics}


if __name__ == "__main__":
    main(sys.argv[1:])
