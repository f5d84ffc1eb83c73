"""The model card of an artifact: what it is, how to run it, what was measured, and how its inputs are made."""

import json
from typing import Any

from ..artifacts.sessions import RUNTIMES
from ..recipe import Recipe

ORT = """import numpy as np, onnxruntime as ort
session = ort.InferenceSession("model.onnx", providers=["{provider}"])
feed = {{feed}}
output = session.run(None, feed)[0]"""
OPENVINO = """import numpy as np, onnx, openvino as ov
from onnx.inliner import inline_local_functions
plain = inline_local_functions(onnx.load("model.onnx"))  # OpenVINO knows no functions in a file
core = ov.Core()
precision = {{"INFERENCE_PRECISION_HINT": "f32"}}  # it would take bfloat16 where it can
session = core.compile_model(core.read_model(plain.SerializeToString()), "CPU", precision)
feed = {feed}
output = session(feed)[0]"""
SESSIONS = {
    "onnxruntime-cpu": ORT.format(provider="CPUExecutionProvider"),
    "onnxruntime-cuda": ORT.format(provider="CUDAExecutionProvider"),
    "openvino": OPENVINO,
}


def card(
    recipe: Recipe, measurement: dict[str, Any], inputs: dict[str, tuple[list[int], str]], raw: str | None = None
) -> str:
    """The model card: what it is, how to run it, what was measured and where it came from.

    inputs: by name in their order, the shape of one example and its type, such as float32. raw: a raw input as Python
    writes it, where the file comes with what it takes to prepare some.
    """
    target = measurement["target"]
    found, base, quality = measurement["measured"], measurement["baseline"], measurement["quality"]
    given = (f"{json.dumps(name)}: np.zeros({[1, *shape]}, np.{kind})" for name, (shape, kind) in inputs.items())
    feed = f"{{{', '.join(given)}}}"
    steps = "\n".join(f"{index}. `{step}`" for index, step in enumerate(recipe.steps, 1)) or "(none)"
    rows = "\n".join(f"| {name} | {_shown(base.get(name))} | {_shown(found.get(name))} |" for name in (
        "size_bytes", "params", quality, f"test_{quality}", "latency_ms", "speedup"))  # fmt: skip
    beside = "" if raw is None else _raw_text(raw)
    beside += _program_text(recipe) if "pt2_bytes" in measurement else ""
    beside += _devices_text(measurement["devices"]) if "devices" in measurement else ""
    return f"""# Compressed model from study `{measurement["study"]}`

Made by autocompress with this recipe ({recipe.fingerprint}):

{steps}

## Run it

```python
{SESSIONS[target["runtime"]].format(feed=feed)}
print(output.shape)
```
{beside}
## Measured on the exported file

On {measurement["processor"]["name"]} by {RUNTIMES[target["runtime"]].name}, {target["threads"]} thread(s), batch size
{target["batch_size"]}. Validation split unless the name starts with `test_`. The speed-up has the 95%
interval {_shown(found.get("speedup_low"))} to {_shown(found.get("speedup_high"))}.

| metric | uncompressed | this file |
|---|---|---|
{rows}

Inputs are what the task's data yields: apply the same preprocessing. `decisions.json` says what was done to each layer.
{_said(measurement, list(inputs))}"""


def _cut(text: str, most: int = 2000) -> str:
    return text if len(text) <= most else f"{text[:most]} ... (all of it in `measurement.json`)"


def _said(measurement: dict[str, Any], names: list[str], most: int = 20) -> str:
    """Paragraphs on how inputs are made, on what outputs stand for, and on what the metrics do not tell."""
    classes: list[str] = measurement.get("classes", [])
    more = f", ... ({len(classes)} in `measurement.json`)" if len(classes) > most else ""
    shown = ", ".join(f"{index} {name!r}" for index, name in enumerate(classes[:most])) + more
    paragraphs = [f"`{name}`: {_cut(text)}." for name, text in zip(names, measurement.get("inputs", ()), strict=False)]
    paragraphs += [f"Inputs: {measurement['sizes']}."] if "sizes" in measurement else []
    paragraphs += [f"Outputs stand for: {shown}."] if classes else []
    paragraphs += [f"Warning: it {text}." for text in measurement.get("remarks", ())]
    return "".join(f"\n{text}\n" for text in paragraphs)


def _raw_text(raw: str) -> str:
    return f"""
With autocompress installed it takes raw inputs, prepared as in training by what `preparation.json` says:

```python
import autocompress
print(autocompress.load(".").predict({raw}))
```
"""


def _program_text(recipe: Recipe) -> str:
    encoded = ", ".join(f"`{step.technique}`" for step in recipe.steps if step.kind == "encode")
    before = f"before {encoded}, which the ONNX file alone has" if encoded else "which the ONNX file is too"
    return f"""
`model.pt2` is the compressed model for torch, in float: {before}. Like any file that torch loads, it is for those who
trust its maker: `torch.export.load("model.pt2").module()` gives a function of tensors.
"""


def _devices_text(devices: dict[str, int]) -> str:
    *students, last = devices
    return f"""
For several devices: {", ".join(f"`{name}`" for name in students)} each take the inputs of the whole and give
features, and `{last}` takes all of these, in this order, and gives the output.
"""


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
