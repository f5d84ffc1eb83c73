"""How do weights on a grid by rate compare with the coder of the NNC standard (ISO/IEC 15938-17)? Writes nnc.csv.

The weights of the trained LeNet-5, each tensor by itself: squared error, bytes of the weights alone (for ours with
scales, tables and books, without graph and decoding functions) and accuracy on the validation split. The standard's
coder is `nncodec`, which needs a place of its own: pip install --no-deps nncodec numpy.

Usage: python experiments/deep_compression/nnc.py PYTHON_WITH_NNCODEC   (about a minute on one core)
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import numpy_helper
from run import HERE

from autocompress.artifacts.packing import smallest, ways
from autocompress.artifacts.runtime import Model
from autocompress.config import load_config
from autocompress.data import batches
from autocompress.executors import InlineExecutor
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import set_up
from autocompress.techniques import Context, recipe_from_data

Tensors = dict[str, Any]
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
    places = range(-24, -10, 2)
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


def main() -> None:
    """Measure all coders at several qualities."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    model = onnx.load_from_string(baseline.onnx)
    context = Context(setup.task, setup.task.model().eval(), 0)
    batch = next(batches(setup.task.split("validation"), 1000))
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rows = []

    def add(case: str, quality: str, found: Tensors, size: int) -> None:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for tensor in changed.graph.initializer:
            if tensor.name in found:
                tensor.CopyFrom(numpy_helper.from_array(found[tensor.name].reshape(tuple(tensor.dims)), tensor.name))
        outputs = Model(changed.SerializeToString())(*(tensor.numpy() for tensor in batch.inputs))
        error = sum(float(np.square(found[n].reshape(weights[n].shape) - weights[n]).sum()) for n in found)
        noise = error / sum(float(np.square(weights[name]).sum()) for name in found)
        count = sum(found[name].size for name in found)
        accuracy = float((outputs.argmax(1) == batch.targets.numpy()).mean())
        rows.append({"case": case, "quality": quality, "weight_bytes": size, "bits": 8 * size / count,
                     "decibels": -10 * np.log10(noise), "accuracy": accuracy})  # fmt: skip

    for group, rate in itertools.product((0, -1), (0.0, 0.1, 0.2)):
        for bits in (2, 3, 4):
            found, size = by_rate(model, {"bits": bits, "group": group, "rate": rate}, context)
            add(f"low_bit, {'one grid' if group else 'a grid an output'}, rate {rate:g}", f"{bits} bits", found, size)
    chosen = {name: weights[name] for name in found}
    for dependent, price in ((0, 0.2), (1, 0.2)):
        name = f"NNC{', dependent quantization' if dependent else ''}, lambda scale {price:g}"
        for place, found, size in by_nnc(sys.argv[1], chosen, dependent, price):
            add(name, f"qp {place}", found, size)
    pd.DataFrame(rows).to_csv(HERE / "nnc.csv", index=False, float_format="%.5g")
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
