"""What are the bytes of a small file? Writes parts.csv and its table in README.md.

Usage: python experiments/deep_compression/parts.py [CASE]   (makes the recipe of run.py on its first seed)
"""

import sys
from collections import Counter
from pathlib import Path

import onnx
import pandas as pd
from onnx import TensorProto
from run import CASES, HERE

from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import set_up
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec, prepare

CASE = "4, 5 and 18 channels, share pairs"
BEGIN, END = "<!-- parts -->", "<!-- parts end -->"
DECODER = "p"  # the domain of the functions that decode
SYMBOLS = (TensorProto.UINT4, TensorProto.UINT8)
WHAT = ["which code or value each weight has", "codes and values", "biases and weights that share nothing",
        "operators of the graph", "decoding function", "its calls, and casts", "shapes",
        "inputs, outputs and framing"]  # fmt: skip


def made(case: str) -> bytes:
    """The file of a case, on its first seed."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    recipe = recipe_from_data({"version": 1, "steps": CASES[case]})
    spec = TrialSpec(0, recipe.to_data(), setup.reference, 0, cache=str(setup.files.stages))
    candidate = prepare(spec, obtain_baseline(setup, InlineExecutor()))
    assert isinstance(candidate, Candidate), candidate
    return candidate.onnx


def parts(data: bytes) -> dict[str, int]:
    """Every byte of a file by what it is for."""
    model, found = onnx.load_from_string(data), Counter(dict.fromkeys(WHAT, 0))
    calls = [node for node in model.graph.node if node.domain == DECODER]
    books = {node.input[1] for node in calls if len(node.input) == 3}
    for tensor in model.graph.initializer:
        found[_what(tensor, books)] += len(_framed(tensor))
    for node in model.graph.node:
        beside = node.domain == DECODER or node.op_type == "Cast"
        found[WHAT[5] if beside else WHAT[3]] += len(_framed(node))
    found[WHAT[4]] = sum(len(_framed(function)) for function in model.functions)
    found[WHAT[7]] = len(data) - sum(found.values())
    return dict(found)


def _what(tensor: TensorProto, books: set[str]) -> str:
    if tensor.data_type in SYMBOLS:
        return WHAT[0]
    if tensor.name in books:
        return WHAT[1]
    return WHAT[6] if tensor.data_type == TensorProto.INT64 else WHAT[2]


def _framed(message: onnx.TensorProto | onnx.NodeProto | onnx.FunctionProto) -> bytes:
    """A part as it is in what holds it: with a tag and its length, of two bytes from 128 on."""
    data = message.SerializeToString()
    return bytes(2 if len(data) < 128 else 3) + data


def main() -> None:
    """Take the file apart and write what it holds."""
    case = sys.argv[1] if len(sys.argv) > 1 else CASE
    data = made(case)
    rows = pd.DataFrame([{"bytes": count, "what": what} for what, count in parts(data).items() if count])
    rows.to_csv(HERE / "parts.csv", index=False)
    lines = [f"{len(data):,} bytes, {case}, seed 0:", "", "| bytes | what |", "|---|---|"]
    lines += [f"| {row['bytes']:,} | {row['what']} |" for row in rows.to_dict("records")]
    readme = Path(HERE / "README.md")
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
