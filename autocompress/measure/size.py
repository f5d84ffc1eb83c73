"""Size of an exported file, in bytes and in numbers."""

import numpy as np
import onnx

from ..artifacts.packing import weights

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def measure_size(data: bytes) -> dict[str, float]:
    """Bytes of the file, and how many numbers, all and nonzero, its weights hold once they are unpacked."""
    model = onnx.load_from_string(data)
    # Scales and zero points belong to the encoding, and ONNX keeps shapes and axes as 64-bit integers.
    encoding = {name for node in model.graph.node if node.op_type in QUANTIZERS for name in node.input[1:]}
    params = nonzero = 0
    for name, values in weights(model):
        if name not in encoding and values.dtype != np.int64:
            params += values.size
            nonzero += int(np.count_nonzero(values.astype(np.float32)))
    return {"size_bytes": len(data), "params": params, "nonzero_params": nonzero}


def compare_size(size: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    """Compression ratio a / a* and space saving (a - a*) / a of the files."""
    ours, theirs = size["size_bytes"], baseline["size_bytes"]
    return {"compression_ratio": theirs / ours, "space_saving": (theirs - ours) / theirs}
