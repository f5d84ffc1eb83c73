"""How much smaller than AlexNet in float is a coded SqueezeNet? Writes results.csv, ladder.png and README.md's table.

AlexNet and SqueezeNet 1.1 with seeded Gaussian weights go through autocompress as they would in a search: steps decide
and apply, the network is exported, packed and stripped. Model files are never kept.

Usage: python experiments/size_ladder/run.py [CASE ...]   (a quarter of an hour on one core, up to 6 GB of memory)
"""

import gc
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import numpy_helper
from report import END, START, bound_bytes, draw, huffman_bytes, table, with_ratios
from torch import nn
from torchvision import models

from autocompress import Classification
from autocompress.artifacts.decoders import DOMAIN
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.measure.latency import measure_latency
from autocompress.measure.size import measure_size
from autocompress.tasks.examples import example_inputs
from autocompress.techniques import Context, recipe_from_data

Array = np.ndarray[Any, Any]
HERE = Path(__file__).parent
CLASSES, IMAGE = 1000, (3, 224, 224)
NETWORKS = {"AlexNet": "alexnet", "SqueezeNet 1.1": "squeezenet1_1"}
# Each layer keeps its share: with fresh weights a global ranking would compare initializations.
PRUNE = {"technique": "weight_pruning", "ratio": 0.67, "scope": "layer"}
CODINGS: dict[str, list[dict[str, Any]]] = {
    "float": [],
    "8 bits": [{"technique": "low_bit", "bits": 8}],
    "6 bits": [{"technique": "low_bit", "bits": 6}],
    "33% kept, 8 bits": [PRUNE, {"technique": "low_bit", "bits": 8}],
    "33% kept, 6 bits": [PRUNE, {"technique": "low_bit", "bits": 6}],
    "33% kept, 6 bits clustered": [PRUNE, {"technique": "weight_clustering", "bits": 6}],
}
# All of SqueezeNet first, which AlexNet in float is compared with; AlexNet's codings take minutes each.
CASES = {f"{name}, {coding}": (name, coding) for name in reversed(NETWORKS) for coding in CODINGS}
RUN = {"AlexNet": ("float", "8 bits"), "SqueezeNet 1.1": tuple(CODINGS)}
TIMED = "33% kept, 6 bits clustered"
LOADS, LATENCY_SECONDS = 5, 20.0


def network(name: str) -> nn.Module:
    """A network with Gaussian weights of He's variance, and biases that are not zero."""
    torch.manual_seed(0)
    model = models.get_model(NETWORKS[name], weights=None, num_classes=CLASSES)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.01)
    return model.eval().requires_grad_(False)


def task_for(name: str) -> Classification:
    """Four random examples."""
    data = (torch.randn((4, *IMAGE), generator=torch.Generator().manual_seed(0)), torch.arange(4))
    return Classification(lambda: network(name), data, data, data, None)


def coded(name: str, steps: list[dict[str, Any]]) -> onnx.ModelProto:
    """A network's file after these steps, not packed yet."""
    task = task_for(name)
    model = task.model()
    context = Context(task, model, 0)
    chosen = recipe_from_data({"version": 1, "steps": steps}).steps if steps else ()
    for step in (step for step in chosen if step.kind == "structure"):
        model = step.apply(model, step.decide(model, context))
    exported = export_onnx(model, example_inputs(task, 2))
    for step in (step for step in chosen if step.kind == "encode"):
        exported = step.apply(exported, step.decide(exported, context))
    return exported


def measure(name: str, coding: str) -> dict[str, object]:
    """One row: sizes, bounds, and what ONNX Runtime makes of the file."""
    start = time.perf_counter()
    plain = coded(name, CODINGS[coding])
    bounds = [(bound_bytes(tensor), huffman_bytes(tensor)) for tensor in arrays(plain)]
    packed = pack(plain)
    used = decoders_of(packed)
    file, twin = (strip(model).SerializeToString() for model in (packed, plain))
    del plain, packed
    row = {
        "case": f"{name}, {coding}",
        "network": name,
        "coding": coding,
        **measure_size(twin),  # packing changes no number, so the file that needs no decoding says how many there are
        "size_bytes": len(file),
        "unpacked_bytes": len(twin),
        "bound_bytes": math.ceil(sum(bound for bound, _ in bounds)),
        "huffman_bytes": math.ceil(sum(size for _, size in bounds)),
        "decoders": used,
    }
    seconds = time.perf_counter() - start
    if coding in RUN[name]:
        row |= run(file, twin, name != "AlexNet")
    if (name, coding) == ("SqueezeNet 1.1", TIMED):
        row |= latency(file, twin)
    return row | {"seconds": seconds}


def arrays(model: onnx.ModelProto) -> Iterator[Array]:
    """The stored tensors of a file that is not packed."""
    return (numpy_helper.to_array(tensor).ravel() for tensor in model.graph.initializer)


def decoders_of(model: onnx.ModelProto) -> str:
    """How the weights of a file are decoded: nested calls by the names of autocompress.artifacts.decoders, counted."""
    calls = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
    parts = {name for node in calls.values() for name in node.input}

    def written(name: str) -> str:
        inner = [written(part) for part in calls[name].input if part in calls]
        return calls[name].op_type + (f"({' '.join(inner)})" if inner else "")

    counts = Counter(written(name) for name in calls if name not in parts)
    return "; ".join(f"{count} {what}" for what, count in counts.most_common()) or "-"


def run(file: bytes, twin: bytes, several: bool) -> dict[str, float]:
    """Load and run a file and its unpacked twin, which must agree to the bit; milliseconds to load."""
    image = torch.randn((1, *IMAGE), generator=torch.Generator().manual_seed(1)).numpy()
    outputs = [Model(source)(image) for source in (file, twin)]
    assert outputs[0].shape == (1, CLASSES)
    assert np.isfinite(outputs[0]).all()
    assert np.array_equal(*outputs), "packing changed the output"
    times: list[list[float]] = [[], []]
    if not several:
        return {}
    for _ in range(LOADS):
        for row, source in zip(times, (file, twin), strict=True):
            start = time.perf_counter()
            Model(source)
            row.append((time.perf_counter() - start) * 1e3)
    return {"load_ms": float(np.median(times[0])), "unpacked_load_ms": float(np.median(times[1]))}


def latency(file: bytes, twin: bytes) -> dict[str, float]:
    """How long a packed file takes for an image, as a ratio to its unpacked twin in paired bursts."""
    image = torch.randn((1, *IMAGE), generator=torch.Generator().manual_seed(1)).numpy()
    found = measure_latency(twin, file, (image,), LATENCY_SECONDS)
    return {
        "latency_ms": found["latency_ms"],
        "latency_ratio": 1 / found["speedup"],
        "latency_ratio_low": 1 / found["speedup_high"],
        "latency_ratio_high": 1 / found["speedup_low"],
    }


def write(rows: list[dict[str, Any]]) -> None:
    """The table as CSV and in README.md, and the figure; nothing before AlexNet in float is there to compare with."""
    order = [f"{name}, {coding}" for name in NETWORKS for coding in CODINGS]
    rows = sorted(rows, key=lambda row: order.index(row["case"]))
    if rows[0]["case"] != order[0]:
        return
    with_ratios(rows).to_csv(HERE / "results.csv", index=False, float_format="%.6g")
    found = pd.read_csv(HERE / "results.csv")
    draw(found, HERE / "ladder.png")
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(before + START + table(found) + END + rest.split(END)[1])


def main() -> None:
    """Measure the cases that are named, or all; other rows of an earlier run are kept."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = HERE / "results.csv"
    rows = pd.read_csv(path).to_dict("records") if sys.argv[1:] and path.exists() else []
    for case in sys.argv[1:] or CASES:
        row = measure(*CASES[case])
        print(f"{case}: {row['size_bytes']:,} bytes, bound {row['bound_bytes']:,}, {row['seconds']:.0f} s, "
              f"{row['decoders']}", flush=True)  # fmt: skip
        rows = [other for other in rows if other["case"] != case] + [row]
        write(rows)
        gc.collect()


if __name__ == "__main__":
    main()
