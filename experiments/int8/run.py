"""How much faster are files in 8 bits? Writes results.csv and table.md beside this file.

Networks with fresh weights, once in float and once in 8 bits by each technique, timed in pairs in ONNX Runtime on one
thread. Quantization-aware training takes one step only: what the weights are makes no difference to speed.

Usage: python experiments/int8/run.py [TECHNIQUE ...] [NETWORK ...]   (about ten minutes on one core for all)
"""

import itertools
import sys
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import onnx
import pandas as pd
import torch
from torch import nn

from autocompress import Classification, Task
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.errors import AutocompressError
from autocompress.measure.latency import measure_latency
from autocompress.tasks.examples import example_inputs, model_inputs
from autocompress.techniques import Context, Decision, Technique, recipe_from_data
from autocompress.trial.worker import Clock

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "techniques"))
from coverage import CLASSES, task_for  # type: ignore[import-not-found]  # noqa: E402

NETWORKS = ("ResNet-18", "MobileNetV2", "MobileNetV3-small", "SqueezeNet", "ShuffleNetV2", "EfficientNet-B0")
TECHNIQUES: dict[str, dict[str, Any]] = {
    "int8_static": {},
    "int8_dynamic": {},
    "qat": {"bits": 8, "epochs": 1, "batch_size": 16, "learning_rate": 1e-6},
}
SIDES = 64, 224  # of the images
LATENCY_SECONDS = 4.0
COLUMNS = ["case", "network", "side", "size_bytes", "float_bytes", "compression_ratio", "latency_ms", "speedup",
           "speedup_low", "speedup_high", "prepare_seconds", "export_seconds", "stayed_float"]  # fmt: skip


def images_for(network: str, side: int) -> Task:
    """The task with sixteen random images of this height and width."""
    images = torch.randn((16, 3, side, side), generator=torch.Generator().manual_seed(0))
    data = (images, torch.arange(16) % CLASSES)
    task: Any = Classification(task_for(network).model, data, data, data, None)
    return cast(Task, task)


def settled(task: Task) -> nn.Module:
    """The network with fresh weights, whose normalizations have seen the images."""
    torch.manual_seed(0)
    model = task.model()
    with torch.no_grad():
        for _ in range(3):
            model(*example_inputs(task, 16))
    return model.eval()


def quantize(step: Technique, model: nn.Module, task: Task, clock: Clock) -> tuple[onnx.ModelProto, Decision]:
    """The exported file in 8 bits, as a trial makes it, and what was decided."""
    context, example = Context(task, settled(task).requires_grad_(False), 0), example_inputs(task)
    if step.kind == "encode":
        with clock("export"):
            exported = export_onnx(model, example)
        with clock("prepare"):
            decision = step.decide(exported, context)
            return step.apply(exported, decision), decision
    with clock("prepare"):
        decision = step.decide(model, context)
        model = step.apply(model, decision)
    step.train(model, context)
    with clock("export"):
        exported = export_onnx(model.eval(), example)
    check_parity(model, exported, example, step.parity)
    return exported, decision


def try_out(technique: str, network: str, side: int) -> dict[Hashable, Any]:
    """One row: a network's file in 8 bits against the float one, or why the technique refused."""
    row: dict[Hashable, Any] = {"case": technique, "network": network, "side": side}
    task, clock = images_for(network, side), Clock()
    step = recipe_from_data({"version": 1, "steps": [{"technique": technique, **TECHNIQUES[technique]}]}).steps[0]
    assert isinstance(step, Technique)
    plain = strip(export_onnx(settled(task), example_inputs(task))).SerializeToString()
    try:
        exported, decision = quantize(step, settled(task), task, clock)
    except AutocompressError as error:
        return row | {"float_bytes": len(plain), "stayed_float": str(error)}
    with clock("export"):
        data = strip(pack(exported)).SerializeToString()
    timed = measure_latency(plain, data, model_inputs(task, 1), LATENCY_SECONDS)
    sizes = {"size_bytes": len(data), "float_bytes": len(plain), "compression_ratio": len(plain) / len(data)}
    seconds = {f"{name}_seconds": clock.seconds[name] for name in ("prepare", "export")}
    return row | sizes | timed | seconds | {"stayed_float": by_reason(decision["skipped"])}


def by_reason(skipped: dict[str, str]) -> str:
    """How many layers stayed in float for each reason."""
    reasons = list(skipped.values())
    return "; ".join(f"{reasons.count(reason)} layers: {reason}" for reason in dict.fromkeys(reasons))


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown."""
    lines = ["| network | side | technique | smaller | faster (95%) | ms | prepare, s | export, s | in float |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows.to_dict("records"):
        head, stayed = f"| {row['network']} | {row['side']} | {row['case']} |", row["stayed_float"] or "nothing"
        if pd.isna(row["size_bytes"]):
            lines.append(f"{head} refused | | | | | {stayed} |")
            continue
        lines.append(
            f"{head} {row['compression_ratio']:.2f}x | {row['speedup']:.2f}x ({row['speedup_low']:.2f}-"
            f"{row['speedup_high']:.2f}) | {row['latency_ms']:.2f} | {row['prepare_seconds']:.1f} | "
            f"{row['export_seconds']:.1f} | {stayed} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the techniques that are named, or all, on the networks that are, or all; rows that are there are kept."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    named = set(sys.argv[1:])
    techniques = [name for name in TECHNIQUES if name in named] or list(TECHNIQUES)
    networks = [name for name in NETWORKS if name in named] or list(NETWORKS)
    path = HERE / "results.csv"
    kept = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = {(row["network"], row["side"], row["case"]): row for row in kept}
    for key in itertools.product(networks, SIDES, techniques):
        if key in rows:
            continue
        network, side, technique = key
        row = rows[key] = try_out(technique, network, side)
        print(*key, {name: row.get(name) for name in COLUMNS[5:]}, flush=True)
        pd.DataFrame(rows.values()).reindex(columns=COLUMNS).to_csv(path, index=False, float_format="%.5g")
    found = pd.read_csv(path).fillna({"stayed_float": ""})
    (HERE / "table.md").write_text(table(found.sort_values(["network", "side", "case"])))


if __name__ == "__main__":
    main()
