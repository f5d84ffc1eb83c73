"""How do weights on a grid by rate compare with the coder of the NNC standard (ISO/IEC 15938-17)? Writes nnc.csv.

The weights of the trained LeNet-5, each tensor by itself, none trained again: squared error, bytes of the weights alone
(for ours with scales, tables and books, without graph and decoding functions) and accuracy on the validation and test
splits. README.md's second table is of the fewest bits that keep the accuracy on both together. The standard's coder is
`nncodec`, which needs a place of its own: pip install --no-deps nncodec numpy.

Usage: python experiments/deep_compression/nnc.py PYTHON_WITH_NNCODEC   (some three minutes on one core)
"""

import copy
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import numpy_helper
from run import HERE
from safetensors.torch import load

from autocompress.artifacts.packing import smallest, ways
from autocompress.artifacts.runtime import Model
from autocompress.config import load_config
from autocompress.data import batches
from autocompress.executors import InlineExecutor
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import set_up
from autocompress.techniques import Context, recipe_from_data

Tensors = dict[str, Any]
README, START, END = HERE / "README.md", "<!-- nnc -->", "<!-- nnc end -->"
LOST = (0.1, 0.25, 0.5, 1.0)  # points
EVERY = frozenset("bmgfcdehijknopqr")  # decoders
CODE = """
import sys
import numpy as np
from nncodec.extensions.deepCABAC import Decoder, Encoder, HdspMode

given, made, dependent, price = dict(np.load(sys.argv[1])), {}, int(sys.argv[3]), float(sys.argv[4])
off = HdspMode.AlwaysOff, np.array((0, 0), np.int8), 0, 0
for place in map(int, sys.argv[5:]):
    size = 0
    for name, values in given.items():
        codes, coder = np.zeros(values.shape, np.int32), Encoder()
        coder.initCtxModels(10, 0)
        coder.quantLayer(values, codes, dependent, 2, place, price, 10, 0, 0)
        coder = Encoder()
        coder.initCtxModels(11, 0)
        coder.encodeLayer(codes, dependent, 0, 0, 0, 0, np.zeros(len(codes), np.int32), *off)
        stream, codes, found = coder.finish(), np.zeros(values.shape, np.int32), np.zeros(values.shape, np.float32)
        coder = Decoder()
        coder.setStream(stream)
        coder.initCtxModels(11)
        coder.decodeLayer(codes, dependent, 0, 0, 0, *off)
        coder.dequantLayer(found, codes, 2, place, 0)
        made[f"{place} {name}"], size = found, size + len(stream)
    made[f"{place} bytes"] = size
np.savez(sys.argv[2], **made)
"""


def by_nnc(python: str, weights: Tensors, dependent: int, price: float) -> list[tuple[int, Tensors, int]]:
    """For each quantization parameter the weights as the standard's coder gives them back, and its bytes."""
    places = range(-24, -11)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.npz"), Path(folder, "made.npz")
        np.savez(given, **weights)
        arguments = [str(given), str(made), str(dependent), str(price), *map(str, places)]
        subprocess.run([python, "-c", CODE, *arguments], check=True)
        found = dict(np.load(made))
    return [
        (place, {name: found[f"{place} {name}"] for name in weights}, int(found[f"{place} bytes"])) for place in places
    ]


def by_rate(model: onnx.ModelProto, settings: dict[str, Any], context: Context) -> tuple[Tensors, int]:
    """The weights as low_bit stores them, and the bytes that they take."""
    step = recipe_from_data({"version": 1, "steps": [{"technique": "low_bit", **settings}]}).steps[0]
    small = onnx.ModelProto()
    small.CopyFrom(model)
    small = step.apply(small, step.decide(small, context))  # type: ignore[attr-defined]
    stored = {tensor.name: tensor for tensor in small.graph.initializer}
    found, size = {}, 0
    for name in (name.removesuffix(".numbers") for name in stored if name.endswith(".numbers")):
        codes, scales = stored[f"{name}.numbers"], numpy_helper.to_array(stored[f"{name}.scales"])
        found[name] = numpy_helper.to_array(codes).astype(np.float32) * scales.astype(np.float32)
        call = smallest(ways(codes), EVERY)
        size += scales.nbytes + (call.size_bytes if call else len(codes.raw_data))
    return found, size


def weights_of(module: torch.nn.Module) -> Tensors:
    """The weights of a module by name."""
    return {name: weight.detach().numpy() for name, weight in module.named_parameters() if weight.dim() > 1}


def by_gptq(module: torch.nn.Module, settings: dict[str, Any], context: Context) -> tuple[Tensors, int]:
    """The weights as gptq rounds them, and the bytes that they take."""
    step = recipe_from_data({"version": 1, "steps": [{"technique": "gptq", **settings}]}).steps[0]
    small = copy.deepcopy(module)
    small = step.apply(small, step.decide(small, context))  # type: ignore[attr-defined]
    found = weights_of(small)
    calls = (smallest(ways(numpy_helper.from_array(values, name)), EVERY) for name, values in found.items())
    sizes = ((call.size_bytes if call else values.nbytes) for call, values in zip(calls, found.values(), strict=True))
    return found, sum(sizes)


def fewest(rows: pd.DataFrame, whole: float) -> str:
    """For each coder the fewest bits a weight at which no more accuracy is lost than so many points."""
    kinds = {"low_bit": "low_bit", "NNC, l": "NNC", "NNC, d": "NNC, dependent quantization", "gptq, ": "gptq"}
    lines = ["| at most lost | " + " | ".join(kinds.values()) + " |", "|---" * (1 + len(kinds)) + "|"]
    for points in LOST:
        cells = []
        for kind in kinds:
            of = rows[rows["case"].str.startswith(kind) & (rows["both"] >= whole - points / 100 - 1e-9)]
            best = of.loc[of["bits"].idxmin()]
            cells.append(f"{best['bits']:.2f} ({100 * (best['both'] - whole):+.2f})")
        lines.append(f"| {points:g} points | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all coders at several qualities."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    model = onnx.load_from_string(baseline.onnx)
    context = Context(setup.task, setup.task.model().eval(), 0)
    splits = {name: next(batches(setup.task.split(name), 1000)) for name in ("validation", "test")}
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rows = []

    def add(case: str, quality: str, found: Tensors, size: int) -> None:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for tensor in changed.graph.initializer:
            if tensor.name in found:
                tensor.CopyFrom(numpy_helper.from_array(found[tensor.name].reshape(tuple(tensor.dims)), tensor.name))
        run, right = Model(changed.SerializeToString()), {}
        for split, batch in splits.items():
            outputs = run(*(tensor.numpy() for tensor in batch.inputs))
            right[split] = float((outputs.argmax(1) == batch.targets.numpy()).mean())
        error = sum(float(np.square(found[n].reshape(weights[n].shape) - weights[n]).sum()) for n in found)
        noise = error / sum(float(np.square(weights[name]).sum()) for name in found)
        count = sum(found[name].size for name in found)
        rows.append({"case": case, "quality": quality, "weight_bytes": size, "bits": 8 * size / count,
                     "decibels": -10 * np.log10(max(noise, 1e-30)), "accuracy": right["validation"],
                     "test_accuracy": right["test"], "both": sum(right.values()) / 2})  # fmt: skip

    for group, rate in itertools.product((0, -1), (0.0, 0.1, 0.2)):
        for bits in (2, 3, 4):
            found, size = by_rate(model, {"bits": bits, "group": group, "rate": rate}, context)
            add(f"low_bit, {'one grid' if group else 'a grid an output'}, rate {rate:g}", f"{bits} bits", found, size)
    chosen = {name: weights[name] for name in found}
    for dependent, price in ((0, 0.2), (1, 0.2)):
        name = f"NNC{', dependent quantization' if dependent else ''}, lambda scale {price:g}"
        for place, found, size in by_nnc(sys.argv[1], chosen, dependent, price):
            add(name, f"qp {place}", found, size)
    module = setup.task.model().eval()
    module.load_state_dict(load(baseline.weights))
    stored = {  # the names of the weights in the file
        name: next(
            n
            for n, known in weights.items()
            if known.size == values.size and np.array_equal(known.ravel(), values.ravel())
        )
        for name, values in weights_of(module).items()
    }
    for rate, step in itertools.product((0.0, 0.01, 0.02), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)):
        found, size = by_gptq(module, {"step": step, "rate": rate}, Context(setup.task, module, 0))
        add(f"gptq, rate {rate:g}", f"step {step:g}", {stored[name]: values for name, values in found.items()}, size)
    add("float", "", chosen, sum(values.nbytes for values in chosen.values()))
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "nnc.csv", index=False, float_format="%.5g")
    print(table.to_string())
    before, rest = README.read_text().split(START)
    README.write_text(f"{before}{START}\n{fewest(table, rows[-1]['both'])}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
