"""Which technique works on which network? Writes coverage.csv and coverage.md beside this file.

Each technique is applied once to each network with fresh weights, exported, and run in ONNX Runtime. What is written
is how many times smaller the file is, or why the technique refused before anything was trained.

Usage: python experiments/techniques/coverage.py [TECHNIQUE ...] [NETWORK ...]   (over an hour on one core for all)
"""

import itertools
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from networks import CLASSES, NETWORKS

from autocompress import Classification
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.errors import AutocompressError
from autocompress.tasks.examples import example_inputs
from autocompress.techniques import Context, recipe_from_data, registry
from autocompress.trial.stages import pack_weights, rebuild

HERE = Path(__file__).parent
# Fresh weights have flat spectra, which no share of energy cuts: a share of the parameters is asked for. Little data is
# looked at, since nothing is learned here.
LOW_RANK = {"rank": "params", "keep": 0.5}
SETTINGS = {
    "channel_pruning": {"ratio": 0.5, "importance": "l1", "scope": "layer"},
    "weight_pruning": {"ratio": 0.9},
    "sparsify": {"penalty": "l1", "strength": 0.5, "epochs": 8, "batch_size": 8},
    "kronecker": {"terms": 2},
    **dict.fromkeys(("svd", "tucker", "cp", "tensor_train"), LOW_RANK),
}
FAMILIES = ("pruning", "low-rank")


def techniques() -> list[str]:
    """The techniques that change a network's structure or make it sparse."""
    return [name for name, kind in registry().items() if kind.family in FAMILIES]


def task_for(network: str) -> Classification:
    """Sixteen random examples."""
    factory, shape = NETWORKS[network]
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn((16, *shape), generator=generator), torch.arange(16) % CLASSES)
    return Classification(factory, data, data, data, None)


def try_out(technique: str, network: str) -> dict[str, object]:
    """One row: what became of a network under a technique."""
    row: dict[str, object] = {"case": technique, "network": network}
    start = time.perf_counter()
    try:
        row |= measure(technique, network)
    except AutocompressError as error:
        row |= {"outcome": "refused", "reason": str(error)}
    return row | {"seconds": time.perf_counter() - start}


def measure(technique: str, network: str) -> dict[str, object]:
    """Apply, rebuild, export and run. Raises AutocompressError when the technique refuses, or what it made is wrong."""
    task = task_for(network)
    recipe = recipe_from_data({"version": 1, "steps": [{"technique": technique, **SETTINGS.get(technique, {})}]})
    step = recipe.steps[0]
    torch.manual_seed(0)
    model = task.model().eval()
    example = example_inputs(task, 3)
    before = plain_bytes(network)
    torch.manual_seed(0)
    context = Context(task, task.model().eval().requires_grad_(False), 0)
    start = time.perf_counter()
    decision = step.decide(model, context)
    model = step.apply(model, decision)
    structural = time.perf_counter() - start
    if step.kind == "train":
        step.train(model, context)
    model.eval()
    again = rebuild(task.model(), recipe, [decision], pack_weights(model))
    with torch.no_grad():
        assert torch.equal(again(*example), model(*example)), "the recorded decision rebuilds another network"
    exported = export_onnx(model, example)
    check_parity(model, exported, example)
    file = strip(pack(exported)).SerializeToString()
    output = Model(file)(*(tensor.numpy()[:1] for tensor in example))
    assert output.shape == (1, CLASSES)
    assert np.isfinite(output).all()
    ratio = before / len(file)
    return {"outcome": "works", "compression_ratio": ratio, "step_seconds": structural}


def plain_bytes(network: str) -> int:
    """The size of the uncompressed network's file, exported once."""
    if network not in _PLAIN:
        task = task_for(network)
        _PLAIN[network] = len(strip(export_onnx(task.model(), example_inputs(task, 3))).SerializeToString())
    return _PLAIN[network]


_PLAIN: dict[str, int] = {}


def table(rows: pd.DataFrame) -> str:
    """The rows as a table with the refusals below it."""
    names = sorted(rows["case"].unique())
    reasons: dict[str, int] = {}
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for network in (name for name in NETWORKS if name in set(rows["network"])):
        cells = [cell(rows, name, network, reasons) for name in names]
        lines.append(f"| {network} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "# Which technique works on which network\n\n" + "\n".join([INTRODUCTION, "", *lines, "", *notes]) + "\n"


INTRODUCTION = """How many times smaller the file is after one step with the settings of [coverage.py](coverage.py), on
fresh weights; a number in brackets stands for a refusal, with its reason below. Written by
`python experiments/techniques/coverage.py`."""


def cell(rows: pd.DataFrame, name: str, network: str, reasons: dict[str, int]) -> str:
    """What the table says of a pair."""
    found = rows[(rows["case"] == name) & (rows["network"] == network)]
    if found.empty:
        return ""
    row = found.iloc[0]
    if row["outcome"] == "works":
        return f"{row['compression_ratio']:.2f}x"
    return f"({reasons.setdefault(row['reason'], len(reasons) + 1)})"


def main() -> None:
    """Try the techniques that are named, or all, on the networks that are, or all; other rows are kept."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    named = set(sys.argv[1:])
    chosen = [name for name in techniques() if name in named] or techniques()
    networks = [name for name in NETWORKS if name in named] or list(NETWORKS)
    path = HERE / "coverage.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for network, technique in itertools.product(networks, chosen):
        row = try_out(technique, network)
        rows = [r for r in rows if (r["case"], r["network"]) != (technique, network)] + [row]
        print(technique, network, row["outcome"], row.get("compression_ratio", row.get("reason")), flush=True)
        found = pd.DataFrame(rows).sort_values(["case", "network"])
        found.to_csv(path, index=False, float_format="%.4g")
        (HERE / "coverage.md").write_text(table(pd.read_csv(path)))


if __name__ == "__main__":
    main()
