"""How far are packed files from the entropy of their weights? Writes limit.csv beside this file.

LeNet-5, ResNet-20 and MobileNetV2 with random weights, which share 16 values a layer, dense and with 90% zeros. The
bound is the sum over tensors of numbers times the entropy of their symbols, zeros included, and four bytes a value.

Usage: python experiments/deep_compression/limit.py   (about a minute on one core)
"""

import sys
import time
from pathlib import Path

import onnx
import pandas as pd
import torch
from onnx import TensorProto
from run import entropy_bytes

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.measure.latency import measure_latency
from autocompress.techniques import Context, recipe_from_data

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "techniques"))
NETWORKS = ("LeNet-5", "ResNet-20", "MobileNetV2")


def packed_bytes(model: onnx.ModelProto) -> int:
    """The bytes of a packed file that are streams of symbols, values of books, and other stored numbers."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)


def main() -> None:
    """Pack every network twice and write what each file takes."""
    from coverage import example_inputs, task_for  # type: ignore[import-not-found]

    rows = []
    for network in NETWORKS:
        for zeros in (0.0, 0.9):
            task = task_for(network)
            torch.manual_seed(0)
            model = task.model().eval()
            context = Context(task, task.model().eval().requires_grad_(False), 0)
            steps = [{"technique": "weight_pruning", "ratio": zeros, "scope": "layer"}] if zeros else []
            recipe = recipe_from_data({"version": 1, "steps": [*steps, {"technique": "weight_clustering", "bits": 4}]})
            for step in recipe.steps:
                model = step.apply(model, step.decide(model, context))
            example = example_inputs(task, 2)
            exported = export_onnx(model, example)
            small, plain = strip(pack(exported)), strip(exported).SerializeToString()
            data = small.SerializeToString()
            start = time.perf_counter()
            Model(data)
            load = time.perf_counter() - start
            timed = measure_latency(plain, data, tuple(tensor.numpy()[:1] for tensor in example), 3.0)
            bound = entropy_bytes(data)
            rows.append(
                {
                    "case": f"{network}, {zeros:.0%} zeros",
                    "size_bytes": len(data),
                    "bound_bytes": bound,
                    "over_bound": len(data) / bound,
                    "graph_bytes": len(data) - packed_bytes(small),
                    "compression_ratio": len(plain) / len(data),
                    "speedup": timed["speedup"],
                    "speedup_low": timed["speedup_low"],
                    "speedup_high": timed["speedup_high"],
                    "load_seconds": load,
                }
            )
            print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "limit.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
