"""Bounds of coded tensors, and the ladder's rows as a table and a figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autocompress.artifacts.coding import code_lengths

Array = np.ndarray[Any, Any]
FEW = 256  # different values, up to which a tensor is taken for coded
LONGEST = 24  # bits of a code word: more than Huffman's code needs for any of these
START, END = "<!-- table -->\n", "<!-- end -->\n"
INCHES = (7.5, 3.6)


def histogram(values: Array) -> tuple[Array, Array] | None:
    """The different values of a tensor and how often each occurs; None where they are too many for a book."""
    if values.dtype == np.int8:
        counts = np.bincount(values.view(np.uint8), minlength=FEW)
        known = np.flatnonzero(counts)
        return known.astype(np.uint8).view(np.int8), counts[known]
    if len(np.unique(values[: 16 * FEW])) > FEW:
        return None
    known, counts = np.unique(values, return_counts=True)
    return (known, counts) if len(known) <= FEW else None


def bound_bytes(values: Array) -> float:
    """The numbers of a tensor at the entropy of their distribution, and a book of their values; plain if smaller."""
    found = histogram(values)
    if found is None:
        return values.nbytes
    shares = found[1] / len(values)
    entropy = -float((shares * np.log2(shares)).sum())
    return min(values.nbytes, len(values) * entropy / 8 + len(shares) * values.itemsize)


def huffman_bytes(values: Array) -> float:
    """A tensor as Deep Compression stores it (Han et al., 2016, sections 2 to 4), or plain if smaller.

    Huffman codes of the values that are not zero and of gaps of up to 8 bits, books of the values, and 1 byte for the
    length of each code word. Where zeros are few they are values like others.
    """
    found = histogram(values)
    if found is None:
        return values.nbytes
    known, counts = found
    book = len(known) * values.itemsize
    if 4 * counts[known == 0].sum() <= len(values):
        return min(values.nbytes, huffman(counts) + book)
    between = np.diff(np.flatnonzero(values), prepend=-1) - 1
    escapes, rest = np.divmod(between, 255)
    gaps = np.bincount(rest, minlength=256)
    gaps[255] = escapes.sum()
    return min(values.nbytes, huffman(counts[known != 0]) + huffman(gaps[gaps > 0]) + book)


def huffman(counts: Array) -> float:
    """Bytes of symbols that occur so often, in their Huffman code, with its lengths."""
    return float((counts * code_lengths(counts, LONGEST)).sum()) / 8 + len(counts) if len(counts) else 0.0


def with_ratios(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with how much smaller they are than their own network in float, and than AlexNet in float."""
    plain = {row["network"]: row["size_bytes"] for row in rows if row["coding"] == "float"}
    for row in rows:
        row["compression_ratio"] = plain[row["network"]] / row["size_bytes"]
        row["alexnet_ratio"] = plain["AlexNet"] / row["size_bytes"]
        row["bound_ratio"] = row["size_bytes"] / row["bound_bytes"]
    first = ["case", "network", "coding", "size_bytes", "params", "nonzero_params", "compression_ratio",
             "alexnet_ratio", "bound_bytes", "bound_ratio", "huffman_bytes", "unpacked_bytes"]  # fmt: skip
    found = pd.DataFrame(rows)
    return found[[*first, *(name for name in found if name not in (*first, "seconds")), "seconds"]]


def table(rows: pd.DataFrame) -> str:
    """The rows as they stand in README.md."""
    heads = ["case", "params", "not zero", "size", "smaller than itself", "than AlexNet in float", "file / bound",
             "file / Huffman", "load (unpacked)", "decoders"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows.to_dict("records"):
        loaded = "-" if np.isnan(row["load_ms"]) else f"{row['load_ms']:.0f} ({row['unpacked_load_ms']:.0f}) ms"
        cells = [
            row["case"], f"{row['params'] / 1e6:.2f} M", f"{row['nonzero_params'] / 1e6:.2f} M",
            f"{row['size_bytes'] / 1e6:.3f} MB", f"{row['compression_ratio']:.1f}x", f"{row['alexnet_ratio']:.0f}x",
            f"{row['bound_ratio']:.3f}", f"{row['size_bytes'] / row['huffman_bytes']:.3f}", loaded, row["decoders"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Bars of the files' sizes, with a mark at each bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
    colours = ["tab:gray" if name == "AlexNet" else "tab:blue" for name in rows["network"]]
    axes.barh(rows["case"], rows["size_bytes"] / 1e6, color=colours)
    axes.plot(rows["bound_bytes"] / 1e6, rows["case"], "k|", markersize=12, label="entropy bound")
    axes.bar_label(axes.containers[0], [f"{ratio:.0f}x" for ratio in rows["alexnet_ratio"]], padding=3)
    axes.set(xscale="log", xlabel="MB; the numbers say how much smaller than AlexNet in float", xlim=(0.2, 900))
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
